"""The child process that loads Numba, and the memory it takes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from signatures.durable import partial_suffix, replacing
from signatures.errors import INTERRUPTED, InputError
from signatures.files import read_json

# Compiling takes seconds here, up to minutes on a slow board.
_TIMEOUT_S = 600
# Loading Numba, compiling the kernels and taking out their code peaked at 183 to 189 MiB (Numba 0.68, x86-64, Python
# 3.11; docs/decisions.md), loading compiled ones from Numba's cache at 162.
_EXPECTED_PEAK_BYTES = 208 << 20
# The C compiler's driver and the linker, beside the child that waits for them: 14 MiB for gcc and GNU ld; others are
# larger.
_LINKER_BYTES = 32 << 20

Engine = Literal["aot", "numba"]


class ChildError(Exception):
    """The child gave no result. The message becomes ``Topology.note``."""


@dataclass(frozen=True)
class Answer:
    """What a child found and took.

    Attributes:
        b1: int64 [k].
        engine: the library, which it built, or the kernels that Numba compiled in it.
        seconds: time in the kernels alone.
        peak_bytes: the child's peak resident memory; None where /proc is missing.
        note: why it built no library; empty if it did.
    """

    b1: NDArray[np.int64]
    engine: Engine
    seconds: float
    peak_bytes: int | None
    note: str


def expected_bytes(folder: Path, build: str, d2_bytes: int) -> int:
    """What a child for this many bytes of distances will take at most, with the linker that it may start.

    Its peak is the largest of those measured for this build on this machine, else an estimate.
    """
    return (_measured(folder, build) or _EXPECTED_PEAK_BYTES) + _LINKER_BYTES + 2 * d2_bytes  # mapped, and checked


def record_peak(folder: Path, build: str, peak_bytes: int | None) -> None:
    """Keep what a child took for `expected_bytes`; where that cannot be written, the estimate stays."""
    if peak_bytes is None or peak_bytes <= (_measured(folder, build) or 0):
        return
    try:
        with replacing(_record_path(folder, build), durable=False) as file:
            file.write(json.dumps({"peak_bytes": peak_bytes}).encode())
    except OSError:
        return


def _measured(folder: Path, build: str) -> int | None:
    try:
        measured = read_json(_record_path(folder, build))["peak_bytes"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, InputError):
        return None
    is_size = isinstance(measured, int) and 1 << 20 <= measured < 1 << 40  # not a bool, nor what a bad disk made of it
    return measured if is_size else None


def compute(d2: NDArray[np.float64], folder: Path) -> Answer:
    """Have ``python -m ondevice.betti_numba compute`` build the library in `folder` where it can, and compute b1.

    Raises:
        ChildError: whatever goes wrong.
        KeyboardInterrupt: if that is what ended the child.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="child", suffix=partial_suffix(), dir=folder) as scratch:
            distances, answer = Path(scratch, "distances.npy").absolute(), Path(scratch, "b1.npy").absolute()
            np.save(distances, d2)
            done = subprocess.run(
                [sys.executable, "-m", __package__, "compute", distances, answer, "--cache", folder.parent.absolute()],
                cwd=scratch,  # `-m` searches the working directory first: let it be one that we know
                env=_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_S,
            )
            if done.returncode in (-signal.SIGINT, -signal.SIGTERM, INTERRUPTED):
                raise KeyboardInterrupt  # what ends us often goes to all processes of a terminal or a service
            if done.returncode:
                raise ChildError(f"The Numba process {_ending(done.returncode)}{_last_line(done.stderr)}")
            return _parsed(json.loads(done.stdout), np.load(answer, allow_pickle=False), len(d2))
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ChildError(f"The Numba process did not run: {error}") from error
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise ChildError(f"The Numba process's answer cannot be read: {error!r}") from error


def _parsed(said: Any, b1: NDArray[Any], k: int) -> Answer:
    if b1.dtype != np.int64 or b1.shape != (k,):
        raise ChildError(f"The Numba process returned {b1.dtype} {b1.shape}, expected int64 {(k,)}")
    if said["engine"] not in get_args(Engine):
        raise ValueError(said["engine"])
    peak_bytes = None if said["peak_bytes"] is None else int(said["peak_bytes"])
    return Answer(b1, said["engine"], float(said["seconds"]), peak_bytes, str(said["note"]))


def _record_path(folder: Path, build: str) -> Path:
    return folder / f"child-{build}.json"


def _environment() -> dict[str, str]:
    """This process's environment, with its own module search path, so that both find the same packages."""
    search = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    return {**os.environ, "PYTHONPATH": search}


def _ending(returncode: int) -> str:
    return f"was killed by signal {-returncode}" if returncode < 0 else f"ended with exit code {returncode}"


def _last_line(stderr: str) -> str:
    lines = stderr.strip().splitlines()
    return f" ({lines[-1]})" if lines else ""
