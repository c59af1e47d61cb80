"""A network of eight layers that adapts in a second, its bundle, and pictures that it can learn. No TensorFlow."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from converter.export import KEEP, REPLACE, ExportPlan, export_bundle
from converter.network import SourceNetwork
from converter.pack import pack_arrays
from signatures.builder import RELU6, GraphBuilder
from signatures.catalogue import Preprocessing
from signatures.graph import Array, Graph, Tensor
from signatures.layers import find_layers
from signatures.passes import named_layers
from signatures.shapes import SAME

IMAGE = 16
BATCH = 8
CLASSES = ("red", "green", "blue")
RHOS = (0.3, 0.6)
LAYERS = ("stem", "a_depthwise", "a_project", "b_expand", "b_depthwise", "b_project", "last", "head")
PREPROCESSING = Preprocessing(scale=(1 / 128, 1 / 128, 1 / 120), offset=(-1.0, -0.9, -1.0))


def network(classes: int = 5) -> Graph:
    """Inverted residual blocks as in MobileNetV2, with weights drawn by a fixed seed: [1, 16, 16, 3] to logits."""
    random = np.random.default_rng(7)
    b = GraphBuilder("tiny")

    def weights(*shape: int) -> Tensor:
        fan_in = np.prod(shape[1:]) if shape[0] > 1 else np.prod(shape[1:3])
        return b.const(random.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32), "weights")

    def bias(length: int) -> Tensor:
        return b.const(random.normal(0, 0.1, length).astype(np.float32), "bias")

    def depthwise(x: Tensor, stride: int) -> Tensor:
        fields = {"StrideW": stride, "StrideH": stride, "Padding": SAME, "FusedActivationFunction": RELU6}
        return b.depthwise_conv_2d(x, weights(1, 3, 3, x.shape[3]), bias(x.shape[3]), **fields)

    def pointwise(x: Tensor, channels: int, activation: int = 0) -> Tensor:
        filters = weights(channels, 1, 1, x.shape[3])
        return b.conv_2d(x, filters, bias(channels), FusedActivationFunction=activation)

    x = b.input("x", (1, IMAGE, IMAGE, 3))
    strides = {"StrideW": 2, "StrideH": 2, "Padding": SAME}
    x = b.conv_2d(x, weights(8, 3, 3, 3), bias(8), FusedActivationFunction=RELU6, **strides)
    x = b.add(x, pointwise(depthwise(x, 1), 8))
    x = pointwise(depthwise(pointwise(x, 24, RELU6), 2), 12)
    x = pointwise(x, 24, RELU6)
    logits = b.fully_connected(b.mean(x, [1, 2]), weights(classes, 24), bias(classes))
    return b.graph([logits])


def source(classes: int = 5) -> SourceNetwork:
    """What the zoo would hand to the exporter."""
    graph = network(classes)
    named = named_layers(graph, [layer.op for layer in find_layers(graph)], LAYERS)
    scales = {name: np.ones(3, np.float32) for name in LAYERS if name != "head"}
    return SourceNetwork("tiny", named, PREPROCESSING, scales, "random, seed 7")


def write_bundle(out: Path, own_head: bool = False, probe: Path | None = None, seed: int = 0) -> Path:
    """Export the network; with a head of its own for the pictures' classes, or for the device to replace."""
    plan = ExportPlan(BATCH, RHOS, KEEP if own_head else REPLACE, None, probe, seed, threads=1)
    return export_bundle(source(len(CLASSES)) if own_head else source(), plan, out, replace=False).folder


def write_pictures(out: Path, train: int = 48, test: int = 30) -> Path:
    """Pack pictures in which the channel of their class is the brightest."""
    pack_arrays(_pictures(train, 0), _pictures(test, 1), CLASSES, out, IMAGE)
    return out


def _pictures(count: int, seed: int) -> tuple[Array, Array]:
    random = np.random.default_rng([seed, count])
    labels = np.arange(count) % len(CLASSES)
    images = random.integers(0, 150, (count, IMAGE, IMAGE, 3))
    images[np.arange(count), :, :, labels] += 80
    return images.astype(np.uint8), labels
