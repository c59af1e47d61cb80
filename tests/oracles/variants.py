"""Other forms of the same network, for tests: another image size, padding spelled out, activations left out."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from signatures.builder import NO_ACTIVATION, GraphBuilder
from signatures.graph import Array, Graph, Op, Tensor
from signatures.passes import with_constants
from signatures.replay import Slot
from signatures.shapes import SAME, VALID, infer
from tests.oracles.tensorflow_graph import before_activation

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")


def rebuilt(graph: Graph, side: int, explicit_padding: bool = False) -> Graph:
    """`graph` for images of `side` pixels.

    With `explicit_padding`, every convolution of stride 2 gets a border of one pixel by a PAD and is VALID, as
    PyTorch's MobileNetV2 has it (Keras pads behind only, which the converter folds into SAME).
    """
    b = GraphBuilder(graph.name)
    (source,) = graph.inputs
    new: dict[Tensor, Tensor] = {source: b.input(source.name, (1, side, side, 3))}
    for op in graph.ops:
        inputs = [None if tensor is None else new.get(tensor, tensor) for tensor in op.inputs]
        options = op.options
        if explicit_padding and options.integer("StrideH", 1) == 2:
            assert options.integer("Padding") == SAME
            inputs[0] = b.pad(inputs[0], [(0, 0), (1, 1), (1, 1), (0, 0)])
            options = options.replace(Padding=VALID)
        shape, dtype = infer(op.kind, inputs, options)
        new[op.output] = Tensor(op.output.name, shape, dtype)
        b.ops.append(Op(op.kind, tuple(inputs), (new[op.output],), options, op.version))
    return b.graph([new[tensor] for tensor in graph.outputs])


def _channels(values: Array) -> Array:
    return values.reshape(-1, values.shape[-1]).T


def smooth(graph: Graph, x: Array) -> Graph:
    """`graph` without activations, the channels of every convolution scaled to mean 0 and deviation 1 on `x`.

    Ten training steps of a network with kinks amplify rounding a thousand times, whoever computes them; without kinks
    they can be held to a tight tolerance.
    """
    values = {graph.inputs[0]: tf.constant(x, tf.float64)}
    constants: dict[Slot, Array] = {}
    ops = [_without_activation(op) for op in graph.ops]
    for index, op in enumerate(ops):
        (y,) = before_activation(op, values)
        if op.kind in CONVOLUTIONS:
            mean, deviation = np.mean(_channels(y.numpy()), 1), np.std(_channels(y.numpy()), 1) + 1e-3
            factors = 1 / deviation
            per_unit = factors if op.kind == "DEPTHWISE_CONV_2D" else factors[:, None, None, None]
            constants[index, 1] = (op.input(1).data * per_unit).astype(np.float32)
            constants[index, 2] = ((op.input(2).data - mean) * factors).astype(np.float32)
            y = (y - mean) * factors
        values[op.output] = y
    return with_constants(Graph(graph.name, tuple(ops), graph.inputs, graph.outputs), constants)


def _without_activation(op: Op) -> Op:
    if not op.options.integer("FusedActivationFunction"):
        return op
    options = op.options.replace(FusedActivationFunction=NO_ACTIVATION)
    return Op(op.kind, op.inputs, op.outputs, options, op.version)
