"""Arenas: where the runtimes' memory planners put values of known lifetimes, hence how many bytes a graph takes.

Both planners place values one at a time, largest first, into the smallest gap that is large enough among those that
live at the same time. Sources: tensorflow/lite/simple_memory_arena.cc (Allocate), tensorflow/lite/arena_planner.cc
(CreateTensorAllocationVector), XNNPACK src/memory-planner.c (find_value_alloc_offset).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from signatures.graph import Tensor

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
    tensors: tuple[Tensor, ...] = ()
    """What the bytes hold, one after the other; nothing of the graph where a kernel needs them for itself."""


def arena_bytes(values: Sequence[Lifetime], gap_at_start: bool) -> int:
    """Bytes of the arena that holds `values`. XNNPACK's planner of 2023 does not use a gap before the first block."""
    ends = places(values, gap_at_start) + np.array([_aligned(value) for value in values], np.int64)
    return int(ends.max(initial=0))


def places(values: Sequence[Lifetime], gap_at_start: bool) -> NDArray[np.int64]:
    """Where each of `values` starts, in bytes from the start of their arena: int64 [values]."""
    order = [i for i, value in enumerate(values) if value.n_bytes]
    order.sort(key=lambda i: (not values[i].pinned, 0 if values[i].pinned else -values[i].n_bytes, values[i].first))
    wanted = [values[i] for i in order]
    size = np.array([_aligned(v) for v in wanted], np.int64)
    first = np.array([v.first for v in wanted], np.int64)
    last = np.array([v.last for v in wanted], np.int64)
    start = np.zeros(len(wanted), np.int64)
    end = np.zeros(len(wanted), np.int64)
    for i in range(len(wanted)):
        beside = np.flatnonzero((first[:i] <= last[i]) & (last[:i] >= first[i]))
        start[i] = _place(start[beside], end[beside], int(size[i]), gap_at_start)
        end[i] = start[i] + size[i]
    found = np.zeros(len(values), np.int64)
    found[order] = start
    return found


def _aligned(value: Lifetime) -> int:
    return -(-value.n_bytes // ALIGNMENT) * ALIGNMENT


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


def sharing(made: Iterable[Tensor], home: Mapping[Tensor, Tensor]) -> dict[Tensor, tuple[Tensor, ...]]:
    """By each of `made`, which have bytes of their own: the tensor and those that `home` says lie in its bytes."""
    held = {tensor: [tensor] for tensor in made}
    for tensor, owner in home.items():
        if tensor is not owner and owner in held:
            held[owner].append(tensor)
    return {tensor: tuple(tensors) for tensor, tensors in held.items()}


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
