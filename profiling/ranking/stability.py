"""How stable rankings of layers are: Kendall's τ between their scores, and what their picks share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
"""Of all layers that compete, in model order: float64 [layers], larger is better."""
_Compared = TypeVar("_Compared")


@dataclass(frozen=True)
class Spread:
    """Mean, smallest and largest of a few values; None where nothing could be compared."""

    mean: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        return "–" if self.mean is None else f"{self.mean:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Agreement:
    """How far rankings agree, over pairs of them."""

    tau: Spread
    """Kendall's τ_b of the scores: 1 the same order, 0 none in common, −1 reversed."""
    shared: Spread
    """|A ∩ B| / k of the picks: the part that both have."""
    jaccard: Spread
    """|A ∩ B| / |A ∪ B| of the picks."""


def kendall_tau(first: Scores, second: Scores) -> float:
    """Kendall's τ_b, which allows for ties; NaN where one of the two ties everything."""
    from scipy.stats import kendalltau

    return float(kendalltau(first, second).statistic)


def best(scores: Scores, able: Sequence[bool], count: int) -> frozenset[int]:
    """Indices of the `count` best layers that can train, as `ondevice.selection.select` picks: ties in model order."""
    order = sorted((i for i, can in enumerate(able) if can), key=lambda i: -scores[i])
    return frozenset(order[:count])


def shared(first: frozenset[int], second: frozenset[int]) -> float:
    """|A ∩ B| / k of two sets of the same size; NaN where they are empty."""
    return len(first & second) / len(first) if first else math.nan


def jaccard(first: frozenset[int], second: frozenset[int]) -> float:
    """|A ∩ B| / |A ∪ B|; NaN where both are empty."""
    return len(first & second) / len(first | second) if first or second else math.nan


def between(pairs: Sequence[tuple[Scores, Scores]], able: Sequence[bool], count: int) -> Agreement:
    """Agreement of the two rankings of each pair, whose best `count` are their picks."""
    picks = [(best(a, able, count), best(b, able, count)) for a, b in pairs]
    return Agreement(_spread(kendall_tau, pairs), _spread(shared, picks), _spread(jaccard, picks))


def among(rankings: Sequence[Scores], able: Sequence[bool], count: int) -> Agreement:
    """Agreement of every two of some rankings."""
    return between(list(combinations(rankings, 2)), able, count)


def _spread(compare: Callable[[_Compared, _Compared], float], pairs: Sequence[tuple[_Compared, _Compared]]) -> Spread:
    values = [value for pair in pairs if not math.isnan(value := compare(*pair))]
    if not values:
        return Spread(None, None, None)
    return Spread(float(np.mean(values)), min(values), max(values))
