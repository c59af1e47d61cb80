"""First Betti numbers of small point clouds, exactly, from their distances.

The number wanted is AdaBet's (arXiv 2510.03101): how many bars of H1 in the full Vietoris–Rips persistence of
n points have death > birth. It depends only on the order of the pairwise distances, and it has a closed form,
ties included:

    b1 = |E(RNG)| − n + 1 − rank_F2(T)

RNG is the relative neighbourhood graph: uv is an edge iff no w has max(d_uw, d_vw) < d_uv. T are the triangles
whose longest edges tie, each written as the sum of those of its longest edges that are in the RNG.

Why. Let K_r be the complex at diameter r and K_<r the one just before. Bars born at r that live on are counted
by coker(H1(K_<r) → H1(K_r)), so by the long exact sequence of the pair they number dim H1(K_r, K_<r) less the
components that merge at r. Relative 1-chains are the edges of length r, relative boundaries the triangles of
diameter r restricted to them. A triangle with one longest edge removes that edge: what is left is the RNG.
A triangle with two or three gives a relation among them: T. Merges add up to n − 1. Distance 0 is a length
like any other, so duplicate points need no case of their own.

Files: ``geometry`` (Gram matrices → squared distances, checks), ``numpy_path`` and ``kernels`` (the formula in NumPy
and in Numba), ``__main__`` (the worker process, the only one that ever loads Numba), ``engine`` (what to call).
"""
