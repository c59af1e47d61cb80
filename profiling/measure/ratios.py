"""The ratio of two measured samples, with an interval, and what may be said of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from profiling.measure.metrics import Better

LEVEL = 0.99
"""Of the interval: in one comparison of a hundred the true ratio lies outside."""
RESAMPLES = 10_000
SEED = 0
TOO_FEW: Literal["too few to tell"] = "too few to tell"
Verdict = Literal["regression", "improvement", "the same", "unclear", "too few to tell", ""]


@dataclass(frozen=True)
class Ratio:
    """After ÷ before."""

    value: float
    low: float
    high: float
    """The interval of confidence `LEVEL`."""


def paired_ratio(before: Sequence[float], after: Sequence[float]) -> Ratio:
    """The median of the ratios of values that belong together: what disturbs the machine for a while disturbs both.

    Values are larger than 0. The interval is that of the percentile bootstrap (Efron and Tibshirani 1993, chapter 13).
    """
    ratios = np.array(after) / np.array(before)
    drawn = np.random.default_rng(SEED).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    return _ratio(float(np.median(ratios)), np.median(ratios[drawn], axis=1))


def ratio_of_medians(before: Sequence[float], after: Sequence[float]) -> Ratio:
    """The same of two samples that have nothing to do with each other; each is drawn from by itself."""
    random = np.random.default_rng(SEED)
    drawn = []
    for sample in (np.array(before), np.array(after)):
        rows = random.integers(0, len(sample), (RESAMPLES, len(sample)))
        drawn.append(np.median(sample[rows], axis=1))
    return _ratio(float(np.median(after) / np.median(before)), drawn[1] / drawn[0])


def _ratio(value: float, drawn: NDArray[np.float64]) -> Ratio:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Ratio(value, float(low), float(high))


def enough(count: int, paired: bool) -> bool:
    """Whether so many pairs, or values on each side, can tell at all.

    Where nothing changed, n pairs all lie on the same side with a chance of 2^−n, and all of n values above all of n
    others with 1 in C(2n, n): that must be less than 1 − `LEVEL`, or the clearest difference that there can be may be
    one of chance. 7 pairs are enough, and 5 values on both sides.
    """
    return (2.0**-count if paired else 1 / math.comb(2 * count, count)) < 1 - LEVEL


def least_count(paired: bool) -> int:
    """How many are enough."""
    return next(n for n in count(1) if enough(n, paired))


def verdict(ratio: Ratio, better: Better | None, threshold: float) -> Verdict:
    """What an interval says: a regression or an improvement lies beyond the threshold with all of it."""
    if better is None:
        return ""
    above, below = ratio.low > threshold, ratio.high < 1 / threshold
    if above or below:
        return "regression" if above == (better == "smaller") else "improvement"
    return "the same" if ratio.low >= 1 / threshold and ratio.high <= threshold else "unclear"
