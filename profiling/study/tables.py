"""What the records of a study say: a cell for each network, dataset, policy and ρ, and cells compared in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from profiling.study.design import Design
from profiling.study.records import Cost, Images, Pick, Records, Training
from profiling.study.running import chosen_rates, key_of

_RESAMPLES = 2000


@dataclass(frozen=True)
class Cell:
    """One policy at one ρ, on one dataset."""

    network: str
    data: str
    policy: str
    rho: float | None
    rate: float
    """Chosen on the validation images."""
    trainings: tuple[Training, ...]
    """One a seed, in order of the design's seeds; those that were not done yet are missing."""
    layers: tuple[tuple[str, ...], ...]
    """That each seed picked, the head included."""

    @property
    def accuracy(self) -> float:
        """Mean over the seeds, in 0..1."""
        return float(np.mean([t.test_accuracy for t in self.trainings]))

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds."""
        return float(np.std([t.test_accuracy for t in self.trainings], ddof=1)) if len(self.trainings) > 1 else 0.0

    @property
    def diverged(self) -> int:
        """How many of the trainings stopped."""
        return sum(bool(t.diverged) for t in self.trainings)


@dataclass(frozen=True)
class Difference:
    """How much more often one cell is right than another, on the same images with the same seeds."""

    first: Cell
    second: Cell
    mean: float
    """Of the accuracy, in −1..1."""
    low: float
    high: float
    """95 % of resampled seeds and images."""

    @property
    def seen(self) -> int:
        """1 or −1 where the interval lies to one side of zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True, eq=False)
class Results:
    """Everything that is shown."""

    design: Design
    records: Records

    @cached_property
    def cells(self) -> list[Cell]:
        """Where a rate was chosen, in the order of the design."""
        rates = chosen_rates(self.records, self.design)
        done = {key_of(t): t for t in self.records.of(Training)}
        picks: dict[tuple[str, str, str, float | None], dict[int, Pick]] = {}
        for p in self.records.of(Pick):
            if p.seed in self.design.seeds:
                picks.setdefault((p.network, p.data, p.policy, p.rho), {})[p.seed] = p
        found = []
        for (network, data, policy, rho), by_seed in picks.items():
            if (rate := rates.get((network, data, policy, rho))) is None:
                continue
            of_seeds = [by_seed[seed] for seed in self.design.seeds if seed in by_seed]
            trainings = [done.get((network, data, p.choice, rate, p.seed)) for p in of_seeds]
            layers = tuple(p.layers for p in of_seeds)
            found.append(Cell(network, data, policy, rho, rate, tuple(t for t in trainings if t is not None), layers))
        order = {policy: i for i, policy in enumerate(self.design.policies)}
        return sorted((c for c in found if c.policy in order), key=lambda c: (order[c.policy], c.rho or 0.0))

    def cell(self, network: str, data: str, policy: str, rho: float | None) -> Cell | None:
        """The one of these, where it was measured."""
        wanted = network, data, policy, rho
        return next((c for c in self.cells if (c.network, c.data, c.policy, c.rho) == wanted), None)

    def cost(self, network: str, policy: str, rho: float | None) -> Cost | None:
        """What the first seed's pick on the first dataset takes."""
        for p in self.records.of(Pick):
            if (p.network, p.policy, p.rho, p.seed) == (network, policy, rho, self.design.seeds[0]):
                for c in self.records.of(Cost):
                    if (c.network, c.data, c.choice) == (network, p.data, p.choice):
                        return c
        return None

    def difference(self, first: Cell, second: Cell) -> Difference | None:
        """Paired by seed and image; None where the two share no seed."""
        labels = self._labels[first.network, first.data]
        by_seed = {t.seed: t for t in second.trainings}
        pairs = [(t, by_seed[t.seed]) for t in first.trainings if t.seed in by_seed]
        if not pairs:
            return None
        gains = np.array([_right(a, labels) - _right(b, labels) for a, b in pairs])
        low, high = _interval(gains)
        return Difference(first, second, float(gains.mean()), low, high)

    @cached_property
    def _labels(self) -> dict[tuple[str, str], NDArray[np.int64]]:
        return {(i.network, i.data): np.array(i.labels) for i in self.records.of(Images)}


def _right(training: Training, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each test image whether it was answered right; none where training diverged."""
    if training.diverged:
        return np.zeros(len(labels))
    return np.asarray(np.array(training.predicted) == labels, np.float64)


def _interval(gains: NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of the mean of [seeds, images], both drawn anew with replacement."""
    generator = np.random.Generator(np.random.PCG64(0))
    seeds, images = gains.shape
    means = np.empty(_RESAMPLES)
    for i in range(_RESAMPLES):
        rows = gains[generator.integers(0, seeds, seeds)].mean(axis=0)
        means[i] = rows[generator.integers(0, images, images)].mean()
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def networks_and_data(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """Those that were measured, in order."""
    return list(dict.fromkeys((c.network, c.data) for c in cells))
