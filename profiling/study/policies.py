"""Policies: which layers train. Those of the device, and one in the manner of ElasticTrainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ondevice.ranking import BIAS
from ondevice.selection import pick_count
from profiling.ranking.stability import best
from signatures.layers import Layer

ELASTIC = "elastic"
POLICIES = {
    "betti": "betti",
    "b1": "b1",
    "inverse-size": "inverse-size",
    "fisher": "fisher",
    "last": "last",
    "random": "random",
    ELASTIC: "fisher",
    "full": "all",
    "bias": BIAS,
    "head": "head",
}
"""By name, the criterion of `ondevice.ranking` whose scores it takes; random draws anew for each seed."""
WITHOUT_RHO = frozenset({"full", "bias", "head"})
"""Those to which ρ means nothing."""


@dataclass(frozen=True)
class Choice:
    """What trains."""

    layers: tuple[str, ...]
    """In model order; the head is the last and always among them."""
    bias_only: bool = False
    """Whether of all layers but the head only the biases train."""


def choose(
    policy: str,
    rho: float,
    layers: Sequence[Layer],
    able: Sequence[bool],
    scores: Mapping[str, Sequence[float]],
) -> Choice:
    """What `policy` trains of `layers`, the head last.

    `able` tells of all but the head whether they can train; `scores` are theirs, by criterion. ρ counts layers as on
    the device; for elastic it is the fraction of the arithmetic of a whole backward pass.
    """
    *body, head = layers
    names = [layer.name for layer in body]
    if policy in WITHOUT_RHO:
        picked = [i for i, layer in enumerate(body) if able[i] and policy != "head" and _has(layer, policy)]
    elif policy == ELASTIC:
        important = np.where(able, scores[POLICIES[policy]], 0.0)
        picked = within_time(important, np.array([layer.macs for layer in layers], np.float64), rho)
    else:
        picked = list(best(np.asarray(scores[POLICIES[policy]]), able, pick_count(rho, len(layers))))
    return Choice((*(names[i] for i in sorted(picked)), head.name), policy == "bias")


def _has(layer: Layer, policy: str) -> bool:
    return policy != "bias" or layer.bias_shape is not None


def within_time(important: NDArray[np.float64], macs: NDArray[np.float64], fraction: float) -> list[int]:
    """The layers with the largest total importance whose training takes at most `fraction` of the arithmetic of a whole
    backward pass, as ElasticTrainer (arXiv 2312.14227, section 3) puts it; nothing but the head where none fits.

    float64 [layers], the head in `macs` alone, as the last. A gradient of a weight costs the layer's own multiply-adds;
    so does passing the gradient through a layer, which has to be done for all that lie behind the first one trained.
    ElasticTrainer measures both times and solves by dynamic programming; layers count here as one chain.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    n, macs = len(important), macs / macs.sum()
    # Variables: x_i, whether layer i trains; z_i, whether the gradient passes through it (z of the head comes last).
    budget = fraction * (2 - macs[0]) - macs[-1]  # the head's own weights train anyway
    rows = [np.concatenate([macs[:-1], macs])]
    for i in range(n):  # z of the next one is at least x_i and z_i
        for first in (i, n + i):
            row = np.zeros(2 * n + 1)
            row[first], row[n + i + 1] = 1.0, -1.0
            rows.append(row)
    gain = np.concatenate([important / max(important.max(initial=0.0), 1e-300), np.zeros(n + 1)])
    upper = np.concatenate([[budget], np.zeros(2 * n)])
    within = LinearConstraint(np.array(rows), -np.inf, upper)
    found = milp(-gain, constraints=within, integrality=np.ones(2 * n + 1), bounds=Bounds(0, 1))
    return [] if found.x is None else [i for i in range(n) if found.x[i] > 0.5]
