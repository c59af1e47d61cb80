"""The dataset of a run: opened from a packed dataset or an image folder, handed out in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.random import PCG64, Generator
from numpy.typing import NDArray

from ondevice.image_folder import folder_source
from ondevice.packed import Dataset, Split, read_packed
from ondevice.packing import Progress, Source, packed_source, write_packed
from ondevice.pictures import resize_pixels
from signatures.catalogue import Preprocessing
from signatures.errors import InputError

__all__ = [
    "Dataset",
    "Split",
    "evaluation_batches",
    "open_dataset",
    "open_source",
    "probe_batches",
    "shuffled_batches",
    "to_input",
]

_DECODING = 1  # raise it when the same files would give other pixels: kept copies are then made anew
_PROBE_STREAM = 1  # third word of the seed, apart from those of epochs and of the held-out split
_MIRROR_STREAM = 2


def open_dataset(
    path: Path, image: int, workspace: Path, seed: int, progress: Progress = lambda done, total: None
) -> Dataset:
    """Open a packed dataset or an image folder with images of uint8 [image, image, 3].

    A packed dataset of that size is mapped where it is. Anything else is decoded or resized once, one
    picture in memory at a time, into `workspace`/dataset-<id>; the next run on the same files reuses it.
    `seed` decides which images of a folder without test/ become the test split.
    Raises InputError (what is wrong with which file), CapabilityError (no Pillow, no right or space to write).
    """
    opened = _open(path, seed)
    if isinstance(opened, Dataset) and opened.image_shape == (image, image):
        return opened
    source = _as_source(opened)
    key = hashlib.sha256(f"{_DECODING} {image} {source.identity}".encode()).hexdigest()[:16]
    packed = workspace / f"dataset-{key}"
    if not packed.exists():
        write_packed(source, image, packed, progress)
    return replace(read_packed(packed), name=source.name)


def open_source(path: Path, seed: int) -> Source:
    """A packed dataset or an image folder as something to pack; nothing is decoded yet. Raises InputError."""
    return _as_source(_open(path, seed))


def _open(path: Path, seed: int) -> Dataset | Source:
    if not path.exists():
        raise InputError(f"{path}: no such folder. Give a packed dataset or a folder of images.")
    if not path.is_dir():
        raise InputError(f"{path}: a file, expected a folder of images or a packed dataset. Unpack it first.")
    return read_packed(path) if (path / "classes.json").exists() else folder_source(path, seed)


def _as_source(opened: Dataset | Source) -> Source:
    return packed_source(opened, resize_pixels) if isinstance(opened, Dataset) else opened


def shuffled_batches(
    images: int, batch: int, epoch: int, seed: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.bool_]]]:
    """Rows [batch] of one epoch, shuffled by (seed, epoch), and which of them to mirror: a coin for each.

    Every image comes once, but for the images % batch that an epoch leaves out.
    """
    order = Generator(PCG64([seed, epoch])).permutation(images)
    coins = Generator(PCG64([seed, epoch, _MIRROR_STREAM])).random(images) < 0.5
    for first in range(0, images - batch + 1, batch):
        yield order[first : first + batch], coins[first : first + batch]


def evaluation_batches(split: Split, batch: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int32], int]]:
    """Images uint8 [batch, H, W, 3], labels int32 [batch] and how many of them count, in stored order.

    The last batch is filled up by repeating the last image.
    """
    last = len(split) - 1
    for first in range(0, len(split), batch):
        rows = np.minimum(np.arange(first, first + batch), last)
        yield *split.take(rows), min(batch, len(split) - first)


def probe_batches(
    split: Split, batch: int, batches: int, seed: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int32]]]:
    """`batches` times images uint8 [batch, H, W, 3], all distinct, drawn by the seed, and their labels int32 [batch].

    Raises InputError at once where the split has fewer images.
    """
    if len(split) < batch * batches:
        raise InputError(
            f"Probing takes {batches} batches of {batch} distinct images, {batch * batches} in all; "
            f"the split has {len(split)}. Ask for fewer or smaller batches, or add images."
        )
    generator = Generator(PCG64([seed, 0, _PROBE_STREAM]))
    rows = generator.permutation(len(split))[: batch * batches].reshape(batches, batch)
    return (split.take(chosen) for chosen in rows)


def to_input(images: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Network input float32 of the same shape [..., 3]: pixel · scale + offset for each channel, in one buffer."""
    inputs = images.astype(np.float32)
    inputs *= np.asarray(preprocessing.scale, np.float32)
    inputs += np.asarray(preprocessing.offset, np.float32)
    return inputs
