"""First Betti numbers of distance matrices: NumPy in this process, or Numba in one of its own where that pays.

This process never loads Numba: the worker's memory, which is larger than the rest of the program's, comes back
when it exits. NumPy gives the same numbers, so a worker that fails costs time, not the run.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ondevice.betti_numba import numpy_path
from ondevice.betti_numba.geometry import checked

# What a worker has to save before it is worth its start, in k·n³ of NumPy's inner loop: loading Numba takes 2 s and
# 160 MiB, and at n = 32 NumPy is done with all layers of a network in a hundredth of that (docs/decisions.md).
_WORTH_A_WORKER = 10**9
# The first run compiles the kernels: seconds here, up to minutes on a slow board.
_WORKER_TIMEOUT_S = 600


@dataclass(frozen=True)
class Topology:
    """First Betti numbers and how they were found.

    Attributes:
        b1: int64 [k], one per distance matrix.
        engine: what computed it.
        seconds: time in the formula alone, without starting or compiling anything.
        worker_peak_bytes: peak resident memory of the worker process; None for NumPy or where /proc is missing.
        note: why NumPy had to do it; empty for Numba.
    """

    b1: NDArray[np.int64]
    engine: Literal["numba", "numpy"]
    seconds: float
    worker_peak_bytes: int | None
    note: str


class _WorkerError(Exception):
    """The worker gave no result. The message becomes ``Topology.note``."""


def first_betti(d2: NDArray[np.float64], cache_dir: Path) -> Topology:
    """First Betti number of the full Vietoris–Rips persistence of n points, for k matrices of their distances.

    Args:
        d2: float64 [k, n, n], squared distances: symmetric, zero diagonal, none below 0.
        cache_dir: where compiled kernels are kept, under ``numba/``; made if it is missing.

    Raises:
        InputError: wrong dtype or shape; NaN, infinity or no distances, naming the matrix.
    """
    d2 = checked(d2)
    k, n, _ = d2.shape
    if k * n**3 < _WORTH_A_WORKER:
        return _in_this_process(d2, f"{k} matrices of {n} points take less than a worker's start")
    try:
        return _in_worker(d2, cache_dir / "numba")
    except _WorkerError as error:
        return _in_this_process(d2, f"{error}: computed with NumPy instead")


def _in_this_process(d2: NDArray[np.float64], why: str) -> Topology:
    start = time.perf_counter()
    b1 = numpy_path.betti_numbers(d2)
    return Topology(b1, "numpy", time.perf_counter() - start, None, why)


def _in_worker(d2: NDArray[np.float64], compiled: Path) -> Topology:
    """Run ``python -m ondevice.betti_numba``; _WorkerError whatever goes wrong."""
    if importlib.util.find_spec("numba") is None:
        raise _WorkerError("Numba is not installed")
    try:
        compiled.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="betti-") as folder:
            distances, answer = Path(folder, "distances.npy"), Path(folder, "b1.npy")
            np.save(distances, d2)
            worker = subprocess.run(
                [sys.executable, "-m", "ondevice.betti_numba", distances, answer],
                cwd=folder,  # `-m` searches the working directory first: let it be one that we know
                env=_worker_environment(compiled),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_WORKER_TIMEOUT_S,
            )
            if worker.returncode:
                raise _WorkerError(f"The Numba worker {_ending(worker.returncode)}{_last_line(worker.stderr)}")
            said = json.loads(worker.stdout)
            b1 = np.load(answer, allow_pickle=False)
            seconds, peak_bytes = float(said["seconds"]), said["peak_bytes"]
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _WorkerError(f"The Numba worker did not run: {error}") from error
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise _WorkerError(f"The Numba worker's answer cannot be read: {error!r}") from error
    if b1.dtype != np.int64 or b1.shape != d2.shape[:1]:
        raise _WorkerError(f"The Numba worker returned {b1.dtype} {b1.shape}, expected int64 {d2.shape[:1]}")
    return Topology(b1, "numba", seconds, peak_bytes, note="")


def _worker_environment(compiled: Path) -> dict[str, str]:
    """This process's environment, with its own module search path, so that both find the same packages."""
    search = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    return {**os.environ, "NUMBA_CACHE_DIR": str(compiled.absolute()), "PYTHONPATH": search}


def _ending(returncode: int) -> str:
    return f"was killed by signal {-returncode}" if returncode < 0 else f"ended with exit code {returncode}"


def _last_line(stderr: str) -> str:
    lines = stderr.strip().splitlines()
    return f" ({lines[-1]})" if lines else ""
