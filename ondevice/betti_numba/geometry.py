"""Gram matrices → squared distances."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from signatures.errors import InputError


def squared_distances(gram: NDArray[Any]) -> NDArray[np.float64]:
    """Squared Euclidean distances of the points behind a stack of Gram matrices.

    d²_ij = G_ii + G_jj − 2 G_ij in float64, G symmetrised first. b1 depends only on the order of the distances,
    so the square root, which could round two of them together, is never taken.

    Args:
        gram: float32 or float64 [k, n, n], k and n at least 1.

    Returns:
        float64 [k, n, n], C order, symmetric, no entry below 0, zero diagonal.

    Raises:
        InputError: wrong dtype or shape; NaN, infinity or overflow, naming the matrix.
    """
    if gram.dtype not in (np.float32, np.float64):
        raise InputError(f"Gram matrices: expected float32 or float64, got {gram.dtype}")
    if gram.ndim != 3 or gram.shape[1] != gram.shape[2] or gram.size == 0:
        raise InputError(f"Gram matrices: expected shape [k, n, n] with k, n >= 1, got {list(gram.shape)}")
    # Bad values are reported below, with the index that a NumPy warning lacks.
    with np.errstate(invalid="ignore", over="ignore"):
        wide = gram.astype(np.float64)
        symmetric = np.ascontiguousarray(wide + wide.transpose(0, 2, 1)) / 2
        squared_norms = np.einsum("kii->ki", symmetric)
        d2: NDArray[np.float64] = squared_norms[:, :, None] + squared_norms[:, None, :] - 2 * symmetric
    bad = np.flatnonzero(~np.isfinite(d2).all(axis=(1, 2)))
    if bad.size:
        raise InputError(
            f"Gram matrices {bad.tolist()} of {len(gram)}, counted from 0, hold NaN, infinity or values too large "
            "to subtract: look at the activations of those layers and at the images that went in"
        )
    np.maximum(d2, 0.0, out=d2)  # rounding can push a distance between near-duplicates below 0
    np.einsum("kii->ki", d2)[...] = 0.0
    return d2
