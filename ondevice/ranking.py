"""Criteria: what layers are ranked by, and what each criterion has to know of the network for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from signatures.errors import UsageError
from signatures.layers import Layer

CRITERIA = {
    "betti": "largest b1/|a|: first Betti number of the activations for each element (AdaBet; the default)",
    "b1": "largest b1",
    "inverse-size": "smallest activations: betti without topology",
    "random": "drawn by --seed",
    "last": "those nearest to the output",
    "first": "those nearest to the input",
    "fisher": "largest Fisher information; takes labels and a backward pass through the whole network",
    "all": "every layer, whatever ρ",
    "head": "the head alone, whatever ρ",
    "bias": "the biases of all layers, whatever ρ",
}
"""By name, which layers each picks. The head always trains too."""
SCORE_NAMES = {"betti": "b1/|a|", "b1": "b1", "inverse-size": "1/|a|", "fisher": "Fisher"}
"""What the scores of some criteria are."""
BIAS = "bias"
NAMED = "named"
"""Not a criterion but what stands in its place where the layers were named one by one: `--layers`."""
CRITERION, RHO, BATCH, SEED = "betti", 0.1, 32, 0
"""What commands take where nothing else is said: the criterion, the fraction of layers, images a batch, the draw."""
FROM_BETTI_NUMBERS = frozenset({"betti", "b1"})
"""Those that need forward passes."""
FROM_GRADIENTS = frozenset({"fisher"})
"""Those that need labels and a backward pass."""
WITHOUT_RHO = frozenset({"all", "head", BIAS, NAMED})
"""Those that do not count layers."""
_RANDOM_STREAM = 3  # third word of the seed, apart from those of ondevice.dataset


@dataclass(frozen=True)
class Evidence:
    """What was measured of the layers but the head, in model order. None: the criterion does not need it."""

    b1: NDArray[np.int64] | None = None
    """First Betti numbers [batches, layers]."""
    fisher: NDArray[np.float64] | None = None
    """Fisher information [batches, layers], as `ondevice.fisher` has it."""


def scores(criterion: str, body: Sequence[Layer], evidence: Evidence, seed: int) -> NDArray[np.float64]:
    """What `criterion` ranks the layers `body` by, float64 [layers]: larger is better.

    Criteria that take every layer rank those nearest to the output highest: they cost least, and a budget keeps them.
    UsageError if the criterion is not known; ValueError if the evidence is of other layers.
    """
    sizes = np.array([layer.activation_size for layer in body], np.float64)
    places = np.arange(len(body), dtype=np.float64)
    if criterion in ("betti", "b1"):
        b1 = _mean(evidence.b1, body)
        return b1 / sizes if criterion == "betti" else b1
    if criterion == "fisher":
        return _mean(evidence.fisher, body)
    if criterion == "inverse-size":
        return 1.0 / sizes
    if criterion == "random":
        return np.random.Generator(np.random.PCG64([seed, 0, _RANDOM_STREAM])).random(len(body))
    if criterion == "first":
        return -places
    if criterion in ("last", "all", BIAS, NAMED, "head"):
        return places
    raise UsageError(f"criterion {criterion!r} is not known ({', '.join(CRITERIA)})")


def _mean(measured: NDArray[np.int64] | NDArray[np.float64] | None, body: Sequence[Layer]) -> NDArray[np.float64]:
    """Over the batches."""
    if measured is None or measured.shape[1] != len(body):
        got = "nothing" if measured is None else f"{measured.shape[1]} layers"
        raise ValueError(f"the evidence is of {got}, the network has {len(body)} layers beside the head")
    return np.asarray(measured.mean(axis=0), np.float64)
