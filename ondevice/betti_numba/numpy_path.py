"""b1 of a stack of distance matrices in NumPy: the path for machines without Numba."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def betti_numbers(d2: NDArray[np.float64]) -> NDArray[np.int64]:
    """First Betti numbers by b1 = |E(RNG)| − n + 1 − rank_F2(T), see the package's docstring.

    Args:
        d2: float64 [k, n, n], as ``geometry.checked`` returns it; distances serve as well.

    Returns:
        int64 [k].
    """
    n = d2.shape[1]
    edge = np.triu(np.ones((n, n), dtype=bool), 1)
    lune = _lune_depths(d2)
    b1: NDArray[np.int64] = np.sum((lune >= d2) & edge, axis=(1, 2), dtype=np.int64) - n + 1
    tied = (lune == d2) & edge
    for index in np.flatnonzero(tied.any(axis=(1, 2))):
        b1[index] -= _tie_rank(d2[index], tied[index], cycle_rank=int(b1[index]))
    return b1


def _lune_depths(d2: NDArray[np.float64]) -> NDArray[np.float64]:
    """min over w ≠ u, v of max(d_uw, d_wv), float64 [k, n, n].

    Above d_uv: an RNG edge that no triangle kills or ties. Equal: an RNG edge in a tied triangle. Below: no edge.
    One w at a time, because the whole [k, n, n, n] would not fit a small device.
    """
    others = d2.copy()
    np.einsum("kii->ki", others)[...] = np.inf  # w = u and w = v never win
    depths = np.full_like(d2, np.inf)
    through_w = np.empty_like(d2)
    for w in range(d2.shape[1]):
        np.maximum(others[:, :, w, None], others[:, None, w, :], out=through_w)
        np.minimum(depths, through_w, out=depths)
    return depths


def _tie_rank(d2: NDArray[np.float64], tied: NDArray[np.bool_], cycle_rank: int) -> int:
    """Rank over F2 of the tied triangles of one matrix, each a sum of tied RNG edges.

    Gaussian elimination with one Python integer a row: bit i is tied edge i. It stops at ``cycle_rank``,
    because b1 cannot be negative.
    """
    us, vs = np.nonzero(tied)
    bits = np.zeros(tied.shape, dtype=object)  # 0 for what is no RNG edge: a shorter triangle removed it
    bits[us, vs] = bits[vs, us] = [1 << i for i in range(us.size)]
    pivots: dict[int, int] = {}
    for u, v in zip(us, vs, strict=True):
        length = d2[u, v]
        to_u, to_v = d2[u], d2[v]
        apexes = np.maximum(to_u, to_v) == length
        apexes[[u, v]] = False
        rows = bits[u, v] ^ np.where(to_u == length, bits[u], 0) ^ np.where(to_v == length, bits[v], 0)
        for row in rows[apexes]:
            while row and (pivot := pivots.get(row.bit_length())):
                row ^= pivot
            if row:
                pivots[row.bit_length()] = row
                if len(pivots) == cycle_rank:
                    return cycle_rank
    return len(pivots)
