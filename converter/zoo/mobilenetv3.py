"""MobileNetV3 (arXiv 1905.02244), large and small, width 1.0: as Keras builds them and as torchvision does.

They differ in where a stride of 2 starts (Keras pads at the end, torch on both sides) and in preprocessing, which Keras
has inside its model. Keras writes the two dense layers of the classifier as 1×1 convolutions. Layer names are Keras'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import keras

from converter.pixels import TENSORFLOW_PIXELS, TORCHVISION_PIXELS
from converter.weights import Convention, WeightSet, WeightSources
from converter.zoo import ZooEntry
from converter.zoo.common import (
    CLASSES,
    HEAD,
    MIN_IMAGE,
    application_tensors,
    classifier,
    conv_norm,
)

EPSILON = 1e-3
"""BatchNorm's, in both conventions."""
STEM_CHANNELS = 16
CLASSIFIER = {"conv_2/kernel": "conv_2/kernel", "logits/kernel": f"{HEAD}/kernel", "logits/bias": f"{HEAD}/bias"}
"""Keras' names of the classifier's values → ours."""

Activation = Literal["relu", "hard_swish"]


class Block(NamedTuple):
    """A row of table 1 or 2 in the paper: an inverted residual block, perhaps with squeeze-and-excite."""

    kernel: int
    expanded: int
    channels: int
    squeeze: bool
    activation: Activation
    stride: int


LARGE = (
    Block(3, 16, 16, False, "relu", 1),
    Block(3, 64, 24, False, "relu", 2),
    Block(3, 72, 24, False, "relu", 1),
    Block(5, 72, 40, True, "relu", 2),
    Block(5, 120, 40, True, "relu", 1),
    Block(5, 120, 40, True, "relu", 1),
    Block(3, 240, 80, False, "hard_swish", 2),
    Block(3, 200, 80, False, "hard_swish", 1),
    Block(3, 184, 80, False, "hard_swish", 1),
    Block(3, 184, 80, False, "hard_swish", 1),
    Block(3, 480, 112, True, "hard_swish", 1),
    Block(3, 672, 112, True, "hard_swish", 1),
    Block(5, 672, 160, True, "hard_swish", 2),
    Block(5, 960, 160, True, "hard_swish", 1),
    Block(5, 960, 160, True, "hard_swish", 1),
)
SMALL = (
    Block(3, 16, 16, True, "relu", 2),
    Block(3, 72, 24, False, "relu", 2),
    Block(3, 88, 24, False, "relu", 1),
    Block(5, 96, 40, True, "hard_swish", 2),
    Block(5, 240, 40, True, "hard_swish", 1),
    Block(5, 240, 40, True, "hard_swish", 1),
    Block(5, 120, 48, True, "hard_swish", 1),
    Block(5, 144, 48, True, "hard_swish", 1),
    Block(5, 288, 96, True, "hard_swish", 2),
    Block(5, 576, 96, True, "hard_swish", 1),
    Block(5, 576, 96, True, "hard_swish", 1),
)


def build(
    name: str, rows: Sequence[Block], classifier_width: int, convention: Convention, image: int, classes: int
) -> Any:
    """Return the Keras model: input [None, image, image, 3], output logits [None, classes], the head zero."""
    conv = partial(conv_norm, both_sides=convention == "torch", epsilon=EPSILON)
    inputs = keras.Input((image, image, 3))
    x = conv(inputs, "conv", "conv_bn", STEM_CHANNELS, kernel=3, stride=2)
    x = keras.layers.Activation("hard_swish", name="conv_act")(x)
    for index, row in enumerate(rows):
        x = _block(x, _prefix(index), row, conv)
    x = conv(x, "conv_1", "conv_1_bn", rows[-1].expanded)
    x = keras.layers.Activation("hard_swish", name="conv_1_act")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dense(classifier_width, activation="hard_swish", name="conv_2")(x)
    return keras.Model(inputs, classifier(x, classes), name=name)


def _prefix(index: int) -> str:
    return f"expanded_conv_{index}_" if index else "expanded_conv_"


def _block(inputs: Any, prefix: str, row: Block, conv: Callable[..., Any]) -> Any:
    x = inputs
    if row.expanded != inputs.shape[-1]:
        x = conv(x, f"{prefix}expand", f"{prefix}expand_bn", row.expanded)
        x = keras.layers.Activation(row.activation, name=f"{prefix}expand_act")(x)
    x = conv(x, f"{prefix}depthwise", f"{prefix}depthwise_bn", None, kernel=row.kernel, stride=row.stride)
    x = keras.layers.Activation(row.activation, name=f"{prefix}depthwise_act")(x)
    if row.squeeze:
        x = _squeeze_excite(x, f"{prefix}squeeze_excite_")
    x = conv(x, f"{prefix}project", f"{prefix}project_bn", row.channels)
    if row.stride == 1 and inputs.shape[-1] == row.channels:
        x = keras.layers.Add(name=f"{prefix}add")([inputs, x])
    return x


def _squeeze_excite(inputs: Any, prefix: str) -> Any:
    channels = inputs.shape[-1]
    x = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{prefix}avg_pool")(inputs)
    x = keras.layers.Conv2D(_squeezed(channels), 1, activation="relu", name=f"{prefix}conv")(x)
    x = keras.layers.Conv2D(channels, 1, activation="hard_sigmoid", name=f"{prefix}conv_1")(x)
    return keras.layers.Multiply(name=f"{prefix}mul")([inputs, x])


def _squeezed(channels: int) -> int:
    """A quarter of the channels, to the nearest multiple of 8 that is not 10 % too small.

    Keras and torchvision write this down differently, but agree on all blocks above.
    """
    rounded = max(8, (channels // 4 + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * (channels // 4) else rounded


def _torch_modules(rows: Sequence[Block]) -> dict[str, str]:
    """Keras' layer names → torchvision's modules."""
    modules = {"conv": "features.0.0", "conv_bn": "features.0.1"}
    channels = STEM_CHANNELS
    for index, row in enumerate(rows):
        prefix, position = _prefix(index), 0
        for step, there in (
            ("expand", row.expanded != channels),
            ("depthwise", True),
            ("squeeze_excite", row.squeeze),
            ("project", True),
        ):
            if not there:
                continue
            module = f"features.{index + 1}.block.{position}"
            first, second = ("fc1", "fc2") if step == "squeeze_excite" else ("0", "1")
            names = ("_conv", "_conv_1") if step == "squeeze_excite" else ("", "_bn")
            modules[f"{prefix}{step}{names[0]}"] = f"{module}.{first}"
            modules[f"{prefix}{step}{names[1]}"] = f"{module}.{second}"
            position += 1
        channels = row.channels
    last = f"features.{len(rows) + 1}"
    return modules | {"conv_1": f"{last}.0", "conv_1_bn": f"{last}.1", "conv_2": "classifier.0", HEAD: "classifier.3"}


def _arrange(weights: WeightSet, _image: int) -> WeightSet:
    if weights.convention == "torch":
        return weights
    tensors = dict(weights.tensors)
    for name, ours in CLASSIFIER.items():
        if name in tensors:
            values = tensors.pop(name)
            tensors[ours] = values[0, 0] if values.ndim == 4 else values
    return replace(weights, tensors=tensors)


def entry(name: str, rows: Sequence[Block], classifier_width: int, application: Callable[..., Any]) -> ZooEntry:
    """Make the entry of one of the two; `application` is Keras' model of it."""
    return ZooEntry(
        build=partial(build, name, rows, classifier_width),
        preprocessing={"torch": TORCHVISION_PIXELS, "keras": TENSORFLOW_PIXELS},
        sources=WeightSources(
            keras_tensors=application_tensors(
                lambda weights: application((224, 224, 3), weights=weights, classifier_activation=None)
            )
        ),
        arrange=_arrange,
        torch_modules=_torch_modules(rows),
        head=HEAD,
        classes=CLASSES,
        min_image=MIN_IMAGE,
    )
