"""Decide how to probe a network in little memory: which segments, one after the other, and how much of each at a time.

Segments are cut where the time is least: of arithmetic, of what crosses by file, of loading and calling models.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from ondevice.probe_parts import Part
from signatures.cut import MACS_PER_BYTE
from signatures.errors import BudgetError
from signatures.graph import Graph, Op, Tensor
from signatures.layers import op_macs
from signatures.segments import Stretch, stretch

_LOAD_MACS = 100_000_000
"""Multiply-adds that take as long as writing, loading and preparing a model, its weights apart."""
_RUN_MACS = 2_000_000
"""Multiply-adds that take as long as calling a model once."""
_VALUE_MACS = 32
"""Multiply-adds that take as long as making one value: most of what a depthwise convolution takes."""
_SLACKS = (1.0, 1.4, 2.0, 3.0)
"""By how much the quick estimate may be too low; tried in turn, until what is predicted then hardly slows the plan."""
_GOOD_ENOUGH = 1.2
"""A plan that takes no more of the time that was hoped for ends the search."""
_SLOW = 2.5
"""A plan that takes so many times the network's arithmetic is worth a longer search for a better one."""
_WORST = 2.5
"""A segment that takes so many times its arithmetic is not made longer."""


@dataclass(frozen=True, eq=False)
class ProbePlan:
    """How a network is probed."""

    parts: tuple[Part, ...]
    peak_bytes: int
    """Predicted, of the whole process."""


def plan_probe(
    network: Graph, probed: Sequence[Tensor], batch: int, batches: int, base_bytes: int, budget_bytes: int, runtime: str
) -> ProbePlan:
    """The plan that takes the least time in a process of at most `budget_bytes`, of which `base_bytes` are in use.

    `runtime`: distribution and version of the interpreter. Raises BudgetError if nothing fits; it says what would.
    """
    planner = _Planner(stretch(network, probed), batch, batches, budget_bytes - base_bytes, runtime)
    found: list[tuple[float, tuple[Part, ...]]] = []
    for places in (planner.valleys(), planner.stretch.places):
        for slack in _SLACKS:
            hoped = planner.cheapest(places, slack)
            if hoped and (parts := planner.fitting(hoped)):
                found.append((planner.macs(parts), parts))
                if found[-1][0] < _GOOD_ENOUGH * planner.macs(hoped):
                    break
        if found and min(macs for macs, _ in found) < _SLOW * sum(planner.work.values()):
            break
    finest = planner.finest()
    if not found and (parts := planner.fitting(finest)):
        found.append((0.0, parts))
    if found:
        _, parts = min(found, key=lambda plan: plan[0])
        return ProbePlan(parts, base_bytes + max(part.peak_bytes(runtime) for part in parts))
    least = base_bytes + max(part.options()[-1].peak_bytes(runtime) for part in finest)
    raise BudgetError(
        f"the budget is {_mib(budget_bytes)} MiB, and probing with batches of {batch} takes {_mib(least)} MiB even in "
        f"the smallest pieces, {_mib(base_bytes)} MiB of them in use before it starts: give --budget-mib {_mib(least)}",
        least,
    )


def _mib(n_bytes: int) -> int:
    return -(-n_bytes // 2**20)


@dataclass(frozen=True, eq=False)
class _Planner:
    stretch: Stretch
    batch: int
    batches: int
    free_bytes: int
    runtime: str

    @cached_property
    def work(self) -> Mapping[Op, int]:
        """Of each op for one image, in multiply-adds; making a value takes time too."""
        return {op: op_macs(op) + _VALUE_MACS * op.outputs[0].size for op in self.stretch.graph.ops}

    def cheapest(self, places: Sequence[int], slack: float) -> list[Part]:
        """Parts that take the least time, cut at some of `places`, by the quick estimates; none where nothing fits."""
        best: dict[int, tuple[float, list[Part]]] = {0: (0.0, [])}
        for k, first in enumerate(places[:-1]):
            if first not in best:
                continue
            spent, before = best[first]
            for end in self._ends(first, places[k + 1 :], slack):
                part = self._largest(self._whole(first, end), slack)
                if part is None:
                    break
                macs, promising = self._macs(part)
                if end not in best or spent + macs < best[end][0]:
                    best[end] = spent + macs, [*before, part]
                if not promising:
                    break
        return best[places[-1]][1] if places[-1] in best else []

    def _ends(self, first: int, places: Sequence[int], slack: float) -> Iterator[int]:
        """Places worth trying as a segment's end; where it fits whole, only those that no later one is better than."""

        def is_too_large(end: int) -> bool:
            return slack * self._whole(first, end).estimate_bytes() > self.free_bytes

        fitting = bisect(places, False, key=is_too_large)
        for i, end in enumerate(places[:fitting]):
            crossing = self.stretch.crossing_bytes(end)
            if all(self.stretch.crossing_bytes(later) > crossing for later in places[i + 1 : fitting]):
                yield end
        yield from places[fitting:]

    def macs(self, parts: Sequence[Part]) -> float:
        """Multiply-adds that take as long as `parts` do for one image."""
        return sum(self._macs(part)[0] for part in parts)

    def finest(self) -> list[Part]:
        """The network parted wherever it can be."""
        places = self.stretch.places
        return [self._whole(first, end) for first, end in pairwise(places)]

    def fitting(self, parts: Sequence[Part]) -> tuple[Part, ...]:
        """The same parts, as much at a time as fits by prediction; none where one does not fit."""
        result = []
        for part in parts:
            options = part.options()
            k = options.index(part)
            while (needed := options[k].peak_bytes(self.runtime)) > self.free_bytes:
                if k == len(options) - 1:
                    return ()
                # What is predicted falls about as the part of the work does.
                goal = options[k].share * self.free_bytes / needed
                k = next((i for i in range(k + 1, len(options)) if options[i].share <= goal), len(options) - 1)
            result.append(options[k])
        return tuple(result)

    def valleys(self) -> list[int]:
        """Places where no more crosses than at the places next to them."""
        places = self.stretch.places
        sizes = [self.stretch.crossing_bytes(place) for place in places]
        return [
            place
            for i, place in enumerate(places)
            if i in (0, len(places) - 1)
            or (sizes[i] <= sizes[i - 1] and (sizes[i] <= sizes[i + 1] or i + 1 == len(places) - 1))
        ]

    def _whole(self, first: int, end: int) -> Part:
        return Part(self.stretch.segment(first, end), self.batch, self.batch, None)

    def _largest(self, whole: Part, slack: float) -> Part | None:
        """The first option that fits by the quick estimate."""
        if slack * whole.estimate_bytes() <= self.free_bytes:
            return whole
        options = whole.options()
        k = bisect(options, False, key=lambda part: slack * part.estimate_bytes() <= self.free_bytes)
        return options[k] if k < len(options) else None

    def _macs(self, part: Part) -> tuple[float, bool]:
        """Multiply-adds that take as long as `part` does for one image, and whether a longer one may be worth a try."""
        graph, needed, n_bytes = part.segment.graph, part.needed_bytes, self.stretch.n_bytes
        again = sum(len(members) for members in part.sets) / self.batch * part.count
        useful = sum(self.work[op] for op in graph.ops)
        computed = again * sum(self.work[op] * needed[op.outputs[0]] / n_bytes[op.outputs[0]] for op in graph.ops)
        read = again * sum(needed[t] / (4 if t in self.stretch.graph.inputs else 1) for t in graph.inputs)
        made = sum(n_bytes[t] for t in graph.outputs)
        loads = (_LOAD_MACS + part.segment.weight_bytes * MACS_PER_BYTE) * min(part.count, 3)
        calls = _RUN_MACS * part.runs / self.batch
        macs = computed + (read + made) * MACS_PER_BYTE + calls + loads / (self.batch * self.batches)
        return macs, computed < _WORST * useful
