"""A Keras model as a float32 .tflite, checked: one weight op per layer, with filter and bias of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tflite
from numpy.typing import NDArray

from converter.keras_tensors import WEIGHT_LAYERS
from converter.quiet import captured_stderr
from signatures.errors import AdabetError, InputError

WEIGHT_OPS = (
    tflite.BuiltinOperator.CONV_2D,
    tflite.BuiltinOperator.DEPTHWISE_CONV_2D,
    tflite.BuiltinOperator.FULLY_CONNECTED,
)
FOLDING_TOLERANCE = 1e-5
"""Largest difference between a folded filter and scale · kernel, relative to the channel's largest weight."""


@dataclass(frozen=True)
class SourceLayer:
    """A layer of Keras that became one weight op.

    `batchnorm_scale` is s = γ/√(σ²+ε), float32, one entry per output channel, where a BatchNorm was folded into it.
    """

    name: str
    batchnorm_scale: NDArray[np.float32] | None


def to_tflite(model: Any) -> tuple[bytes, tuple[SourceLayer, ...]]:
    """Convert a Keras model (input [None, H, W, 3] or [1, H, W, 3]) at batch 1, BatchNorm folded, builtin ops only.

    Returns the flatbuffer and its weight layers in the order of the flatbuffer. Raises AdabetError where TensorFlow's
    converter did not keep one weight op per layer, InputError where a folded scale is not finite.
    """
    weight_layers = [layer for layer in model.layers if isinstance(layer, WEIGHT_LAYERS)]
    norms = _batchnorms(model)
    layers = [SourceLayer(layer.name, _scale(norms.get(layer.name))) for layer in weight_layers]
    zero_biases = {
        index: variable
        for index, layer in enumerate(weight_layers)
        if (variable := _zero_bias(layer, norms.get(layer.name))) is not None
    }
    # The converter drops a bias of zeros, or lets several ops share one tensor; distinct placeholders prevent both.
    for index, variable in zero_biases.items():
        variable.assign(_placeholder(index, variable.shape[0]))
    try:
        flatbuffer = bytearray(_convert(model))
    finally:
        for variable in zero_biases.values():
            variable.assign(np.zeros(variable.shape, np.float32))
    constants = _weight_op_constants(flatbuffer)
    order = match(weight_layers, layers, [filter_ for filter_, _ in constants])
    for index, (_, bias) in zip(order, constants, strict=True):
        if index in zero_biases:
            # What is left is a constant that followed the layer: hard sigmoid's 3.
            bias -= _placeholder(index, len(bias))
    return bytes(flatbuffer), tuple(layers[index] for index in order)


def _zero_bias(layer: Any, norm: Any | None) -> Any | None:
    """Return the variable that shifts the layer's folded bias, if that bias is all zeros; else None."""
    parts = [layer.bias] if layer.use_bias else []
    if norm is not None:
        parts += [norm.moving_mean, norm.beta]
    return None if not parts or any(np.any(part.numpy()) for part in parts) else parts[-1]


def _placeholder(index: int, size: int) -> NDArray[np.float32]:
    """Values that no other layer has, in so few bits that adding and subtracting a small integer is exact."""
    return np.float32(index + 1) + np.arange(size, dtype=np.float32) / np.float32(2 ** size.bit_length())


def _convert(model: Any) -> bytes:
    spec = tf.TensorSpec((1, *model.input.shape[1:]), tf.float32, name="x")
    with captured_stderr():
        inference = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec)
        # Without a trackable object the converter freezes the variables; with one it keeps them as resources.
        converter = tf.lite.TFLiteConverter.from_concrete_functions([inference])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        flatbuffer: bytes = converter.convert()
    return flatbuffer


def _batchnorms(model: Any) -> dict[str, Any]:
    """Layer name → the BatchNorm that reads the layer's output."""
    norms = {id(norm.input): norm for norm in model.layers if isinstance(norm, keras.layers.BatchNormalization)}
    return {layer.name: norms[id(layer.output)] for layer in model.layers if id(layer.output) in norms}


def _scale(norm: Any | None) -> NDArray[np.float32] | None:
    if norm is None:
        return None
    gamma, variance = (v.numpy().astype(np.float64) for v in (norm.gamma, norm.moving_variance))
    scale: NDArray[np.float32] = (gamma / np.sqrt(variance + norm.epsilon)).astype(np.float32)
    if not np.isfinite(scale).all():
        raise InputError(f"{norm.name}: γ/√(σ²+ε) is not finite; are these weights damaged?")
    return scale


def _weight_op_constants(flatbuffer: bytearray) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Filter and bias of each weight op in order, as writable views into `flatbuffer`.

    Filters: conv [out, h, w, in], depthwise [1, h, w, channels], dense [out, in].
    """
    model = tflite.Model.GetRootAs(flatbuffer, 0)
    graph = model.Subgraphs(0)
    found: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    used: set[int] = set()
    for position in range(graph.OperatorsLength()):
        op = graph.Operators(position)
        code = model.OperatorCodes(op.OpcodeIndex())
        if max(code.BuiltinCode(), code.DeprecatedBuiltinCode()) not in WEIGHT_OPS:
            continue
        indices = op.InputsAsNumpy()[1:].tolist()
        if len(indices) != 2 or min(indices) < 0 or not used.isdisjoint(indices):
            raise _not_converted(f"weight op {len(found)} has no filter and bias of its own")
        used.update(indices)
        filter_and_bias = []
        for index in indices:
            tensor = graph.Tensors(index)
            data = model.Buffers(tensor.Buffer()).DataAsNumpy()
            if tensor.Type() != tflite.TensorType.FLOAT32 or not isinstance(data, np.ndarray):
                raise _not_converted(f"weight op {len(found)}: {tensor.Name().decode()} is no float32 constant")
            filter_and_bias.append(data.view(np.float32).reshape(tensor.ShapeAsNumpy()))
        found.append((filter_and_bias[0], filter_and_bias[1]))
    return found


def match(
    weight_layers: Sequence[Any], layers: Sequence[SourceLayer], filters: Sequence[NDArray[np.float32]]
) -> list[int]:
    """Find for each filter the layer that it belongs to, by its values; return indices into `layers`.

    TensorFlow's converter sorts branches as it likes. Raises AdabetError unless this pairs all layers with all filters.
    """
    if len(filters) != len(layers):
        raise _not_converted(f"{len(filters)} weight ops for {len(layers)} layers")
    left = dict(enumerate(zip(weight_layers, layers, strict=True)))
    order = []
    for position, filter_ in enumerate(filters):
        index = next((i for i, (keras_layer, layer) in left.items() if _is_folded(filter_, keras_layer, layer)), None)
        if index is None:
            first = next(iter(left.values()))[1].name
            raise _not_converted(f"filter {position} is no layer's scale · kernel; the first without one is {first}")
        del left[index]
        order.append(index)
    return order


def _is_folded(filter_: NDArray[np.float32], keras_layer: Any, layer: SourceLayer) -> bool:
    """Whether `filter_` is s·W of the layer, up to rounding."""
    if filter_.size != math.prod(keras_layer.kernel.shape):
        return False
    expected = folded_filter(keras_layer, layer.batchnorm_scale)
    if filter_.shape != expected.shape:
        return False
    # The channel axis comes last in a depthwise filter and first in the others.
    other_axes = (0, 1, 2) if _is_depthwise(keras_layer) else tuple(range(1, expected.ndim))
    largest = np.abs(expected).max(axis=other_axes)
    return bool(np.all(np.abs(expected - filter_).max(axis=other_axes) <= FOLDING_TOLERANCE * largest))


def folded_filter(keras_layer: Any, scale: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Return s·W of a Keras layer in TFLite's layout (see `_weight_op_constants`), float32."""
    kernel: NDArray[np.float32] = keras_layer.kernel.numpy()
    factor = np.float32(1) if scale is None else scale
    if _is_depthwise(keras_layer):
        return kernel.transpose(3, 0, 1, 2) * factor
    return np.moveaxis(kernel * factor, -1, 0)


def _is_depthwise(keras_layer: Any) -> bool:
    return isinstance(keras_layer, keras.layers.DepthwiseConv2D)


def _not_converted(what: str) -> AdabetError:
    return AdabetError(f"TensorFlow {tf.__version__} converted the network unexpectedly: {what}")
