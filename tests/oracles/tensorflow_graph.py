"""Oracle: run one of our Graphs with TensorFlow's own kernels, and differentiate it with GradientTape.

Shares nothing with the compiler but the reader: every op is TensorFlow's, every gradient GradientTape's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from signatures.graph import Graph, Op
from signatures.subset import Parameter, Subset

ACTIVATIONS = {0: lambda x: x, 1: tf.nn.relu, 2: lambda x: tf.clip_by_value(x, -1.0, 1.0), 3: tf.nn.relu6}
PADDINGS = {0: "SAME", 1: "VALID"}


def logits(graph: Graph, x: tf.Tensor, parameters: Mapping[Parameter, tf.Variable]) -> tf.Tensor:
    by_slot = {p.slot: v for p, v in parameters.items()}
    values = {graph.inputs[0]: x}
    for index, op in enumerate(graph.ops):
        inputs = []
        for slot, tensor in enumerate(op.inputs):
            if (index, slot) in by_slot:
                inputs.append(by_slot[index, slot])
            elif tensor is None:
                inputs.append(None)
            elif tensor.data is not None:
                data = tensor.data
                inputs.append(tf.constant(data, x.dtype) if data.dtype == np.float32 else data)
            else:
                inputs.append(values[tensor])
        values[op.output] = ACTIVATIONS[op.options.integer("FusedActivationFunction")](_run(op, inputs))
    return values[graph.outputs[0]]


def _run(op: Op, inputs: list) -> tf.Tensor:
    options = op.options
    strides = [1, options.integer("StrideH", 1), options.integer("StrideW", 1), 1]
    dilations = [options.integer("DilationHFactor", 1), options.integer("DilationWFactor", 1)]
    padding = PADDINGS[options.integer("Padding")]
    x = inputs[0]
    match op.kind:
        case "CONV_2D":
            y = tf.nn.conv2d(x, tf.transpose(inputs[1], (1, 2, 3, 0)), strides, padding, dilations=dilations)
            return y + inputs[2]
        case "DEPTHWISE_CONV_2D":
            kernel = tf.transpose(inputs[1], (1, 2, 3, 0))
            y = tf.nn.depthwise_conv2d(x, kernel, strides, padding, dilations=dilations)
            return y + inputs[2]
        case "FULLY_CONNECTED":
            y = tf.matmul(tf.reshape(x, (-1, inputs[1].shape[1])), inputs[1], transpose_b=True)
            return y if len(inputs) < 3 or inputs[2] is None else y + inputs[2]
        case "AVERAGE_POOL_2D":
            window = [options.integer("FilterHeight"), options.integer("FilterWidth")]
            return tf.nn.avg_pool2d(x, window, strides, padding)
        case "MEAN":
            return tf.reduce_mean(x, inputs[1], keepdims=options.flag("KeepDims"))
        case "SUM":
            return tf.reduce_sum(x, inputs[1], keepdims=options.flag("KeepDims"))
        case "RESHAPE":
            return tf.reshape(x, (x.shape[0], *op.output.shape[1:]))
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
        case "RELU":
            return tf.nn.relu(x)
        case "RELU6":
            return tf.nn.relu6(x)
        case "RELU_N1_TO_1":
            return tf.clip_by_value(x, -1.0, 1.0)
    raise AssertionError(f"the oracle does not know {op.kind}")


def variables(graph: Graph, subset: Subset, dtype: str = "float32") -> dict[Parameter, tf.Variable]:
    return {p: tf.Variable(graph.ops[p.slot[0]].input(p.slot[1]).data, dtype=dtype) for p in subset.parameters()}


def loss_and_gradients(
    graph: Graph, x: np.ndarray, y: np.ndarray, values: Mapping[Parameter, tf.Variable]
) -> tuple[float, dict[str, np.ndarray]]:
    dtype = next(iter(values.values())).dtype
    with tf.GradientTape() as tape:
        z = logits(graph, tf.constant(x, dtype), values)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, z))
    gradients = tape.gradient(loss, list(values.values()))
    return float(loss), {p.name: g.numpy() for p, g in zip(values, gradients, strict=True)}
