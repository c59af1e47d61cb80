"""Arenas: where the runtimes' memory planners put values of known lifetimes, hence how many bytes a graph takes.

Both planners place values one at a time, largest first, into the smallest gap that is large enough among those that
live at the same time. Sources: tensorflow/lite/simple_memory_arena.cc (Allocate), tensorflow/lite/arena_planner.cc
(CreateTensorAllocationVector), XNNPACK src/memory-planner.c (find_value_alloc_offset).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ALIGNMENT = 64
"""Of every value, in bytes (kDefaultTensorAlignment, XNN_ALLOCATION_ALIGNMENT)."""


@dataclass(frozen=True)
class Lifetime:
    """A value of `n_bytes`, needed from step `first` to step `last`, both included."""

    n_bytes: int
    first: int
    last: int
    pinned: bool = False
    """Placed before all others, whatever its size."""


def arena_bytes(values: Sequence[Lifetime], gap_at_start: bool) -> int:
    """Bytes of the arena that holds `values`. XNNPACK's planner of 2023 does not use a gap before the first block."""
    wanted = [value for value in values if value.n_bytes]
    wanted.sort(key=lambda v: (not v.pinned, 0 if v.pinned else -v.n_bytes, v.first))
    size = np.array([-(-v.n_bytes // ALIGNMENT) * ALIGNMENT for v in wanted], np.int64)
    first = np.array([v.first for v in wanted], np.int64)
    last = np.array([v.last for v in wanted], np.int64)
    start = np.zeros(len(wanted), np.int64)
    end = np.zeros(len(wanted), np.int64)
    for i in range(len(wanted)):
        beside = np.flatnonzero((first[:i] <= last[i]) & (last[:i] >= first[i]))
        start[i] = _place(start[beside], end[beside], int(size[i]), gap_at_start)
        end[i] = start[i] + size[i]
    return int(end.max(initial=0))


def _place(starts: np.ndarray, ends: np.ndarray, n_bytes: int, gap_at_start: bool) -> int:
    if not len(starts):
        return 0
    order = np.argsort(starts)
    reach = np.maximum.accumulate(ends[order])
    gaps = starts[order][1:] - reach[:-1]
    places = reach[:-1]
    if gap_at_start:
        gaps, places = np.append(starts[order][0], gaps), np.append(0, places)
    fits = np.flatnonzero(gaps >= n_bytes)
    return int(places[fits[np.argmin(gaps[fits])]] if len(fits) else reach[-1])


def live_bytes(values: Sequence[Lifetime]) -> int:
    """The most bytes that are needed at one step: no arena can be smaller."""
    changes: dict[int, int] = {}
    for value in values:
        changes[value.first] = changes.get(value.first, 0) + value.n_bytes
        changes[value.last + 1] = changes.get(value.last + 1, 0) - value.n_bytes
    most = now = 0
    for step in sorted(changes):
        now += changes[step]
        most = max(most, now)
    return most
