"""b1 of distance matrices by the best that this machine has, within a memory budget; Betti curves for inspection.

In this order: the library compiled ahead of time, in this process; NumPy, where that is quicker than starting Numba;
a child process that loads Numba, builds the library for the next time where there is a C compiler, and gives all its
memory back when it ends; NumPy. All give the same numbers. This process never loads Numba.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ondevice.betti_numba import child, numpy_path
from ondevice.betti_numba.curves import BettiCurves
from ondevice.betti_numba.geometry import checked
from ondevice.betti_numba.library import build_id, cache_folder, is_intact, is_ours_alone, library_path, load
from ondevice.betti_numba.native import Native
from ondevice.meter import read_resident
from signatures.durable import remove_left_over
from signatures.errors import CapabilityError

# What a child has to save before it is worth its start, in k·n³ of NumPy's inner loop: loading Numba takes 2 s and
# 160 MiB, and at n = 32 NumPy is done with all layers of a network in a hundredth of that (docs/decisions.md).
_WORTH_A_CHILD = 10**9


@dataclass(frozen=True)
class Topology:
    """First Betti numbers and how they were found.

    Attributes:
        b1: int64 [k], one per distance matrix.
        engine: what computed it: the library compiled ahead of time, Numba in a child process, or NumPy.
        seconds: time in the formula alone, without starting, loading or compiling anything.
        worker_peak_bytes: peak resident memory of the child process; None if there was none or where /proc is missing.
        note: why this engine; empty for the library.
    """

    b1: NDArray[np.int64]
    engine: Literal["aot", "numba", "numpy"]
    seconds: float
    worker_peak_bytes: int | None
    note: str


def first_betti(d2: NDArray[np.float64], cache_dir: Path, budget_bytes: int | None = None) -> Topology:
    """First Betti number of the full Vietoris–Rips persistence of n points, for k matrices of their distances.

    Args:
        d2: float64 [k, n, n], squared distances: symmetric, zero diagonal, none below 0.
        cache_dir: where the compiled library is kept, under ``betti/``; made if a child process runs.
        budget_bytes: what this process, as it is now, and a child may take together; None: as much as they need.

    Raises:
        InputError: wrong dtype or shape; NaN, infinity or no distances, naming the matrix.
    """
    d2 = checked(d2)
    k, n, _ = d2.shape
    folder, build = cache_folder(cache_dir), build_id()
    remove_left_over(folder)
    native, why = _library(folder, build)
    if native is not None:
        b1, seconds = _timed(native.betti_numbers, d2)
        return Topology(b1, "aot", seconds, None, "")
    if k * n**3 < _WORTH_A_CHILD:
        why = f"{why}; {k} matrices of {n} points take less than starting Numba"
    elif importlib.util.find_spec("numba") is None:  # it is looked for, not loaded
        why = f"{why}; Numba is not installed"
    else:
        why = _over_budget(child.expected_bytes(folder, build, d2.nbytes), budget_bytes)
        if not why:
            try:
                answer = child.compute(d2, folder)
            except child.ChildError as error:
                why = f"{error}: computed with NumPy instead"
            else:
                return Topology(answer.b1, answer.engine, answer.seconds, answer.peak_bytes, answer.note)
    b1, seconds = _timed(numpy_path.betti_numbers, d2)
    return Topology(b1, "numpy", seconds, None, why)


def betti_curves(d2: NDArray[np.float64], cache_dir: Path) -> tuple[BettiCurves, ...]:
    """Betti curves of each of k clouds: by the library if there is one, else by NumPy (5 ms a matrix at n = 32).

    Args:
        d2: float64 [k, n, n] as for `first_betti`: squared; the curves are in distances.
        cache_dir: as for `first_betti`.

    Raises:
        InputError: as `first_betti`.
    """
    native, _ = _library(cache_folder(cache_dir), build_id())
    curves = numpy_path.curves if native is None else native.curves
    return tuple(curves(matrix) for matrix in checked(d2))


def _library(folder: Path, build: str) -> tuple[Native | None, str]:
    """The library, or why there is none."""
    library = library_path(folder, build)
    if library.exists() and not is_ours_alone(library):
        return None, f"{library} could have been written by others"
    if not is_intact(library):
        return None, f"there is no intact {library}"
    try:
        return load(library), ""
    except CapabilityError as error:
        return None, str(error)


def _over_budget(child_bytes: int, budget_bytes: int | None) -> str:
    """Why a child may not run; empty if it may."""
    own_bytes = read_resident().resident_bytes
    if budget_bytes is None or own_bytes + child_bytes <= budget_bytes:
        return ""
    child_mib, own_mib, budget_mib = (size / (1 << 20) for size in (child_bytes, own_bytes, budget_bytes))
    return f"Numba would take {child_mib:.0f} MiB beside {own_mib:.0f} of this process; the budget is {budget_mib:.0f}"


def _timed(
    betti_numbers: Callable[[NDArray[np.float64]], NDArray[np.int64]], d2: NDArray[np.float64]
) -> tuple[NDArray[np.int64], float]:
    start = time.perf_counter()
    b1 = betti_numbers(d2)
    return b1, time.perf_counter() - start
