"""The worker process: ``python -m ondevice.betti_numba DISTANCES.npy B1.npy``, the only process that loads Numba.

It reads a stack of matrices of squared distances (float64 [k, n, n]), writes their first Betti numbers (int64 [k])
and prints one JSON object: ``seconds`` in the kernel alone, and ``peak_bytes``, the peak resident memory of this
process (null where the kernel does not tell). Exit codes are those of ``signatures.errors``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ondevice.betti_numba.geometry import checked
from signatures.errors import AdabetError, CapabilityError, InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the worker on ``argv`` and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ondevice.betti_numba", description="b1 of distance matrices.")
    parser.add_argument("distances", type=Path, help=".npy, float64 [k, n, n], squared")
    parser.add_argument("b1", type=Path, help=".npy to write, int64 [k]")
    arguments = parser.parse_args(argv)
    try:
        d2 = checked(_read(arguments.distances))
        betti_numbers = _load_kernels()
        start = time.perf_counter()
        b1 = betti_numbers(d2)
        seconds = time.perf_counter() - start
        _write(arguments.b1, b1)
    except AdabetError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps({"peak_bytes": _peak_bytes(), "seconds": seconds}))
    return 0


def _read(path: Path) -> NDArray[Any]:
    try:
        # Mapped, so that a header which promises more than the file holds is refused, not allocated.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy's header parser lets half a dozen kinds through
        raise InputError(f"{path}: not a readable .npy file: {error}") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: expected one array, got an .npz archive")
    return array


def _load_kernels() -> Callable[[NDArray[np.float64]], NDArray[np.int64]]:
    try:
        from ondevice.betti_numba.kernels import betti_numbers
    except (ImportError, RuntimeError) as error:  # RuntimeError: Numba found no place to cache what it compiles
        raise CapabilityError(f"Numba does not run here: {error}. pip install numba, or use NumPy") from error
    return betti_numbers


def _write(path: Path, b1: NDArray[np.int64]) -> None:
    try:
        with path.open("wb") as file:
            np.save(file, b1)
    except OSError as error:
        raise CapabilityError(f"{path}: cannot be written: {error}") from error


def _peak_bytes() -> int | None:
    """VmHWM of this process: unlike ru_maxrss it does not start from the parent's peak."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    lines = (line.split() for line in status.splitlines())
    return next((int(fields[1]) * 1024 for fields in lines if fields[:1] == ["VmHWM:"]), None)


if __name__ == "__main__":
    sys.exit(main())
