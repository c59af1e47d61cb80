"""What test answers say: intervals of accuracies, which classes are confused, and whether two runs differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from ondevice.evaluate import Evaluation
from profiling.report.reading import FinishedRun


@dataclass(frozen=True)
class Share:
    """So many of so many, with the 95 % interval of Wilson's score test (Wilson 1927)."""

    count: int
    of: int

    @property
    def value(self) -> float:
        """In 0..1."""
        return self.count / self.of

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the interval in 0..1."""
        found = binomtest(self.count, self.of).proportion_ci(0.95, method="wilson")
        return float(found.low), float(found.high)


@dataclass(frozen=True)
class Confusion:
    """Images of one class that were answered by another."""

    label: int
    answer: int
    share: Share
    """Of the test images of the class."""


@dataclass(frozen=True)
class Paired:
    """Two series of answers to the same test images."""

    both: int
    """Images that both answer right."""
    only_first: int
    only_second: int
    neither: int

    @classmethod
    def of(cls, labels: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64]) -> Paired:
        """Compare answers [images] image by image."""
        one, two = first == labels, second == labels
        counts = (one & two, one & ~two, ~one & two, ~(one | two))
        return cls(*(int(np.count_nonzero(count)) for count in counts))

    @property
    def p_value(self) -> float:
        """Of McNemar's exact test: how likely a split at least as uneven is where both are equally good."""
        differing = self.only_first + self.only_second
        return float(binomtest(self.only_first, differing).pvalue) if differing else 1.0


def accuracy(evaluation: Evaluation) -> Share:
    """Test images answered right."""
    return Share(round(evaluation.accuracy * evaluation.images), evaluation.images)


def confusion_matrix(run: FinishedRun) -> NDArray[np.int64]:
    """Test images by their class and the answer of the adapted network, int64 [classes, classes]."""
    size = len(run.report.classes)
    return np.bincount(run.labels * size + run.answers, minlength=size * size).reshape(size, size)


def confused(matrix: NDArray[np.int64]) -> list[Confusion]:
    """Pairs of classes that were confused at all, most images first, then the larger share of the class."""
    totals = matrix.sum(axis=1)
    pairs = [
        Confusion(label, answer, Share(int(matrix[label, answer]), int(totals[label])))
        for label, answer in np.argwhere(matrix).tolist()
        if label != answer
    ]
    return sorted(pairs, key=lambda pair: (-pair.share.count, -pair.share.value))


def by_class(matrix: NDArray[np.int64]) -> list[Share | None]:
    """Accuracy on the test images of each class; None where there are none."""
    return [Share(int(row[i]), int(row.sum())) if row.any() else None for i, row in enumerate(matrix)]


def same_images(first: FinishedRun, second: FinishedRun) -> bool:
    """Whether answers of both are known, and to the same test images."""
    same = first.report.dataset_fingerprint == second.report.dataset_fingerprint
    return same and first.knows_answers and first.report.test_labels == second.report.test_labels
