"""A small model that uses everything a file can say: several graphs, signatures, options of each type, variables."""

from __future__ import annotations

import numpy as np

from signatures.build import train_model
from signatures.builder import RELU6, GraphBuilder
from signatures.graph import Graph, Model
from signatures.layers import find_layers
from signatures.optimizers import Optimizer
from signatures.subset import Subset


def network(side: int = 8, units: int = 4, classes: int = 3) -> Graph:
    """Convolutions, a residual, and a head; batch 1."""
    random = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return random.normal(0, 0.5, shape).astype(np.float32)

    b = GraphBuilder("main")
    x = b.input("x", (1, side, side, 3))
    y = b.conv_2d(b.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]), b.const(weights(units, 3, 3, 3), "w1"),
                  b.const(weights(units), "b1"), StrideH=2, StrideW=2, FusedActivationFunction=RELU6)  # fmt: skip
    z = b.depthwise_conv_2d(y, b.const(weights(1, 3, 3, units), "w2"), b.const(weights(units), "b2"), Padding=0)
    pooled = b.mean(b.add(y, z), [1, 2])
    logits = b.fully_connected(pooled, b.const(weights(classes, units), "w3"), b.const(weights(classes), "b3"))
    return b.graph([logits])


def training_model() -> Model:
    """The train file of `network`: five graphs, four signatures, variables, strings among the options."""
    graph = network()
    return train_model(graph, Subset(find_layers(graph)), 2, Optimizer("adam", weight_decay=0.1))
