"""Rank layers by b1 per activation element, and pick the best fraction ρ (arXiv 2510.03101, section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from signatures.errors import InputError, UsageError
from signatures.layers import Layer

CRITERIA = ("betti", "head")
"""betti: the layers with the largest b1/|a| and the head; head: the head alone, the baseline."""

Fits = Callable[[Sequence[str]], bool]
"""Whether the named layers, and the head with them, can train within the budget."""


@dataclass(frozen=True)
class Ranked:
    """One row of the selection table."""

    layer: str
    b1: float | None
    """First Betti number of the layer's activations, mean over the probed batches; None where not probed."""
    b1_by_batch: tuple[int, ...]
    activation_size: int
    score: float | None
    """b1 / activation_size."""
    picked: bool
    obstacle: str | None = None
    """Why the layer cannot train; None if it can."""
    over_budget: bool = False
    """Whether the layer would have been picked, had it fitted the budget together with better ones."""


@dataclass(frozen=True)
class Selection:
    """The table in model order, and the names of the layers that train."""

    criterion: str
    rho: float
    table: tuple[Ranked, ...]

    @property
    def obstacles(self) -> dict[str, str]:
        """Layers that cannot train, with the reason."""
        return {row.layer: row.obstacle for row in self.table if row.obstacle is not None}

    @property
    def picked(self) -> tuple[str, ...]:
        """Layers that train, in model order; the head is the last."""
        return tuple(row.layer for row in self.table if row.picked)


def check_rho(rho: float) -> float:
    """ρ itself. UsageError outside (0, 1]."""
    if not 0.0 < rho <= 1.0:
        raise UsageError(f"--rho must be greater than 0 and at most 1, got {rho:g}")
    return rho


def pick_count(rho: float, layers: int) -> int:
    """⌊ρ · layers⌋, at least 1; robust against ρ · layers falling just short of a whole number."""
    return max(1, math.floor(rho * layers + 1e-9))


def select(
    layers: Sequence[Layer],
    head: Layer,
    b1: NDArray[np.int64] | None,
    criterion: str,
    rho: float,
    obstacles: Mapping[str, str] = MappingProxyType({}),
    fits: Fits = lambda names: True,
) -> Selection:
    """Pick layers.

    b1: int64 [batches, layers without the head], in model order, or None where the criterion does not need it. The
    head always trains and does not compete; ρ counts all layers. Ties keep model order. `obstacles` says by name which
    layers cannot train, and why: they are ranked, but not picked. InputError if the head is one of them.
    """
    if head.name in obstacles:
        raise InputError(f"the head cannot train: {obstacles[head.name]}")
    body = [layer for layer in layers if layer is not head]
    scores: dict[str, float] = {}
    counts: dict[str, tuple[int, ...]] = {}
    if b1 is not None:
        for layer, column in zip(body, b1.T, strict=True):
            counts[layer.name] = tuple(int(value) for value in column)
            scores[layer.name] = float(column.mean()) / layer.activation_size
    best: list[str] = []
    over: list[str] = []
    if criterion == "betti":
        able = [layer for layer in body if layer.name not in obstacles]
        order = sorted(able, key=lambda layer: -scores[layer.name])  # stable: ties keep model order
        best, over = _fitting([layer.name for layer in order], pick_count(rho, len(layers)), fits)
    elif criterion != "head":
        raise UsageError(f"criterion {criterion!r} is not known ({', '.join(CRITERIA)})")
    table = tuple(
        Ranked(
            layer=layer.name,
            b1=float(np.mean(counts[layer.name])) if layer.name in counts else None,
            b1_by_batch=counts.get(layer.name, ()),
            activation_size=layer.activation_size,
            score=scores.get(layer.name),
            picked=layer is head or layer.name in best,
            obstacle=obstacles.get(layer.name),
            over_budget=layer.name in over,
        )
        for layer in layers
    )
    return Selection(criterion, rho, table)


def _fitting(order: Sequence[str], count: int, fits: Fits) -> tuple[list[str], list[str]]:
    """The first `count` of `order` that fit together, and those that were passed over on the way."""
    if fits(order[:count]):  # nearly always
        return list(order[:count]), []
    best: list[str] = []
    over: list[str] = []
    for name in order:
        if len(best) == count:
            break
        (best if fits([*best, name]) else over).append(name)
    return best, over


def obstacle_note(layers: Sequence[str], obstacles: Mapping[str, str]) -> str:
    """What a person needs to know of layers that cannot train; empty if all can."""
    if not obstacles:
        return ""
    able = [name for name in layers if name not in obstacles]
    reasons = "; ".join(dict.fromkeys(obstacles.values()))
    deepest = f"the deepest that train are {len(able)}, from {able[0]} on" if able else "none trains"
    return f"{len(obstacles)} of {len(layers)} layers cannot train ({reasons}); {deepest}"
