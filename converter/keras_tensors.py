"""Values into and out of Keras models, by name: read, assign with checks, initialise at random."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from converter.keras_files import check_keras_file
from converter.weights import WeightSet
from signatures.catalogue import Preprocessing
from signatures.errors import InputError

RANDOM_SEED = 0
CALIBRATION_IMAGES = 8
CALIBRATION_CELL = 16
"""Side of the constant squares in the calibration images, in pixels."""

TORCH_NAMES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
UNUSED_IN_TORCH = ".num_batches_tracked"

TRANSFORMER_DEVIATION = 0.02

WEIGHT_LAYERS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)


def tensors_of(model: Any) -> dict[str, NDArray[np.float32]]:
    """Return all values of a Keras model under "layer/variable", e.g. "Conv1/kernel" [h, w, in, out]."""
    return {f"{layer.name}/{variable.name}": variable.numpy() for layer in model.layers for variable in layer.weights}


def read_keras_file(model: Any, path: Path) -> dict[str, NDArray[np.float32]]:
    """Load a Keras weight file (.h5, .weights.h5, .keras) into `model` and return its values; no code in it is run.

    Raises InputError where the file is damaged or belongs to another network.
    """
    check_keras_file(path)
    try:
        model.load_weights(str(path))
    # Keras and h5py raise whatever comes to hand here: ValueError, KeyError, OSError, AttributeError, BadZipFile.
    except Exception as error:
        raise InputError(f"{path}: not weights of {model.name}: {error}") from error
    return tensors_of(model)


def assign(model: Any, weights: WeightSet, torch_modules: Mapping[str, str], fresh: Collection[str]) -> None:
    """Set every variable of `model` from `weights`, except those of the layers named in `fresh`.

    `torch_modules` maps Keras' layer names to torch's module names, e.g. "Conv1" → "features.0.0", or "layer/variable"
    to the name of a value that belongs to no module; weights with Keras' names do not need it. Raises InputError,
    naming the value as its source does, for one that is missing or left over, has another shape, holds no finite
    floats, or is a negative variance.
    """
    wanted: dict[str, tuple[Any, tuple[int, ...]]] = {}
    for layer in model.layers:
        for variable in layer.weights:
            axes = tuple(range(len(variable.shape)))
            name = f"{layer.name}/{variable.name}"
            if weights.convention == "torch":
                axes = _torch_axes(layer, variable)
                name = torch_modules.get(name) or f"{torch_modules[layer.name]}.{TORCH_NAMES[variable.name]}"
            wanted[name] = (None, ()) if layer.name in fresh else (variable, axes)
    unknown = [name for name in weights.tensors if name not in wanted and not name.endswith(UNUSED_IN_TORCH)]
    missing = [name for name, (variable, _) in wanted.items() if variable is not None and name not in weights.tensors]
    if missing:
        found = f"; it has {', '.join(unknown[:3])}, … instead" if unknown else ""
        raise InputError(f"{weights.origin}: no value {missing[0]}, which {model.name} needs{found}")
    if unknown:
        raise InputError(f"{weights.origin}: {unknown[0]} has no place in {model.name}; another network's weights?")
    for name, (variable, axes) in wanted.items():
        if variable is not None:
            values, shape = weights.tensors[name], tuple(variable.shape)
            # axes[k] is the source's axis that becomes Keras' axis k.
            expected = tuple(shape[axes.index(k)] for k in range(len(axes)))
            check_values(f"{weights.origin}: {name}", values, expected)
            if variable.name == "moving_variance" and values.min() < 0:
                raise InputError(f"{weights.origin}: {name}: holds a negative variance ({values.min()})")
            variable.assign(values.transpose(axes).astype(np.float32))


def _torch_axes(layer: Any, variable: Any) -> tuple[int, ...]:
    """Which axis of torch's tensor becomes which of Keras': OIHW → HWIO, depthwise C1HW → HWC1, dense OI → IO."""
    if len(variable.shape) == 4:
        return (2, 3, 0, 1) if isinstance(layer, keras.layers.DepthwiseConv2D) else (2, 3, 1, 0)
    return (1, 0) if len(variable.shape) == 2 else tuple(range(len(variable.shape)))


def check_values(where: str, values: NDArray[Any], shape: tuple[int, ...]) -> None:
    """Raise InputError unless `values` are finite floats of the given shape."""
    if values.shape != shape:
        raise InputError(f"{where}: got shape {values.shape}, expected {shape}")
    if values.dtype.kind != "f":
        raise InputError(f"{where}: got {values.dtype}, expected floats")
    if not np.isfinite(values).all():
        raise InputError(f"{where}: holds NaN or infinity")


def randomise(model: Any, preprocessing: Preprocessing) -> None:
    """Initialise at random, always the same: He-normal kernels, and BatchNorm statistics that fit them.

    Biases, β and γ stay as Keras sets them (0, 0, 1). Each BatchNorm gets the mean and variance that it sees on a few
    blotchy random images, so that signals neither die out nor explode. He et al., arXiv 1502.01852, equation 10.

    Where LayerNorm does that, in transformers, kernels and embeddings have BERT's small deviation instead, as
    torchvision's position embeddings do; γ and β are moved a little, because TensorFlow's converter would leave out
    a multiplication by ones.
    """
    generator = np.random.default_rng(RANDOM_SEED)
    transformer = any(isinstance(layer, keras.layers.LayerNormalization) for layer in model.layers)
    for layer in model.layers:
        if isinstance(layer, WEIGHT_LAYERS):
            shape = tuple(layer.kernel.shape)
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            fan_in = math.prod(shape[:2] if depthwise else shape[:-1])
            deviation = TRANSFORMER_DEVIATION if transformer else math.sqrt(2 / fan_in)
            layer.kernel.assign(generator.normal(0, deviation, shape).astype(np.float32))
        elif not isinstance(layer, keras.layers.BatchNormalization):
            for variable in layer.weights:
                noise = generator.normal(0, TRANSFORMER_DEVIATION, variable.shape).astype(np.float32)
                variable.assign(variable.numpy() + noise)
    pixels = _blotches(generator, *model.input.shape[1:3])
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # One pass replaces the moving statistics outright.
    scale, offset = np.asarray((preprocessing.scale, preprocessing.offset), np.float32)
    model(pixels * scale + offset, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _blotches(generator: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Random images [n, height, width, 3] in 0..255 that vary slowly, as photographs do and white noise does not."""
    cells = (CALIBRATION_IMAGES, -(-height // CALIBRATION_CELL), -(-width // CALIBRATION_CELL), 3)
    coarse = generator.integers(0, 256, cells).astype(np.float32)
    return coarse.repeat(CALIBRATION_CELL, 1).repeat(CALIBRATION_CELL, 2)[:, :height, :width]
