"""A network of the zoo, images and labels, and what TensorFlow says of its gradients: image by image, in float64.

The oracle runs the graph as it stands in the file, for one image at a time; the batch is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import tensorflow as tf

from converter import zoo
from signatures.graph import Array, Graph
from signatures.head import head_of, with_new_head
from signatures.layers import Layer, find_layers
from signatures.passes import with_constants
from signatures.subset import Parameter, Subset
from tests.oracles import tensorflow_graph
from tests.oracles.kinks import away_from_kinks

CLASSES, BATCH = 5, 2


@dataclass(frozen=True)
class Problem:
    """A network whose values, for these images, keep away from kinks and ties."""

    name: str
    graph: Graph
    x: Array
    y: Array

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        return find_layers(self.graph)

    @cached_property
    def expected(self) -> tuple[float, dict[str, Array]]:
        """Loss and gradients of all parameters in float64, by GradientTape."""
        parameters = tensorflow_graph.variables(self.graph, Subset(self.layers), "float64")
        return loss_and_gradients(self.graph, self.x, self.y, parameters)

    def values(self, subset: Subset) -> dict[str, Array]:
        """The parameters as they are."""
        return {p.name: self.graph.ops[p.slot[0]].input(p.slot[1]).data for p in subset.parameters()}


def loss_and_gradients(
    graph: Graph, x: Array, y: Array, parameters: Mapping[Parameter, tf.Variable]
) -> tuple[float, dict[str, Array]]:
    """Means over the images, each of which passes the graph alone."""
    loss, sums = 0.0, {p.name: np.zeros(p.shape) for p in parameters}
    for image, label in zip(x, y, strict=True):
        one, gradients = tensorflow_graph.loss_and_gradients(graph, image[None], label[None], parameters)
        loss += one / len(x)
        for name, gradient in gradients.items():
            sums[name] += gradient / len(x)
    return loss, sums


def problem(name: str, side: int) -> Problem:
    """`name` with random weights and a random head, for blotchy random images of `side` pixels.

    They are grainy, too: in flat areas maxima tie but for rounding, and luck decides whose gradient it is.
    """
    source = zoo.load(name, "random", side)
    random = np.random.default_rng([side, 1])
    graph = with_new_head(source.graph, head_of(source.graph, find_layers(source.graph)), CLASSES)
    head = find_layers(graph)[-1]
    weights = random.normal(0, 1 / np.sqrt(head.weight_shape[1]), head.weight_shape).astype(np.float32)
    graph = with_constants(graph, {(head.op, head.weight_slot): weights})
    cells = -(-side // 16)
    pixels = random.integers(0, 256, (BATCH, cells, cells, 3)).repeat(16, 1).repeat(16, 2)[:, :side, :side]
    pixels = pixels + random.normal(0, 10, pixels.shape)
    x = pixels * np.array(source.preprocessing.scale) + np.array(source.preprocessing.offset)
    x = x.astype(np.float32)
    y = random.integers(0, CLASSES, BATCH).astype(np.int32)
    return Problem(f"{name}-{side}", away_from_kinks(graph, x), x, y)
