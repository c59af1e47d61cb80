"""TensorFlow: the same network in a tf.function with GradientTape over the same layers; and Keras' own MobileNetV2."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from converter.quiet import import_tensorflow
from ondevice.meter import read_resident
from profiling.peers.measurement import Measurement, Step, measure_steps
from profiling.peers.problem import OPTIMIZER, Problem, read_images, read_network
from signatures.errors import InputError
from signatures.graph import Graph, Op, Tensor
from signatures.layers import find_layers
from signatures.shapes import SAME
from signatures.subset import Subset, subset_of

import_tensorflow()
import tensorflow as tf  # noqa: E402

_LAYOUT = {"CONV_2D": (1, 2, 3, 0), "DEPTHWISE_CONV_2D": (1, 2, 3, 0), "FULLY_CONNECTED": (1, 0)}
"""Axes of TFLite's weights in TensorFlow's order."""
_ACTIVATIONS: dict[int, Callable[[tf.Tensor], tf.Tensor]] = {0: lambda x: x, 1: tf.nn.relu, 3: tf.nn.relu6}


def measure(problem: Problem, folder: Path) -> Measurement:
    """The network of the bundle, op by op."""
    split, base_bytes = read_images(folder), _start(problem)
    graph = read_network(problem)
    network = Network(graph, subset_of(find_layers(graph), problem.layers))
    step = training_step(network.logits, network.variables, problem)
    return measure_steps(f"TensorFlow {tf.__version__}", problem, split, base_bytes, step)


def measure_keras(problem: Problem, folder: Path) -> Measurement:
    """MobileNetV2 of keras.applications with its BatchNorm, which stays as it is; weights are random."""
    import keras

    split, base_bytes = read_images(folder), _start(problem)
    body = keras.applications.MobileNetV2((problem.image, problem.image, 3), include_top=False, weights=None)
    for layer in body.layers:
        layer.trainable = layer.name in problem.layers
    head = keras.layers.Dense(problem.classes, kernel_initializer="zeros")
    model = keras.Sequential([body, keras.layers.GlobalAveragePooling2D(), head])
    model.build((None, problem.image, problem.image, 3))
    variables = [variable.value for variable in model.trainable_variables]
    step = training_step(lambda x: model(x, training=False), variables, problem)
    note = f"its own network on TensorFlow {tf.__version__}, random weights, BatchNorm not folded and in inference mode"
    return measure_steps(f"Keras {keras.__version__}", problem, split, base_bytes, step, note)


def _start(problem: Problem) -> int:
    """Pin the threads; returns what is resident."""
    tf.config.threading.set_intra_op_parallelism_threads(problem.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return read_resident().resident_bytes


def training_step(logits: Callable[[tf.Tensor], tf.Tensor], variables: Sequence[tf.Variable], problem: Problem) -> Step:
    """SGD with momentum on the clipped gradient of `variables`, as `signatures.optimizers` has it."""
    momentum = [tf.Variable(tf.zeros_like(variable)) for variable in variables]
    scale = tf.constant(problem.preprocessing.scale, tf.float32)
    offset = tf.constant(problem.preprocessing.offset, tf.float32)

    def step(images: tf.Tensor, labels: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
        x = tf.cast(images, tf.float32) * scale + offset
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits(x))
            loss = tf.reduce_mean(losses)
        gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, variables), OPTIMIZER.clip_norm)
        for variable, velocity, gradient in zip(variables, momentum, gradients, strict=True):
            velocity.assign(OPTIMIZER.momentum * velocity + gradient)
            variable.assign_sub(rate * velocity)
        return loss

    compiled = tf.function(step, autograph=False)
    return lambda images, labels, rate: float(compiled(images, labels, tf.constant(rate, tf.float32)))


class Network:
    """A Graph in TensorFlow's ops and layouts, float32. `variables` are the parameters of `subset`."""

    def __init__(self, graph: Graph, subset: Subset) -> None:
        self._graph = graph
        self.variables: list[tf.Variable] = []
        trained = {p.slot for p in subset.parameters()}
        self._weights: dict[tuple[int, int], Any] = {}
        for index, op in enumerate(graph.ops):
            for slot, tensor in enumerate(op.inputs):
                if tensor is None or tensor.data is None:
                    continue
                value = _in_layout(op, slot, np.reshape(tensor.data, tensor.shape))
                if (index, slot) in trained:
                    self.variables.append(tf.Variable(value))
                    self._weights[index, slot] = self.variables[-1]
                else:
                    self._weights[index, slot] = tf.constant(value) if tensor.dtype == "float32" else value

    def logits(self, x: tf.Tensor) -> tf.Tensor:
        """Logits [batch, classes] of x [batch, H, W, C]."""
        return self.outputs([x])[0]

    def outputs(
        self, inputs: Sequence[tf.Tensor], weights: Mapping[tuple[int, int], tf.Tensor] = MappingProxyType({})
    ) -> list[tf.Tensor]:
        """What the graph makes of its inputs; `weights`, by slot and in TFLite's layout, take the place of its own."""
        values: dict[Tensor, tf.Tensor] = dict(zip(self._graph.inputs, inputs, strict=True))
        given = {slot: _in_layout(self._graph.ops[slot[0]], slot[1], value) for slot, value in weights.items()}
        known = {**self._weights, **given}
        for index, op in enumerate(self._graph.ops):
            arguments = [
                known[index, slot] if (index, slot) in known else values.get(tensor) if tensor else None
                for slot, tensor in enumerate(op.inputs)
            ]
            activation = _ACTIVATIONS.get(op.options.integer("FusedActivationFunction"))
            if activation is None:
                raise InputError(f"{op.kind} that makes {op.output.name!r} has an activation that is not translated")
            values[op.output] = activation(_result(op, arguments))
        return [values[tensor] for tensor in self._graph.outputs]


def _in_layout(op: Op, slot: int, data: Any) -> Any:
    """A constant, array or tensor, in TensorFlow's order of axes."""
    if slot != 1 or op.kind not in _LAYOUT:
        return data
    axes = _LAYOUT[op.kind]
    return data.transpose(axes) if isinstance(data, np.ndarray) else tf.transpose(data, axes)


def _result(op: Op, inputs: Sequence[Any]) -> tf.Tensor:
    """What `op` makes before its activation."""
    x, options = inputs[0], op.options
    match op.kind:
        case "CONV_2D" | "DEPTHWISE_CONV_2D":
            convolution = tf.nn.conv2d if op.kind == "CONV_2D" else tf.nn.depthwise_conv2d
            multiplied = op.kind == "DEPTHWISE_CONV_2D" and inputs[1].shape[3] != 1
            if multiplied or options.integer("DilationWFactor", 1) != 1:
                raise InputError(f"the convolution {op.output.name!r} has a multiplier or dilation: not translated")
            strides = (1, options.integer("StrideH"), options.integer("StrideW"), 1)
            padding = "SAME" if options.integer("Padding") == SAME else "VALID"
            return tf.nn.bias_add(convolution(x, inputs[1], strides, padding), inputs[2])
        case "FULLY_CONNECTED":
            return tf.nn.bias_add(tf.matmul(x, inputs[1]), inputs[2])
        case "MAX_POOL_2D":
            window = options.integer("FilterHeight"), options.integer("FilterWidth")
            steps = options.integer("StrideH"), options.integer("StrideW")
            return tf.nn.max_pool2d(x, window, steps, "SAME" if options.integer("Padding") == SAME else "VALID")
        case "ADD":
            return x + inputs[1]
        case "PAD":
            return tf.pad(x, inputs[1])
        case "MEAN":
            return tf.reduce_mean(x, inputs[1], keepdims=options.flag("KeepDims"))
        case "RESHAPE":
            return tf.reshape(x, (-1, *op.output.shape[1:]))
    raise InputError(f"{op.kind} is not translated to TensorFlow: the ops of MobileNetV2 and VGG16 are known")
