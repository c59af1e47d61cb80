"""What the networks of the zoo share: preprocessing, a convolution with its BatchNorm, the head, Keras' own weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from converter.keras_tensors import read_keras_file, tensors_of
from converter.weights import Convention, KerasTensors
from signatures.errors import CapabilityError, InputError

CLASSES = 1000
"""ImageNet's."""
HEAD = "predictions"
MIN_IMAGE = 33
"""Of networks with branches that halve their maps five times: at 32 the last maps are single pixels, and TensorFlow's
converter folds the batch axis away."""


def conv_norm(
    x: Any,
    name: str,
    norm: str,
    channels: int | None,
    kernel: int = 1,
    stride: int = 1,
    *,
    both_sides: bool,
    epsilon: float,
    use_bias: bool = False,
) -> Any:
    """Convolution (depthwise where `channels` is None) and BatchNorm.

    torch pads ⌊kernel/2⌋ on both sides; at stride 1 that is TensorFlow's "same". At stride 2 "same" may pad less at the
    start, and `both_sides` asks for torch's.
    """
    padding = "same"
    if both_sides and stride > 1 and kernel > 1:
        x = keras.layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
        padding = "valid"
    shared = {"strides": stride, "padding": padding, "use_bias": use_bias, "name": name}
    layer = (
        keras.layers.DepthwiseConv2D(kernel, **shared)
        if channels is None
        else keras.layers.Conv2D(channels, kernel, **shared)
    )
    return keras.layers.BatchNormalization(epsilon=epsilon, name=norm)(layer(x))


class InvertedResidual(NamedTuple):
    """A block of MobileNetV2 or EfficientNet-Lite."""

    name: str
    expansion: int
    channels: int
    kernel: int
    stride: int


def inverted_residual(inputs: Any, block: InvertedResidual, conv: Callable[..., Any]) -> Any:
    """Widen, convolve by channel, narrow, ReLU6 after the first two; `conv` is `conv_norm` with its last arguments."""
    channels_in, x, name = inputs.shape[-1], inputs, block.name
    if block.expansion > 1:
        x = conv(x, f"{name}_expand", f"{name}_expand_BN", block.expansion * channels_in)
        x = keras.layers.ReLU(6.0, name=f"{name}_expand_relu")(x)
    x = conv(x, f"{name}_depthwise", f"{name}_depthwise_BN", None, kernel=block.kernel, stride=block.stride)
    x = keras.layers.ReLU(6.0, name=f"{name}_depthwise_relu")(x)
    x = conv(x, f"{name}_project", f"{name}_project_BN", block.channels)
    if channels_in == block.channels and block.stride == 1:
        return keras.layers.Add(name=f"{name}_add")([inputs, x])
    return x


class Names(NamedTuple):
    """What a convolution, its BatchNorm and its activation are called."""

    conv: str
    norm: str
    relu: str


def inverted_residual_network(
    name: str,
    image: int,
    classes: int,
    conv: Callable[..., Any],
    first: Names,
    blocks: Iterable[InvertedResidual],
    last: Names,
) -> Any:
    """Build MobileNetV2 or EfficientNet-Lite: `blocks` between two more convolutions, then the head."""
    inputs = keras.Input((image, image, 3))
    x = conv(inputs, first.conv, first.norm, 32, kernel=3, stride=2)
    x = keras.layers.ReLU(6.0, name=first.relu)(x)
    for block in blocks:
        x = inverted_residual(x, block, conv)
    x = conv(x, last.conv, last.norm, 1280)
    x = keras.layers.ReLU(6.0, name=last.relu)(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, classifier(x, classes), name=name)


def classifier(features: Any, classes: int) -> Any:
    """Return the logits: the dense head of every network here, zero until it is given values."""
    return keras.layers.Dense(classes, kernel_initializer="zeros", name=HEAD)(features)


def application_tensors(*models: Callable[[str | None], Any]) -> KerasTensors:
    """Make the Keras source of a network that Keras publishes, for `WeightSources.keras_tensors`.

    Each of `models` builds Keras' own model with weights "imagenet" or None. The first is downloaded; a file may
    belong to any of them.
    """

    def tensors(weights: str, _image: int) -> Mapping[str, NDArray[np.float32]]:
        if weights == "imagenet":
            return tensors_of(models[0](weights))
        return first_that_fits([partial(make, None) for make in models], Path(weights))

    return tensors


def own_tensors(build: Callable[[Convention, int, int], Any], *other_images: int) -> KerasTensors:
    """Make the Keras source of a network that Keras does not publish: files of our own model, saved with Keras.

    `other_images`: sizes of image, besides the one asked for, that the weights may be for, if their shapes tell.
    """

    def tensors(weights: str, image: int) -> Mapping[str, NDArray[np.float32]]:
        if weights == "imagenet":
            raise CapabilityError("Keras does not publish this network")
        sizes = dict.fromkeys((image, *other_images))
        return first_that_fits([partial(build, "keras", size, CLASSES) for size in sizes], Path(weights))

    return tensors


def first_that_fits(models: Sequence[Callable[[], Any]], path: Path) -> Mapping[str, NDArray[np.float32]]:
    """Read a Keras file through the first of these models that takes it; InputError where none does."""
    for make in models[:-1]:
        try:
            return read_keras_file(make(), path)
        except InputError:
            continue
    return read_keras_file(models[-1](), path)


def bgr_to_rgb(tensors: Mapping[str, NDArray[Any]], first_kernel: str) -> dict[str, NDArray[Any]]:
    """Turn the input channels of the first convolution around, [h, w, BGR, out] → [h, w, RGB, out].

    Keras' ResNet50 and VGG16 still take the BGR images of Caffe, where their weights come from. All networks here take
    RGB; swapping the kernel's channels instead of the image's is the same sum.
    """
    return {name: values[:, :, ::-1] if name == first_kernel else values for name, values in tensors.items()}
