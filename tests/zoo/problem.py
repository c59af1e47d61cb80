"""A network of the zoo, images and labels, and what TensorFlow says of its gradients: image by image, in float64.

The oracle runs the graph as it stands in the file, for one image at a time; the batch is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import tensorflow as tf

from converter import zoo
from signatures.graph import Array, Graph, Op, Tensor
from signatures.head import head_of, with_new_head
from signatures.layers import Layer, find_layers
from signatures.passes import with_constants
from signatures.replay import Slot
from signatures.subset import Parameter, Subset
from tests.oracles import tensorflow_graph
from tests.oracles.tensorflow_graph import before_activation, inputs_of
from tests.oracles.tensorflow_ops import ACTIVATIONS, KINKS, activation_of

CLASSES, BATCH = 5, 2
WITH_BIAS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
HARD_SWISH_KINKS = (-3.0, 3.0)
SHIFT = 0.2
"""The largest change of a bias that keeps values away from kinks."""


@dataclass(frozen=True)
class Problem:
    """A network whose values, for these images, keep away from the kinks of its activations."""

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


def away_from_kinks(graph: Graph, x: Array) -> Graph:
    """`graph` with biases changed a little, so that for the images `x` no value is near the kink of its activation.

    A network has a million values; some lie within float32 rounding of a kink, and then whether their gradient passes
    is a matter of luck. The bias behind each channel, that of the op itself or of a convolution that feeds it alone,
    moves to the middle of the largest gap among the channel's values.
    """
    makers, readers = graph.producers(), graph.consumers()
    slots = {op: index for index, op in enumerate(graph.ops)}
    images = [{graph.inputs[0]: tf.constant(image[None], tf.float64)} for image in x]
    biases: dict[Slot, Array] = {}
    for op in graph.ops:
        kinks = HARD_SWISH_KINKS if op.kind == "HARD_SWISH" else KINKS[activation_of(op)]
        giver = _giver(op, makers, readers) if kinks else None
        if giver is not None:
            before = np.concatenate([_before_kink(op, values).reshape(-1, op.output.shape[-1]) for values in images])
            shifts = np.array([_to_largest_gap(channel, kinks) for channel in before.T])
            biases[slots[giver], 2] = (giver.input(2).data + shifts).astype(np.float32)
            if giver is not op:
                moved = tf.constant(biases[slots[giver], 2].astype(np.float64) - giver.input(2).data)
                for values in images:
                    values[giver.output] += moved
        for values in images:
            own = {2: tf.constant(biases[slots[op], 2], tf.float64)} if giver is op else None
            (result,) = before_activation(op, values, own)
            values[op.output] = ACTIVATIONS[activation_of(op)](result)
    return with_constants(graph, biases)


def _giver(op: Op, makers: Mapping[Tensor, Op], readers: Mapping[Tensor, Sequence[Op]]) -> Op | None:
    """The op whose bias shifts the channels that `op` bends."""
    candidates = [op, *(makers[t] for t in op.inputs if t in makers and readers[t] == [op])]
    for found in candidates:
        bias = found.optional(2) if found.kind in WITH_BIAS else None
        if bias is not None and bias.data is not None and (found is op or not activation_of(found)):
            return found
    return None


def _before_kink(op: Op, values: Mapping[Tensor, tf.Tensor]) -> Array:
    if op.kind == "HARD_SWISH":
        return inputs_of(op, values)[0].numpy()
    (result,) = before_activation(op, values)
    return result.numpy()


def _to_largest_gap(values: Array, kinks: Sequence[float]) -> float:
    forbidden = np.concatenate([kink - values for kink in kinks])
    edges = np.sort([-SHIFT, *forbidden[np.abs(forbidden) < SHIFT], SHIFT])
    widest = int(np.argmax(np.diff(edges)))
    return float(edges[widest] + edges[widest + 1]) / 2
