"""Oracle: run one of our Graphs with TensorFlow's own kernels, and differentiate it with GradientTape.

Shares nothing with the compiler's backward pass: every op is TensorFlow's, every gradient GradientTape's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from signatures.graph import Array, Graph, Op, Tensor
from signatures.subset import Parameter, Subset

ACTIVATIONS: Mapping[int, Callable[[tf.Tensor], tf.Tensor]] = {
    0: lambda x: x,
    1: tf.nn.relu,
    2: lambda x: tf.clip_by_value(x, -1.0, 1.0),
    3: tf.nn.relu6,
}
KINKS = {0: (), 1: (0.0,), 2: (-1.0, 1.0), 3: (0.0, 6.0)}
ACTIVATION_OPS = {"RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}
PADDINGS = {0: "SAME", 1: "VALID"}


def evaluate(
    graph: Graph, inputs: Mapping[Tensor, tf.Tensor], parameters: Mapping[Parameter, tf.Variable] | None = None
) -> dict[Tensor, tf.Tensor]:
    """Every value of the graph, in the dtype of the inputs; `parameters` take the place of constants."""
    values = dict(inputs)
    for index, op in enumerate(graph.ops):
        replaced = {p.slot[1]: v for p, v in (parameters or {}).items() if p.slot[0] == index}
        values[op.output] = ACTIVATIONS[activation_of(op)](before_activation(op, values, replaced))
    return values


@dataclass(frozen=True)
class Kinks:
    """Where the values of a graph lie among the points at which their activations have no derivative."""

    distance: float
    """Of the nearest value to the nearest such point; infinite without activations."""
    passing: float
    """Fraction of the values, over all activations, that have derivative 1; 0.5 without activations."""


def kinks(graph: Graph, inputs: Mapping[Tensor, tf.Tensor]) -> Kinks:
    values = evaluate(graph, inputs)
    distances, passing = [np.inf], []
    for op in graph.ops:
        if activation_of(op):
            before = before_activation(op, values).numpy()
            distances += [float(np.min(np.abs(before - kink))) for kink in KINKS[activation_of(op)]]
            passing.append((before == values[op.output].numpy()).ravel())
    return Kinks(min(distances), float(np.mean(np.concatenate(passing))) if passing else 0.5)


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


def activation_of(op: Op) -> int:
    """The schema's number of the activation that `op` is or fuses."""
    return ACTIVATION_OPS.get(op.kind, op.options.integer("FusedActivationFunction"))


def before_activation(
    op: Op, values: Mapping[Tensor, tf.Tensor], replaced: Mapping[int, tf.Variable] | None = None
) -> tf.Tensor:
    """The op's result without its activation; `replaced` are inputs by number that are not what the graph says."""
    dtype = next(iter(values.values())).dtype
    inputs: list[Any] = []
    for slot, tensor in enumerate(op.inputs):
        if replaced and slot in replaced:
            inputs.append(replaced[slot])
        elif tensor is None:
            inputs.append(None)
        elif tensor.data is not None:
            inputs.append(tf.constant(tensor.data, dtype) if tensor.dtype == "float32" else tensor.data)
        else:
            inputs.append(values[tensor])
    return _run(op, inputs)


def _run(op: Op, inputs: list[Any]) -> tf.Tensor:
    options = op.options
    x = inputs[0]
    match op.kind:
        case "CONV_2D":
            return _convolution(op, tf.nn.conv2d, x, tf.transpose(inputs[1], (1, 2, 3, 0))) + inputs[2]
        case "DEPTHWISE_CONV_2D":
            return _convolution(op, tf.nn.depthwise_conv2d, x, tf.transpose(inputs[1], (1, 2, 3, 0))) + inputs[2]
        case "FULLY_CONNECTED":
            y = tf.matmul(tf.reshape(x, (-1, inputs[1].shape[1])), inputs[1], transpose_b=True)
            y = y if len(inputs) < 3 or inputs[2] is None else y + inputs[2]
            return tf.reshape(y, (*x.shape[:-1], y.shape[1])) if options.flag("KeepNumDims") else y
        case "AVERAGE_POOL_2D":
            window = [options.integer("FilterHeight"), options.integer("FilterWidth")]
            strides = [options.integer("StrideH"), options.integer("StrideW")]
            return tf.nn.avg_pool2d(x, window, strides, PADDINGS[options.integer("Padding")])
        case "MEAN":
            return tf.reduce_mean(x, inputs[1], keepdims=options.flag("KeepDims"))
        case "SUM":
            return tf.reduce_sum(x, inputs[1], keepdims=options.flag("KeepDims"))
        case "RESHAPE":  # a network's graph has batch 1, x may have another
            batched = x.shape.num_elements() != op.output.size
            return tf.reshape(x, (x.shape[0], *op.output.shape[1:]) if batched else op.output.shape)
        case "SQUEEZE":
            return tf.squeeze(x, options.integers("SqueezeDims"))
        case "TRANSPOSE":
            return tf.transpose(x, inputs[1])
        case "CONCATENATION":
            return tf.concat(inputs, options.integer("Axis"))
        case "BATCH_MATMUL":
            return tf.matmul(x, inputs[1], options.flag("AdjX"), options.flag("AdjY"))
        case "PAD":
            return tf.pad(x, inputs[1])
        case "ADD":
            return x + inputs[1]
        case "SUB":
            return x - inputs[1]
        case "MUL":
            return x * inputs[1]
        case "RELU" | "RELU6" | "RELU_N1_TO_1":
            return x
    raise AssertionError(f"the oracle does not know {op.kind}")


def _convolution(op: Op, convolve: Callable[..., tf.Tensor], x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """TensorFlow's kernel as it is; where it has no float64 CPU form (dilation, unequal strides), the same
    convolution at every pixel with zeros between the taps, and then every stride-th pixel.
    """
    stride = [op.options.integer("StrideH", 1), op.options.integer("StrideW", 1)]
    dilation = [op.options.integer("DilationHFactor", 1), op.options.integer("DilationWFactor", 1)]
    padding = PADDINGS[op.options.integer("Padding")]
    if dilation == [1, 1] and stride[0] == stride[1]:
        return convolve(x, kernel, [1, *stride, 1], padding)
    kernel = _with_zeros_between(_with_zeros_between(kernel, 0, dilation[0]), 1, dilation[1])
    if padding == "SAME":
        x = tf.pad(x, [(0, 0), *(_same(x.shape[1 + i], kernel.shape[i], stride[i]) for i in (0, 1)), (0, 0)])
    return convolve(x, kernel, [1, 1, 1, 1], "VALID")[:, :: stride[0], :: stride[1]]


def _with_zeros_between(kernel: tf.Tensor, axis: int, dilation: int) -> tf.Tensor:
    parts: list[tf.Tensor] = []
    for tap in tf.split(kernel, kernel.shape[axis], axis):
        parts += [tap] + [tf.zeros_like(tap)] * (dilation - 1)
    return tf.concat(parts[: len(parts) - (dilation - 1)], axis)


def _same(size: int, span: int, stride: int) -> tuple[int, int]:
    """SAME padding as TensorFlow's guide defines it (tf.nn, "Notes on padding")."""
    total = max(span - (size % stride or stride), 0)
    return total // 2, total - total // 2


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
    return y.numpy(), [g.numpy() for g in gradients]


def weighted_sum(graph: Graph, inputs: Mapping[Tensor, Array], weights: Array) -> float:
    """Σ weights·output in float64."""
    values = {tensor: tf.constant(value, tf.float64) for tensor, value in inputs.items()}
    return float(tf.reduce_sum(evaluate(graph, values)[graph.outputs[0]] * tf.constant(weights, tf.float64)))
