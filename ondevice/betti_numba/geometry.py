"""Gram matrices → squared distances, and what has to hold of distances before b1 is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from signatures.errors import InputError


def squared_distances(gram: NDArray[Any]) -> NDArray[np.float64]:
    """Squared Euclidean distances of the points behind a Gram matrix, or a stack of them.

    d²_ij = G_ii + G_jj − 2 G_ij in float64, G symmetrised first. b1 depends only on the order of the distances,
    so the square root, which could round two of them together, is never taken.

    Args:
        gram: float32 or float64 [..., n, n].

    Returns:
        float64 [..., n, n], symmetric, zero diagonal; rounding can leave a distance between near-duplicates below 0.
        NaN where `gram` is not finite.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # `checked` says more than a NumPy warning
        wide = gram.astype(np.float64)
        symmetric = (wide + wide.swapaxes(-1, -2)) / 2
        norms = np.einsum("...ii->...i", symmetric)
        d2: NDArray[np.float64] = norms[..., :, None] + norms[..., None, :] - 2 * symmetric
    return d2


def checked(d2: NDArray[Any]) -> NDArray[np.float64]:
    """`d2` itself if it is squared distances: float64 [k, n, n], finite, symmetric, zero diagonal, none below 0.

    Raises:
        InputError: what is wrong, naming the matrices of the stack.
    """
    if d2.dtype != np.float64:
        raise InputError(f"distances: expected float64, got {d2.dtype}")
    if d2.ndim != 3 or d2.shape[1] != d2.shape[2] or d2.size == 0:
        raise InputError(f"distances: expected shape [k, n, n] with k, n >= 1, got {list(d2.shape)}")
    _refuse(
        d2,
        ~np.isfinite(d2).all(axis=(1, 2)),
        "hold NaN, infinity or values too large to subtract: look at the activations of those layers and at the images "
        "that went in",
    )
    _refuse(d2, (d2 != d2.transpose(0, 2, 1)).any(axis=(1, 2)), "are not symmetric")
    _refuse(d2, (np.einsum("kii->ki", d2) != 0).any(axis=1), "do not have zeros on the diagonal")
    _refuse(d2, (d2 < 0).any(axis=(1, 2)), "hold values below 0")
    return np.ascontiguousarray(d2)


def _refuse(d2: NDArray[np.float64], bad: Any, why: str) -> None:
    if bad.any():
        raise InputError(f"Matrices {np.flatnonzero(bad).tolist()} of {len(d2)}, counted from 0, {why}")
