"""Oracle: run one of our Graphs with TensorFlow's own kernels, and differentiate it with GradientTape.

Shares nothing with the compiler's backward pass: every op is TensorFlow's, every gradient GradientTape's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from signatures.graph import Array, Graph, Op, Tensor
from signatures.subset import Parameter, Subset
from tests.oracles import tensorflow_ops
from tests.oracles.tensorflow_ops import ACTIVATIONS, KINKS, activation_of


def evaluate(
    graph: Graph, inputs: Mapping[Tensor, tf.Tensor], parameters: Mapping[Parameter, tf.Variable] | None = None
) -> dict[Tensor, tf.Tensor]:
    """Every value of the graph, in the dtype of the inputs; `parameters` take the place of constants."""
    values = dict(inputs)
    for index, op in enumerate(graph.ops):
        replaced = {p.slot[1]: v for p, v in (parameters or {}).items() if p.slot[0] == index}
        for tensor, before in zip(op.outputs, before_activation(op, values, replaced), strict=True):
            values[tensor] = ACTIVATIONS[activation_of(op)](before)
    return values


@dataclass(frozen=True)
class Kinks:
    """Where the values of a graph lie among the points at which its ops have no derivative."""

    distance: float
    """Of the nearest value to the nearest such point; infinite without them."""
    passing: float
    """Fraction of the values, over all fused and ReLU-like activations, that have derivative 1; 0.5 without any."""


def kinks(graph: Graph, inputs: Mapping[Tensor, tf.Tensor]) -> Kinks:
    values = evaluate(graph, inputs)
    distance, passing = np.inf, []
    for op in graph.ops:
        arguments = inputs_of(op, values)
        before = tensorflow_ops.results(op, arguments)
        distance = min(distance, tensorflow_ops.distance_to_kink(op, arguments, before))
        if KINKS[activation_of(op)]:
            passing.append((before[0].numpy() == values[op.output].numpy()).ravel())
    return Kinks(distance, float(np.mean(np.concatenate(passing))) if passing else 0.5)


def logits(graph: Graph, x: tf.Tensor, parameters: Mapping[Parameter, tf.Variable]) -> tf.Tensor:
    return evaluate(graph, {graph.inputs[0]: x}, parameters)[graph.outputs[0]]


def variables(graph: Graph, subset: Subset, dtype: str = "float32") -> dict[Parameter, tf.Variable]:
    return {p: tf.Variable(graph.ops[p.slot[0]].input(p.slot[1]).data, dtype=dtype) for p in subset.parameters()}


def loss_and_gradients(
    graph: Graph, x: Array, y: Array, values: Mapping[Parameter, tf.Variable]
) -> tuple[float, dict[str, Array]]:
    dtype = next(iter(values.values())).dtype
    with tf.GradientTape() as tape:
        z = logits(graph, tf.constant(x, dtype), values)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, z))
    gradients = tape.gradient(loss, list(values.values()))
    return float(loss), {p.name: g.numpy() for p, g in zip(values, gradients, strict=True)}


def before_activation(
    op: Op, values: Mapping[Tensor, tf.Tensor], replaced: Mapping[int, tf.Variable] | None = None
) -> list[tf.Tensor]:
    """The op's results without its activation."""
    return tensorflow_ops.results(op, inputs_of(op, values, replaced))


def inputs_of(
    op: Op, values: Mapping[Tensor, tf.Tensor], replaced: Mapping[int, tf.Variable] | None = None
) -> list[Any]:
    """The op's inputs; `replaced` are those, by number, that are not what the graph says."""
    dtype = next(iter(values.values())).dtype
    inputs: list[Any] = []
    for slot, tensor in enumerate(op.inputs):
        if replaced and slot in replaced:
            inputs.append(replaced[slot])
        elif tensor is None:
            inputs.append(None)
        elif tensor.data is not None:
            data = np.reshape(tensor.data, tensor.shape)  # a scalar's is a vector
            inputs.append(tf.constant(data, dtype) if tensor.dtype == "float32" else data)
        else:
            inputs.append(values[tensor])
    return inputs


def weighted_sum_gradients(
    graph: Graph, inputs: Mapping[Tensor, Array], weights: Array, wanted: Sequence[Tensor]
) -> tuple[Array, list[Array]]:
    """The only output in float64, and the gradients of Σ weights·output with respect to `wanted` graph inputs."""
    values = {tensor: tf.constant(value, tf.float64) for tensor, value in inputs.items()}
    with tf.GradientTape() as tape:
        tape.watch([values[tensor] for tensor in wanted])
        y = evaluate(graph, values)[graph.outputs[0]]
        total = tf.reduce_sum(y * tf.constant(weights, tf.float64))
    gradients = tape.gradient(total, [values[t] for t in wanted], unconnected_gradients="zero")
    return y.numpy(), [tf.convert_to_tensor(g).numpy() for g in gradients]


def weighted_sum(graph: Graph, inputs: Mapping[Tensor, Array], weights: Array) -> float:
    """Σ weights·output in float64."""
    values = {tensor: tf.constant(value, tf.float64) for tensor, value in inputs.items()}
    return float(tf.reduce_sum(evaluate(graph, values)[graph.outputs[0]] * tf.constant(weights, tf.float64)))
