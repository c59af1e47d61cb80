"""The study's datasets, cut to size, and how a bad camera sees them.

FOLDER/tune/            a packed dataset: the images to train on, and those that choose the learning rate
FOLDER/final/           a packed dataset: the same images to train on, and those that measure
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converter.demo_data import stratified_split, write_digits
from converter.pack import pack_arrays, pack_folder
from ondevice.packed import Split, read_packed
from profiling.study.design import NetworkDesign
from signatures.errors import CapabilityError, InputError

DIGITS, BAD_CAMERA = "digits", "-bad-camera"
TUNE, FINAL = "tune", "final"
_SEED = 0


def prepare(name: str, network: NetworkDesign, folders: Mapping[str, Path], out: Path) -> None:
    """Write the dataset `name` for `network` into `out`, whole or not at all; `folders` are those that were given.

    InputError where it is not known or has too few images; CapabilityError without scikit-image for a bad camera.
    """
    base = name.removesuffix(BAD_CAMERA)
    if base != DIGITS and base not in folders:
        raise InputError(f"no dataset is called {base!r}: give it as --data {base}=FOLDER")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        packed = Path(temporary) / base
        if base == DIGITS:
            dataset = write_digits(packed, network.image)
        else:
            dataset = pack_folder(folders[base], packed, network.image, _SEED)
        train, test = dataset.train, dataset.test
        if len(train) < network.train + network.validation:
            raise InputError(
                f"{name} has {len(train)} training images, fewer than {network.train} to train on and "
                f"{network.validation} that choose the learning rate"
            )
        some, _ = stratified_split(train.labels, network.train + network.validation, _SEED)
        fit, rest = stratified_split(train.labels[some], network.train, _SEED)
        held = stratified_split(test.labels, min(network.test, len(test)), _SEED)[0]
        whole = Path(temporary) / "whole"
        for folder, split, rows in ((TUNE, train, some[rest]), (FINAL, test, held)):
            parts = [_taken(train, some[fit]), _taken(split, rows)]
            if name.endswith(BAD_CAMERA):
                parts = [(bad_camera(images, _SEED + i), labels) for i, (images, labels) in enumerate(parts)]
            pack_arrays(parts[0], parts[1], dataset.classes, whole / folder, network.image)
        shutil.rmtree(out, ignore_errors=True)
        whole.rename(out)


def _taken(split: Split, rows: NDArray[np.intp]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    return split.take(rows)


def splits(folder: Path) -> tuple[Split, Split, Split, tuple[str, ...]]:
    """What was prepared: to train, to choose the learning rate, to measure; and the class names."""
    tune, final = read_packed(folder / TUNE), read_packed(folder / FINAL)
    return tune.train, tune.test, final.test, tune.classes


def bad_camera(images: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """The same pictures by a cheap camera at dusk: out of focus, dark, yellow, and with the noise of few photons.

    uint8 [N, H, W, 3]. Blur of 1 to 2 pixels' deviation at 96 pixels, gamma of 1.8 to 2.6, blue at 0.55 to 0.8, photon
    noise of 200 levels; each picture draws its own. CapabilityError without scikit-image.
    """
    try:
        from skimage import exposure, filters
        from skimage.util import img_as_ubyte
    except ImportError:
        raise CapabilityError("A bad camera takes scikit-image: pip install scikit-image.") from None
    generator = np.random.Generator(np.random.PCG64(seed))
    seen = np.empty_like(images)
    for picture, image in zip(seen, images, strict=True):
        focus = generator.uniform(1.0, 2.0) * image.shape[0] / 96
        blurred = filters.gaussian(image / 255.0, sigma=focus, channel_axis=-1)
        dark = exposure.adjust_gamma(blurred, gamma=generator.uniform(1.8, 2.6), gain=0.7)
        cast = dark * (1.0, generator.uniform(0.8, 0.95), generator.uniform(0.55, 0.8))
        photons = generator.poisson(np.clip(cast, 0.0, 1.0) * 200.0) / 200.0
        picture[:] = img_as_ubyte(np.clip(photons, 0.0, 1.0))
    return seen
