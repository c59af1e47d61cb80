"""What the zoo hands to the exporter: a float32 inference graph and what the graph no longer shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from signatures.catalogue import Preprocessing


@dataclass(frozen=True)
class SourceLayer:
    """One weight op (conv, depthwise conv, dense) of the graph.

    `batchnorm_scale` is s = γ/√(σ²+ε), float32, one entry per output channel, where a BatchNorm was folded into the
    layer (W_folded = s·W), and None where there was none.
    """

    name: str
    batchnorm_scale: NDArray[np.float32] | None


@dataclass(frozen=True)
class SourceNetwork:
    """A network as a flatbuffer.

    `tflite`: one subgraph in builtin ops, BatchNorm folded, input float32 [1, H, W, 3] in RGB after `preprocessing`,
    output float32 logits [1, classes]. `layers` has one entry per weight op, in the order of the flatbuffer; each has
    a filter and a bias tensor of its own. `weights` says in words where the values come from.
    """

    name: str
    tflite: bytes
    preprocessing: Preprocessing
    layers: tuple[SourceLayer, ...]
    weights: str
