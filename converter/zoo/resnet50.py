"""ResNet-50 (arXiv 1512.03385): as Keras builds it, v1, and as torchvision does, v1.5.

They differ in where a stage's stride of 2 is (Keras: in the first 1×1, torchvision: in the 3×3), in BatchNorm's ε, in
the biases of Keras' convolutions, and in preprocessing. Layer names are Keras'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import keras

from converter.pixels import CAFFE_PIXELS, TORCHVISION_PIXELS
from converter.weights import Convention, WeightSet, WeightSources
from converter.zoo import ZooEntry
from converter.zoo.common import (
    CLASSES,
    HEAD,
    MIN_IMAGE,
    application_tensors,
    bgr_to_rgb,
    classifier,
    conv_norm,
)

EPSILON: Mapping[Convention, float] = {"torch": 1e-5, "keras": 1.001e-5}


class Block(NamedTuple):
    """One bottleneck block; `shortcut` says whether its shortcut has a convolution of its own."""

    name: str
    torch_module: str
    width: int
    stride: int
    shortcut: bool


def blocks() -> Iterator[Block]:
    """Yield the 16 blocks of table 1 in the paper."""
    for stage, (width, repeats) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        for repeat in range(repeats):
            stride = 2 if stage > 1 and repeat == 0 else 1
            name, module = f"conv{stage + 1}_block{repeat + 1}", f"layer{stage}.{repeat}"
            yield Block(name, module, width, stride, shortcut=repeat == 0)


def build(convention: Convention, image: int, classes: int) -> Any:
    """Return the Keras model: input [None, image, image, 3], output logits [None, classes], the head zero."""
    # Both conventions pad the stem and its pooling on both sides.
    conv = partial(conv_norm, both_sides=True, epsilon=EPSILON[convention], use_bias=convention == "keras")
    inputs = keras.Input((image, image, 3))
    x = conv(inputs, "conv1_conv", "conv1_bn", 64, kernel=7, stride=2)
    x = keras.layers.ReLU(name="conv1_relu")(x)
    # After a ReLU zeros are as good as the −∞ that torch pads a maximum with.
    x = keras.layers.ZeroPadding2D(1, name="pool1_pad")(x)
    x = keras.layers.MaxPooling2D(3, strides=2, name="pool1_pool")(x)
    for block in blocks():
        x = _bottleneck(x, block, convention, conv)
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    return keras.Model(inputs, classifier(x, classes), name="resnet50")


def _bottleneck(inputs: Any, block: Block, convention: Convention, conv: Callable[..., Any]) -> Any:
    shortcut, x, name = inputs, inputs, block.name
    first, second = (block.stride, 1) if convention == "keras" else (1, block.stride)
    if block.shortcut:
        shortcut = conv(inputs, f"{name}_0_conv", f"{name}_0_bn", 4 * block.width, stride=block.stride)
    x = conv(x, f"{name}_1_conv", f"{name}_1_bn", block.width, stride=first)
    x = keras.layers.ReLU(name=f"{name}_1_relu")(x)
    x = conv(x, f"{name}_2_conv", f"{name}_2_bn", block.width, kernel=3, stride=second)
    x = keras.layers.ReLU(name=f"{name}_2_relu")(x)
    x = conv(x, f"{name}_3_conv", f"{name}_3_bn", 4 * block.width)
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.ReLU(name=f"{name}_out")(x)


def _torch_modules() -> dict[str, str]:
    """Keras' layer names → torchvision's modules."""
    modules = {"conv1_conv": "conv1", "conv1_bn": "bn1", HEAD: "fc"}
    for block in blocks():
        for index in (1, 2, 3):
            modules[f"{block.name}_{index}_conv"] = f"{block.torch_module}.conv{index}"
            modules[f"{block.name}_{index}_bn"] = f"{block.torch_module}.bn{index}"
        if block.shortcut:
            modules[f"{block.name}_0_conv"] = f"{block.torch_module}.downsample.0"
            modules[f"{block.name}_0_bn"] = f"{block.torch_module}.downsample.1"
    return modules


def _arrange(weights: WeightSet, _image: int) -> WeightSet:
    if weights.convention == "torch":
        return weights
    return replace(weights, tensors=bgr_to_rgb(weights.tensors, "conv1_conv/kernel"))


def _application(weights: str | None) -> Any:
    return keras.applications.ResNet50(weights=weights, classifier_activation=None)


ZOO_ENTRY = ZooEntry(
    build=build,
    preprocessing={"torch": TORCHVISION_PIXELS, "keras": CAFFE_PIXELS},
    sources=WeightSources(keras_tensors=application_tensors(_application)),
    arrange=_arrange,
    torch_modules=_torch_modules(),
    head=HEAD,
    classes=CLASSES,
    min_image=MIN_IMAGE,
)
