"""A dataset for the demo that a package brings along: scikit-learn's 1797 handwritten digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converter.pack import pack_arrays
from ondevice.packed import Dataset
from signatures.errors import CapabilityError

TRAIN_IMAGES = 1000
_SEED = 0
_BRIGHTEST = 16  # load_digits: 8×8 greyscale, 0 to 16


def write_digits(out: Path, image: int) -> Dataset:
    """Pack the digits at image × image pixels (bicubic) into `out`: 1000 to train, 797 to test, stratified.

    Raises CapabilityError without scikit-learn or Pillow, UsageError where `out` exists.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise CapabilityError("The digits come with scikit-learn: pip install scikit-learn.") from error

    digits = load_digits()
    images = np.rint(digits.images * (255 / _BRIGHTEST)).astype(np.uint8)
    labels = digits.target.astype(np.int32)
    train, test = stratified_split(labels, TRAIN_IMAGES, _SEED)
    classes = tuple(str(name) for name in digits.target_names)
    return pack_arrays((images[train], labels[train]), (images[test], labels[test]), classes, out, image)


def stratified_split(labels: NDArray[np.int32], first: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Split rows into `first` and the rest, each class in proportion (±1), drawn by the seed; both sorted.

    Each row gets its quantile within its class, after a shuffle; the rows of the lowest quantiles come first.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    quantile = np.empty(len(labels))
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        quantile[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    order = np.argsort(quantile, kind="stable")
    return np.sort(order[:first]), np.sort(order[first:])
