"""Pick the best fraction ρ of the layers (arXiv 2510.03101, section 4), as far as the budgets allow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from ondevice.ranking import BIAS, NAMED, WITHOUT_RHO, Evidence, scores
from signatures.errors import InputError, UsageError
from signatures.layers import Layer

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
    """What the criterion ranks by, larger is better: b1/|a| for betti. None for the head, and where ρ is ignored."""
    picked: bool
    obstacle: str | None = None
    """Why the layer cannot train; None if it can."""
    over_budget: bool = False
    """Whether the layer would have been picked, had it fitted the budget together with better ones."""
    channels: tuple[int, ...] | None = None
    """Output channels that train, in order; None: all of them."""


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

    def noting_channels(self, channels: Mapping[str, Sequence[int]]) -> Selection:
        """The same selection, of which only some channels of some layers train."""
        rows = (replace(row, channels=tuple(channels.get(row.layer, ())) or None) for row in self.table)
        return replace(self, table=tuple(rows))


def check_rho(rho: float, option: str = "--rho") -> float:
    """ρ itself, as `option` gave it. UsageError outside (0, 1]."""
    if not 0.0 < rho <= 1.0:
        raise UsageError(f"{option} must be greater than 0 and at most 1, got {rho:g}")
    return rho


def pick_count(rho: float, layers: int) -> int:
    """⌊ρ · layers⌋, at least 1; robust against ρ · layers falling just short of a whole number."""
    return max(1, math.floor(rho * layers + 1e-9))


def select(
    layers: Sequence[Layer],
    head: Layer,
    evidence: Evidence,
    criterion: str,
    rho: float,
    seed: int = 0,
    obstacles: Mapping[str, str] = MappingProxyType({}),
    fits: Fits = lambda names: True,
    named: Sequence[str] = (),
) -> Selection:
    """Pick layers.

    `evidence` is of the layers but the head, which always trains and does not compete; ρ counts all layers. Ties keep
    model order. `seed` is that of the criterion random. `obstacles` says by name which layers cannot train, and why:
    they are ranked, but not picked. InputError if the head is one of them. `named` are the layers that train where
    `criterion` is `NAMED`; UsageError if one does not exist or cannot train.
    """
    if head.name in obstacles:
        raise InputError(f"the head cannot train: {obstacles[head.name]}")
    body = [layer for layer in layers if layer is not head]
    if criterion == BIAS:
        obstacles = {layer.name: "it has no bias" for layer in body if layer.bias_shape is None} | dict(obstacles)
    if criterion == NAMED:
        _check_named(named, layers, obstacles)
    ranked = dict(zip((layer.name for layer in body), scores(criterion, body, evidence, seed).tolist(), strict=True))
    able = [name for name in ranked if name not in obstacles and (criterion != NAMED or name in named)]
    order = sorted(able, key=lambda name: -ranked[name])  # stable
    count = pick_count(rho, len(layers)) if criterion not in WITHOUT_RHO else 0 if criterion == "head" else len(body)
    best, over = _fitting(order, count, fits)
    columns = {} if evidence.b1 is None else dict(zip(ranked, evidence.b1.T, strict=True))
    table = tuple(
        Ranked(
            layer=layer.name,
            b1=float(columns[layer.name].mean()) if layer.name in columns else None,
            b1_by_batch=tuple(columns[layer.name].tolist()) if layer.name in columns else (),
            activation_size=layer.activation_size,
            score=None if criterion in WITHOUT_RHO else ranked.get(layer.name),
            picked=layer is head or layer.name in best,
            obstacle=obstacles.get(layer.name),
            over_budget=layer.name in over,
        )
        for layer in layers
    )
    return Selection(criterion, rho, table)


def _check_named(named: Sequence[str], layers: Sequence[Layer], obstacles: Mapping[str, str]) -> None:
    """UsageError unless all of them exist and can train."""
    names = [layer.name for layer in layers]
    for name in named:
        if name not in names:
            raise UsageError(f"--layers: the network has no layer {name!r}; `python -m ondevice.inspect` lists them")
        if name in obstacles:
            raise UsageError(f"--layers: {name} cannot train: {obstacles[name]}")


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
