"""Peak memory as figure 1 of arXiv 2510.03101 has it: a formula over the shapes of a Keras model. Nothing is measured.

The authors' program has it (github.com/Nokia-Bell-Labs/efficient_layer_selection, commit ca0c318a, memory_utils.py,
which says that it is after TinyTL's profiler). With the layers in the order of `model.layers`, and x and y the elements
that a layer reads and writes for one image:

    4 · 8 · max over layers l of (x_l + 8·y_l + sum of x_k over the trained layers k before l)
    + 4 · weights that train + ½ · weights that do not                                                        bytes

What it counts:
- Convolutions with x and y, BatchNorm with x, and the dense head. It knows no depthwise convolutions, additions,
  poolings and LayerNorm, and looks into no encoder block of ViT, which is one layer to it: so the head is the only
  dense layer that it meets in the four networks, and the patches' convolution the only one of ViT. (ReLU layers count
  as one image each, never the most; they are left out here.)
- x is what the layer before it in the list writes, be that its input or not: ResNet50's conv2_block1_3_conv is charged
  with the output of the shortcut, four times what it reads, and is the peak of inference.
- y has the batch in it already, and all is multiplied by the batch once more: of 8 images, what they read counts 8
  times and what they write 64 times.
- Weights that do not train count 4 bits each, though nothing in the program stores them so; statistics of BatchNorm
  never train.

What it leaves out: gradients, of weights and of activations; momentum; what the backward pass needs of frozen layers;
what lives at the same time on a parallel branch; workspaces of kernels; the framework and the process.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from signatures.errors import InputError

BATCH = 8
IMAGE, CLASSES = 224, 37
"""Of the figure: Oxford-IIIT Pets."""
_ACTIVATION_BYTES = 4
_TRAINED_BYTES = 4
_FROZEN_BYTES = 0.5


@dataclass(frozen=True)
class Published:
    """The bars of figure 1 for a network, in MB of 10⁶ bytes."""

    inference: int
    adabet: int
    full: int
    """Of the baselines that pass gradients through the whole network."""


PUBLISHED = {
    "resnet50": Published(242, 261, 775),
    "vit_b16": Published(85, 91, 386),
    "mobilenetv2": Published(316, 316, 373),
    "vgg16": Published(933, 933, 985),
}


@dataclass(frozen=True)
class CountedLayer:
    """A layer of a Keras model, as the formula sees it."""

    name: str
    reads: int
    """Elements for one image that count as its input; 0 where the formula does not know the layer."""
    writes: int
    """Elements for one image that count as its output."""
    weights: int
    """Values that can train."""
    statistics: int
    """Values that cannot."""


def peak_bytes(layers: Sequence[CountedLayer], trained: Collection[str]) -> int:
    """The formula for the training of some layers, called by their names; for inference if there are none.

    Raises InputError if a name is not that of a layer.
    """
    if unknown := set(trained) - {layer.name for layer in layers}:
        raise InputError(f"the paper's formula is asked for layers that are not there: {', '.join(sorted(unknown))}")
    peak = kept = 0
    weight_bytes = 0.0
    for layer in layers:
        trains = layer.name in trained
        if layer.reads:
            peak = max(peak, layer.reads + BATCH * layer.writes + kept)
        kept += layer.reads * trains
        weight_bytes += layer.weights * (_TRAINED_BYTES if trains else _FROZEN_BYTES)
        weight_bytes += layer.statistics * _FROZEN_BYTES
    return round(_ACTIVATION_BYTES * BATCH * peak + weight_bytes)


def counted_layers(network: str, image: int = IMAGE) -> tuple[CountedLayer, ...]:
    """The layers of a network of the zoo in the order of its Keras model, which is built as Keras publishes it.

    Takes TensorFlow, and some seconds. Raises CapabilityError where it is missing.
    """
    from converter import zoo
    from converter.quiet import import_tensorflow

    import_tensorflow()
    entry: zoo.ZooEntry = importlib.import_module(zoo.MODULES[network]).ZOO_ENTRY
    # The variant matters: torch's ResNet50 halves its maps one convolution later, and would take 5 % more in training.
    model = entry.build("keras", image, CLASSES)
    before = [model.layers[0], *model.layers]
    return tuple(_counted(layer, previous, entry.head) for previous, layer in zip(before, model.layers, strict=False))


def _counted(layer: Any, previous: Any, head: str) -> CountedLayer:
    import keras

    reads = writes = 0
    if isinstance(layer, keras.layers.Conv2D | keras.layers.BatchNormalization) or layer.name == head:
        reads = _elements(previous)
        writes = 0 if isinstance(layer, keras.layers.BatchNormalization) else _elements(layer)
    weights = _values(layer.trainable_weights)
    return CountedLayer(layer.name, reads, writes, weights, _values(layer.weights) - weights)


def _elements(layer: Any) -> int:
    """Of a layer's output, for one image."""
    return math.prod(layer.output.shape[1:])


def _values(variables: Sequence[Any]) -> int:
    return sum(math.prod(variable.shape) for variable in variables)
