"""VGG-16 (arXiv 1409.1556) without its three dense layers, which hold 89 % of its weights.

Instead there are global average pooling and a head of our own, so that images may have any size; that head is always
fresh. Keras and torchvision build the same convolutions and differ in preprocessing. Layer names are Keras'.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import keras

from converter.pixels import CAFFE_PIXELS, TORCHVISION_PIXELS
from converter.weights import Convention, WeightSet, WeightSources
from converter.zoo import ZooEntry
from converter.zoo.common import (
    CLASSES,
    HEAD,
    application_tensors,
    bgr_to_rgb,
    classifier,
)

MIN_IMAGE = 32
"""Below it the last pooling has nothing left."""
LEFT_OUT = ("fc1/", "fc2/", f"{HEAD}/", "classifier.")
"""How names of the dense layers begin, Keras' and torchvision's."""


class Conv(NamedTuple):
    """One convolution, 3×3 with bias and ReLU; `pooled`: a maximum over 2×2 follows."""

    name: str
    torch_module: str
    channels: int
    pooled: bool


def convolutions() -> Iterator[Conv]:
    """Yield the 13 convolutions of configuration D in the paper."""
    module = 0
    for block, (channels, repeats) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), start=1):
        for repeat in range(1, repeats + 1):
            yield Conv(f"block{block}_conv{repeat}", f"features.{module}", channels, pooled=repeat == repeats)
            module += 2  # torch counts the ReLU …
        module += 1  # … and the pooling.


def build(convention: Convention, image: int, classes: int) -> Any:
    """Return the Keras model: input [None, image, image, 3], output logits [None, classes], the head zero."""
    inputs = x = keras.Input((image, image, 3))
    for conv in convolutions():
        x = keras.layers.Conv2D(conv.channels, 3, padding="same", activation="relu", name=conv.name)(x)
        if conv.pooled:
            x = keras.layers.MaxPooling2D(2, name=f"{conv.name}_pool")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, classifier(x, classes), name="vgg16")


def _arrange(weights: WeightSet, _image: int) -> WeightSet:
    tensors = {name: values for name, values in weights.tensors.items() if not name.startswith(LEFT_OUT)}
    if weights.convention == "keras":
        tensors = bgr_to_rgb(tensors, "block1_conv1/kernel")
    return replace(weights, tensors=tensors)


def _features(weights: str | None) -> Any:
    return keras.applications.VGG16(include_top=False, weights=weights)


def _whole(weights: str | None) -> Any:
    return keras.applications.VGG16(weights=weights)


ZOO_ENTRY = ZooEntry(
    build=build,
    preprocessing={"torch": TORCHVISION_PIXELS, "keras": CAFFE_PIXELS},
    sources=WeightSources(keras_tensors=application_tensors(_features, _whole)),
    arrange=_arrange,
    torch_modules={conv.name: conv.torch_module for conv in convolutions()} | {HEAD: "classifier"},
    head=HEAD,
    head_published=False,
    classes=CLASSES,
    min_image=MIN_IMAGE,
)
