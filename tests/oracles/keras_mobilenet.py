"""MobileNetV2 from Keras with random weights, converted by TensorFlow: a real network that needs no download."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from signatures.graph import Array, Graph
from signatures.tflite_io import read_model

CLASSES = 10


@dataclass(frozen=True)
class KerasLayer:
    """A convolution or dense layer, in numbers that follow from its shapes."""

    parameters: int
    """Weights and one bias a channel, as they are once BatchNorm is folded."""
    activation_size: int
    macs: int


@dataclass(frozen=True)
class KerasNetwork:
    """A converted network, and what Keras says about it."""

    path: Path
    graph: Graph
    layers: tuple[KerasLayer, ...]
    images: Array
    logits: Array
    """Of `images`, computed by Keras."""


def build(folder: Path, side: int) -> KerasNetwork:
    """Logits of 10 classes for float32 [1, side, side, 3]; every BatchNorm has statistics of its own."""
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(
        input_shape=(side, side, 3), weights=None, classes=CLASSES, classifier_activation=None
    )
    images = np.random.default_rng(0).normal(size=(16, side, side, 3)).astype(np.float32)
    _calibrate(model, images)
    weighted = [layer for layer in model.layers if hasattr(layer, "kernel")]
    path = folder / f"mobilenetv2_{side}.tflite"
    path.write_bytes(_convert(model, side))
    return KerasNetwork(
        path,
        read_model(path).graphs[0],
        tuple(map(_layer, weighted)),
        images,
        model(images, training=False).numpy(),
    )


def _calibrate(model: keras.Model, images: Array) -> None:
    """Give every BatchNorm the statistics of `images`, and a scale and shift of its own: signal in all layers."""
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for index, layer in enumerate(norms):
        layer.momentum = 0.0
        random = np.random.default_rng(index)
        layer.gamma.assign(random.uniform(0.5, 1.5, layer.gamma.shape))
        layer.beta.assign(random.normal(0, 0.3, layer.beta.shape))
    model(images, training=True)
    head = model.layers[-1]
    head.bias.assign(np.linspace(-0.1, 0.1, CLASSES))  # the converter drops a bias of zeros


def _layer(layer: keras.Layer) -> KerasLayer:
    weights, (*pixels, channels) = math.prod(layer.kernel.shape), layer.output.shape[1:]
    return KerasLayer(weights + channels, math.prod(pixels) * channels, math.prod(pixels) * weights)


def _convert(model: keras.Model, side: int) -> bytes:
    function = tf.function(lambda x: model(x, training=False))
    concrete = function.get_concrete_function(tf.TensorSpec([1, side, side, 3]))
    frozen = convert_variables_to_constants_v2(concrete)
    content: bytes = tf.lite.TFLiteConverter.from_concrete_functions([frozen]).convert()
    return content
