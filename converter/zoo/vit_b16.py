"""ViT-B/16 (arXiv 2010.11929), as torchvision builds it. Keras does not publish it; both conventions are the same.

Each of the four dense layers of an attention and the two of an MLP is a layer of its own, where torch has one
`in_proj` for query, key and value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from converter.keras_tensors import check_values
from converter.pixels import TORCHVISION_PIXELS
from converter.weights import Convention, WeightSet, WeightSources
from converter.zoo import ZooEntry
from converter.zoo.common import CLASSES, HEAD, classifier, own_tensors
from signatures.errors import InputError

PATCH = 16
WIDTH = 768
HEADS = 12
HEAD_WIDTH = WIDTH // HEADS
MLP_WIDTH = 3072
BLOCKS = 12
EPSILON = 1e-6
MIN_IMAGE = 2 * PATCH
TRAINED_AT = (224, 384)
"""Sizes of image that weights are published for, torchvision's and SWAG's."""

CLASS_TOKEN = "class_token"
"""torch's; Keras files of our model hold it in the first position."""
POSITION = {"torch": "encoder.pos_embedding", "keras": "embeddings/position"}


class Embeddings(keras.layers.Layer):  # type: ignore[misc]
    """Put a class token before the patches, and add to each token the embedding of its position.

    `position` [1, 1 + patches, width] holds the class token too, in the sum that is its first row. The token itself is
    a padding of zeros: a concatenation would need it once for every image of the batch.
    """

    def build(self, shape: tuple[int | None, int, int]) -> None:
        """Make the variable, for patches of this shape [batch, patches, width]."""
        _, patches, width = shape
        self.position = self.add_weight(shape=(1, 1 + patches, width), initializer="zeros", name="position")

    def call(self, patches: Any) -> Any:
        """Return the tokens [batch, 1 + patches, width]."""
        return keras.ops.pad(patches, ((0, 0), (1, 0), (0, 0))) + self.position


class LayerNorm(keras.layers.LayerNormalization):  # type: ignore[misc]
    """Keras' layer, written for TensorFlow's converter.

    Keras computes (γ/σ)·x + (β − γμ/σ), with more ops and tensors of the input's size. After a multiplication by γ and
    an addition of β the converter would fold both into the dense layers that follow, and change what these learn; a
    subtraction from β it leaves alone.
    """

    def call(self, x: Any) -> Any:
        """Return β − γ·(μ − x)/√(σ² + ε), over the last axis."""
        centred = keras.ops.mean(x, axis=-1, keepdims=True) - x
        variance = keras.ops.mean(keras.ops.square(centred), axis=-1, keepdims=True)
        return self.beta - centred * keras.ops.rsqrt(variance + self.epsilon) * self.gamma


class Dense(keras.layers.Dense):  # type: ignore[misc]
    """Keras' layer, as one op on [batch, tokens, width]: Keras' own goes through [batch · tokens, width]."""

    def call(self, x: Any) -> Any:
        """Return x·W + b."""
        return tf.matmul(x, self.kernel) + self.bias


def build(convention: Convention, image: int, classes: int) -> Any:
    """Return the Keras model: input [None, image, image, 3], output logits [None, classes], the head zero."""
    inputs = keras.Input((image, image, 3))
    x = keras.layers.Conv2D(WIDTH, PATCH, strides=PATCH, name="patches")(inputs)
    x = keras.layers.Reshape(((image // PATCH) ** 2, WIDTH), name="sequence")(x)
    x = Embeddings(name="embeddings")(x)
    for index in range(BLOCKS):
        x = _block(x, f"block_{index}")
    # The class token alone; LayerNorm does not mix tokens, so that the rest need not be normalised.
    x = LayerNorm(epsilon=EPSILON, name="norm")(x[:, 0])
    return keras.Model(inputs, classifier(x, classes), name="vit_b16")


def _block(inputs: Any, name: str) -> Any:
    x = LayerNorm(epsilon=EPSILON, name=f"{name}_norm_1")(inputs)
    x = keras.layers.Add(name=f"{name}_add_1")([inputs, _attention(x, name)])
    y = LayerNorm(epsilon=EPSILON, name=f"{name}_norm_2")(x)
    y = Dense(MLP_WIDTH, name=f"{name}_mlp_1")(y)
    y = keras.layers.Activation("gelu", name=f"{name}_gelu")(y)
    y = Dense(WIDTH, name=f"{name}_mlp_2")(y)
    return keras.layers.Add(name=f"{name}_add_2")([x, y])


def _attention(x: Any, name: str) -> Any:
    tokens = x.shape[1]

    def heads(part: str, axes: tuple[int, int, int]) -> Any:
        projected = Dense(WIDTH, name=f"{name}_{part}")(x)
        split = keras.layers.Reshape((tokens, HEADS, HEAD_WIDTH), name=f"{name}_{part}_heads")(projected)
        return keras.layers.Permute(axes, name=f"{name}_{part}_first")(split)

    # Not the query, as torch does: TensorFlow's converter would fold the factor into the query's weights.
    scores = heads("query", (2, 1, 3)) @ heads("key", (2, 3, 1)) * (1 / math.sqrt(HEAD_WIDTH))
    weights = keras.layers.Softmax(name=f"{name}_softmax")(scores)
    mixed = keras.layers.Permute((2, 1, 3), name=f"{name}_heads_last")(weights @ heads("value", (2, 1, 3)))
    return Dense(WIDTH, name=f"{name}_out")(keras.layers.Reshape((tokens, WIDTH), name=f"{name}_joined")(mixed))


def _torch_modules() -> dict[str, str]:
    """Our layer names → torchvision's modules, of which `_arrange` has split in_proj into q, k and v."""
    modules = {
        "patches": "conv_proj",
        "embeddings/position": POSITION["torch"],
        "norm": "encoder.ln",
        HEAD: "heads.head",
    }
    for index in range(BLOCKS):
        name, module = f"block_{index}", f"encoder.layers.encoder_layer_{index}"
        modules |= {
            f"{name}_norm_1": f"{module}.ln_1",
            f"{name}_query": f"{module}.self_attention.query",
            f"{name}_key": f"{module}.self_attention.key",
            f"{name}_value": f"{module}.self_attention.value",
            f"{name}_out": f"{module}.self_attention.out_proj",
            f"{name}_norm_2": f"{module}.ln_2",
            f"{name}_mlp_1": f"{module}.mlp.0",
            f"{name}_mlp_2": f"{module}.mlp.3",
        }
    return modules


def _arrange(weights: WeightSet, image: int) -> WeightSet:
    tensors = dict(weights.tensors)
    if weights.convention == "torch":
        tensors = {ours: part for name, values in tensors.items() for ours, part in _split(name, values)}
    name = POSITION[weights.convention]
    if name in tensors:
        where = f"{weights.origin}: {name}"
        tensors[name] = resample_positions(where, tensors[name], image // PATCH)
        if CLASS_TOKEN in tensors:
            check_values(f"{weights.origin}: {CLASS_TOKEN}", tensors[CLASS_TOKEN], (1, 1, WIDTH))
            check_values(where, tensors[name], (1, 1 + (image // PATCH) ** 2, WIDTH))
            tensors[name] = tensors[name].astype(np.float32)
            tensors[name][:, :1] += tensors.pop(CLASS_TOKEN)
    return replace(weights, tensors=tensors)


def _split(name: str, values: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield a value of torch's as we name it: in_proj in three parts, and the MLP as torchvision names it today."""
    module, _, variable = name.rpartition(".")
    if variable in ("in_proj_weight", "in_proj_bias") and values.ndim and len(values) == 3 * WIDTH:
        for part, third in zip(("query", "key", "value"), np.split(values, 3), strict=True):
            yield f"{module}.{part}.{variable.removeprefix('in_proj_')}", third
    else:
        yield name.replace(".mlp.linear_1.", ".mlp.0.").replace(".mlp.linear_2.", ".mlp.3."), values


def resample_positions(where: str, positions: NDArray[Any], side: int) -> NDArray[Any]:
    """Resample [1, 1 + n², width] to [1, 1 + side², width], bicubic, as torchvision's interpolate_embeddings does.

    The first, the class token's, stays as it is. Raises InputError where there is no such n.
    """
    n = math.isqrt(positions.shape[1] - 1) if positions.ndim == 3 and positions.shape[1] > 1 else 0
    if n == 0 or positions.shape[1] != 1 + n * n:
        raise InputError(f"{where}: got shape {positions.shape}, expected [1, 1 + n², {WIDTH}]")
    if n == side:
        return positions
    weights = _bicubic(n, side)
    grid = positions[0, 1:].astype(np.float64).reshape(n, n, -1)
    resampled = np.einsum("ip,jq,pqc->ijc", weights, weights, grid).reshape(1, side * side, -1)
    return np.concatenate([positions[:, :1], resampled.astype(positions.dtype)], axis=1)


def _bicubic(n: int, side: int) -> NDArray[np.float64]:
    """Weights [side, n] of cubic convolution, corners on corners, a = −0.75, and clamped at the borders, as torch has.

    Keys, Cubic convolution interpolation for digital image processing, 1981, equation 4, with a free `a`.
    """
    a = -0.75
    weights = np.zeros((side, n))
    for row in range(side):
        position = row * (n - 1) / (side - 1) if side > 1 else 0.0
        start = math.floor(position)
        for tap in range(start - 1, start + 3):
            t = abs(position - tap)
            weight = (
                ((a + 2) * t - (a + 3)) * t * t + 1 if t <= 1 else a * (((t - 5) * t + 8) * t - 4) if t < 2 else 0.0
            )
            weights[row, min(max(tap, 0), n - 1)] += weight
    return weights


ZOO_ENTRY = ZooEntry(
    build=build,
    preprocessing={"torch": TORCHVISION_PIXELS, "keras": TORCHVISION_PIXELS},
    sources=WeightSources(keras_tensors=own_tensors(build, *TRAINED_AT)),
    arrange=_arrange,
    torch_modules=_torch_modules(),
    head=HEAD,
    classes=CLASSES,
    min_image=MIN_IMAGE,
    image_multiple=PATCH,
)
