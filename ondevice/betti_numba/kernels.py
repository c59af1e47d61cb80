"""b1 of a stack of distance matrices in Numba. Importing this module loads Numba and compiles or loads the kernels.

That costs 100 MB and more, and nothing gives it back: only the worker process imports this module.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

_F = TypeVar("_F", bound=Callable[..., object])

# Without NUMBA_CACHE_DIR Numba would write beside the source, or refuse to compile where that is read-only.
_CACHE = "NUMBA_CACHE_DIR" in os.environ

_MATRIX = types.Array(types.float64, 2, "C", readonly=True)
_STACK = types.Array(types.float64, 3, "C", readonly=True)
_TIED = types.Array(types.int64, 2, "C")


def _compiled(signature: object) -> Callable[[_F], _F]:
    """``numba.njit`` for one explicit signature, with a type that mypy can follow."""
    return cast("Callable[[_F], _F]", njit(signature, cache=_CACHE))


@_compiled(types.int64(types.int64[::1], types.int64))
def _root(parent: NDArray[np.int64], point: int) -> int:
    """The representative of a point's component; halves the path on the way."""
    while parent[point] != point:
        parent[point] = parent[parent[point]]
        point = parent[point]
    return point


@_compiled(types.UniTuple(types.int64, 2)(_MATRIX, _TIED))
def _label_edges(d2: NDArray[np.float64], tied: NDArray[np.int64]) -> tuple[int, int]:
    """Count the independent cycles of the RNG, and those of its edges that lie in a tied triangle.

    Union-find: an edge within a component closes a cycle, any other joins two components.
    ``tied`` [n, n] receives the number of each tied RNG edge, from 0 up, and −1 elsewhere.
    """
    n = d2.shape[0]
    parent = np.arange(n)
    cycles = 0
    tied_edges = 0
    tied[:] = -1
    for u in range(n):
        for v in range(u + 1, n):
            length = d2[u, v]
            in_rng = True
            is_tied = False
            for w in range(n):
                longer = max(d2[u, w], d2[v, w])
                if longer < length and w != u and w != v:
                    in_rng = False
                    break
                if longer == length and w != u and w != v:
                    is_tied = True
            if in_rng:
                root_u, root_v = _root(parent, u), _root(parent, v)
                if root_u == root_v:
                    cycles += 1
                else:
                    parent[root_u] = root_v
                if is_tied:
                    tied[u, v] = tied[v, u] = tied_edges
                    tied_edges += 1
    return cycles, tied_edges


@_compiled(types.int64(types.uint64[::1], types.int64))
def _highest_bit(row: NDArray[np.uint64], below: int) -> int:
    """Index of the highest bit set in a packed row, all of whose bits lie under ``below``; −1 if there is none."""
    word = (below - 1) // 64
    while word >= 0 and row[word] == 0:
        word -= 1
    bit = 64 * word + 63
    while bit >= 0 and not (row[word] >> np.uint64(bit % 64)) & np.uint64(1):
        bit -= 1
    return bit


@_compiled(types.int64(_MATRIX, _TIED, types.int64, types.int64))
def _tie_rank(d2: NDArray[np.float64], tied: NDArray[np.int64], tied_edges: int, cycle_rank: int) -> int:
    """Rank over F2 of the tied triangles, each a sum of tied RNG edges, by elimination on packed bits.

    It stops at ``cycle_rank``, because b1 cannot be negative, and without tied edges it does not start.
    """
    n = d2.shape[0]
    full_rank = min(tied_edges, cycle_rank)
    words = (tied_edges + 63) // 64
    pivots = np.empty((full_rank, words), dtype=np.uint64)
    pivot_of_bit = np.full(tied_edges, -1, dtype=np.int64)
    row = np.zeros(words, dtype=np.uint64)  # zero again after every triangle
    rank = 0
    for u in range(n):
        for v in range(u + 1, n):
            for w in range(v + 1, n):
                if rank == full_rank:
                    return rank
                length = max(d2[u, v], d2[u, w], d2[v, w])
                highest = -1
                for a, b in ((u, v), (u, w), (v, w)):
                    bit = tied[a, b]
                    if bit >= 0 and d2[a, b] == length:
                        row[bit // 64] |= np.uint64(1) << np.uint64(bit % 64)
                        highest = max(highest, bit)
                while highest >= 0 and pivot_of_bit[highest] >= 0:
                    for word in range(highest // 64 + 1):
                        row[word] ^= pivots[pivot_of_bit[highest], word]
                    highest = _highest_bit(row, highest)
                if highest >= 0:
                    pivots[rank] = row
                    pivot_of_bit[highest] = rank
                    rank += 1
                    row[:] = 0
    return rank


@_compiled(types.int64[::1](_STACK))
def _betti_numbers(d2: NDArray[np.float64]) -> NDArray[np.int64]:
    k, n = d2.shape[:2]
    b1 = np.empty(k, dtype=np.int64)
    tied = np.empty((n, n), dtype=np.int64)
    for index in range(k):
        cycle_rank, tied_edges = _label_edges(d2[index], tied)
        b1[index] = cycle_rank - _tie_rank(d2[index], tied, tied_edges, cycle_rank)
    return b1


def betti_numbers(d2: NDArray[np.float64]) -> NDArray[np.int64]:
    """First Betti numbers by b1 = |E(RNG)| − n + 1 − rank_F2(T), see the package's docstring.

    Args:
        d2: float64 [k, n, n], C order, as ``geometry.checked`` returns it; it may be read-only.

    Returns:
        int64 [k].

    Raises:
        TypeError: another dtype or order; nothing is compiled for it.
    """
    return _betti_numbers(d2)
