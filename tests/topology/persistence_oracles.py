"""What the tests of b1 compare with: ripser, textbook persistence by column reduction, and clouds to run them on."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from ripser import ripser

from ondevice.betti_numba.geometry import squared_distances


def ripser_b1(d2: NDArray[np.float64]) -> int:
    """Bars of H1 with death > birth according to ripser.

    b1 depends only on the order of the distances, so ripser gets their ranks: small integers, which its float32
    holds exactly, where distances themselves could be rounded into ties.
    """
    _, ranks = np.unique(d2, return_inverse=True)
    bars = ripser(ranks.reshape(d2.shape).astype(np.float64), distance_matrix=True, maxdim=1)["dgms"][1]
    return int(np.count_nonzero(bars[:, 1] > bars[:, 0]))


def reduced_b1(d2: NDArray[np.float64]) -> int:
    """The same by the standard algorithm: order all simplices, reduce the boundary matrix over F2, read the pairs."""
    simplices = [face for size in (1, 2, 3) for face in combinations(range(len(d2)), size)]
    diameter = {face: max((d2[i, j] for i, j in combinations(face, 2)), default=0.0) for face in simplices}
    order = sorted(simplices, key=lambda face: (diameter[face], len(face), face))
    position = {face: index for index, face in enumerate(order)}
    columns: dict[int, set[int]] = {}  # reduced boundary by its lowest simplex
    bars = 0
    for face in order:
        column = {position[part] for part in combinations(face, len(face) - 1) if part}
        while column and max(column) in columns:
            column ^= columns[max(column)]
        if column:
            columns[max(column)] = column
            bars += len(face) == 3 and diameter[face] > diameter[order[max(column)]]
    return bars


def projective_plane() -> NDArray[np.float64]:
    """Distances of a flag triangulation of RP²: 1 along its edges, 2 otherwise. H1 is Z/2: it exists over F2 only.

    The barycentric subdivision of the triangulation with 6 vertices; two faces are joined if one contains the other.
    """
    triangles = ["012", "023", "034", "045", "051", "124", "235", "341", "452", "513"]
    faces = sorted(
        {frozenset(part) for t in triangles for size in (1, 2, 3) for part in combinations(t, size)}, key=sorted
    )
    joined = np.array([[a < b or b < a for b in faces] for a in faces])
    return np.where(joined, 1.0, 2.0) - 2.0 * np.eye(len(faces))


def gram(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gram matrices of a stack of clouds [k, n, f]."""
    return points @ points.transpose(0, 2, 1)


def distances(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distances of a stack of clouds [k, n, f], as `first_betti` takes them."""
    return np.maximum(squared_distances(gram(points)), 0.0)


def clouds(kind: str, n: int, k: int = 6) -> NDArray[np.float64]:
    """k clouds of n points; every kind but the first is full of ties."""
    rng = np.random.default_rng([n, len(kind)])
    match kind:
        case "normal":
            return rng.normal(size=(k, n, 8))
        case "binary":
            return rng.integers(0, 2, (k, n, 10)).astype(np.float64)
        case "grid":
            return rng.integers(0, 6, (k, n, 2)).astype(np.float64)
        case "sparse":
            return np.maximum(rng.integers(-6, 4, (k, n, 12)), 0).astype(np.float64)
        case "duplicates":
            # Multiples of 1/8: sums and products stay exact, so that copies stay at distance 0.
            distinct = rng.integers(-99, 99, (k, max(n // 3, 1), 4)) / 8
            return np.take(distinct, rng.integers(0, distinct.shape[1], n), axis=1)
        case "collinear":
            return np.broadcast_to(np.arange(n, dtype=np.float64)[None, :, None], (k, n, 1)).copy()
        case "one-hot":
            return np.broadcast_to(np.eye(n), (k, n, n)).copy()
        case "all equal":
            return np.ones((k, n, 3))
        case _:
            raise ValueError(kind)


TIED_KINDS = ("binary", "grid", "sparse", "duplicates", "collinear", "one-hot", "all equal")
