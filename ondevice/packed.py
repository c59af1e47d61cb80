"""The packed dataset: one images.npy and labels.npy a split, and classes.json. Read and checked.

DATA/classes.json       {"format": "adabet-dataset", "version": 1, "classes": [names in label order]}
DATA/train/images.npy   uint8 [N, H, W, 3], RGB
DATA/train/labels.npy   int32 [N], indices into classes
DATA/test/…             the same; every class has at least one image in each split
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import mmap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from signatures.errors import InputError
from signatures.files import open_regular, read_json

FORMAT = "adabet-dataset"
VERSION = 1
MOST_IMAGES = 10_000_000
"""Of a split. A sparse file may claim any number, and labels are held in memory."""
MOST_PIXELS = 89_478_485
"""Of an image: Pillow's own limit."""
_FINGERPRINT_ROWS = 32
_PACK_AGAIN = "Delete it and pack it again with `python -m converter pack`."


@dataclass(frozen=True, eq=False)
class Split:
    """Images and class ids of one split: uint8 [N, H, W, 3], usually mapped from the file, and int32 [N]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.intp]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Copy the given rows: uint8 [len(rows), H, W, 3] and int32 [len(rows)].

        The pages that a row mapped (up to 2 MiB around it) are dropped at once: the page cache keeps them,
        but an epoch must not leave the whole dataset counted as this process's memory.
        """
        images = np.empty((len(rows), *self.images.shape[1:]), np.uint8)
        mapping = self.images.base
        for copy, row in zip(images, rows, strict=True):
            copy[:] = self.images[row]
            if isinstance(mapping, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                mapping.madvise(mmap.MADV_DONTNEED)
        return images, self.labels[rows]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A checked dataset: both splits hold every class, images of both have one shape.

    `fingerprint` identifies the content wherever it lies (hex sha256 over the classes, all labels and up to
    32 evenly spaced images a split); it is no protection against someone who forges data.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    fingerprint: str

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return self.train.images.shape[1], self.train.images.shape[2]

    @property
    def description(self) -> str:
        """One line for people: name, sizes, classes."""
        height, width = self.image_shape
        return (
            f"{self.name}: {len(self.train)} training and {len(self.test)} test images "
            f"of {height}×{width}, {len(self.classes)} classes"
        )


def check_dataset(name: str, where: str, train: Split, test: Split, classes: tuple[str, ...]) -> Dataset:
    """Check arrays against what the format promises; `where` names them in errors. Raises InputError."""
    if len(classes) < 2:
        raise InputError(f"{where}: {len(classes)} class ({', '.join(classes)}); telling apart takes at least 2.")
    if len(set(classes)) < len(classes) or not all(classes):
        raise InputError(f"{where}: class names must be distinct and not empty, got {list(classes)}.")
    _check_split(f"{where}, train", train, classes)
    _check_split(f"{where}, test", test, classes)
    if train.images.shape[1:] != test.images.shape[1:]:
        raise InputError(
            f"{where}: training images are {train.images.shape[1:]}, test images {test.images.shape[1:]}; "
            f"both need one shape. {_PACK_AGAIN}"
        )
    return Dataset(name, train, test, classes, _fingerprint(train, test, classes))


def _check_split(where: str, split: Split, classes: tuple[str, ...]) -> None:
    images, labels = split.images, split.labels
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise InputError(f"{where}: images are {images.dtype} {images.shape}, expected uint8 (N, H, W, 3).")
    if labels.dtype != np.int32 or labels.ndim != 1:
        raise InputError(f"{where}: labels are {labels.dtype} {labels.shape}, expected int32 (N,).")
    if len(images) != len(labels):
        raise InputError(f"{where}: {len(images)} images but {len(labels)} labels.")
    if len(images) > MOST_IMAGES or images.shape[1] * images.shape[2] > MOST_PIXELS:
        raise InputError(
            f"{where}: images of shape {images.shape}; at most {MOST_IMAGES:,} of {MOST_PIXELS:,} pixels are read."
        )
    if 0 in images.shape:
        raise InputError(f"{where}: no images, shape {images.shape}.")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise InputError(
            f"{where}: labels run from {labels.min()} to {labels.max()}, "
            f"expected 0 to {len(classes) - 1} for {len(classes)} classes."
        )
    missing = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
    if len(missing):
        names = ", ".join(classes[c] for c in missing[:5]) + (" …" if len(missing) > 5 else "")
        raise InputError(f"{where}: no image of {names}. Add some, or leave the class out of both splits.")


def _fingerprint(train: Split, test: Split, classes: tuple[str, ...]) -> str:
    digest = hashlib.sha256(json.dumps(classes).encode())
    for split in (train, test):
        digest.update(str(split.images.shape).encode())
        digest.update(split.labels.tobytes())
        for row in np.unique(np.linspace(0, len(split) - 1, _FINGERPRINT_ROWS).astype(np.intp)):
            digest.update(split.take(np.array([row]))[0].tobytes())
    return digest.hexdigest()


def read_packed(path: Path) -> Dataset:
    """Open a packed dataset; images stay in the file. Raises InputError where it is not what it claims."""
    classes = _read_classes(path / "classes.json")
    train, test = (
        Split(_map_array(path / name / "images.npy"), _map_array(path / name / "labels.npy"))
        for name in ("train", "test")
    )
    dataset = check_dataset(path.resolve().name, str(path), train, test, classes)
    train, test = (replace(split, labels=np.array(split.labels)) for split in (train, test))
    return replace(dataset, train=train, test=test)


def _read_classes(path: Path) -> tuple[str, ...]:
    try:
        head = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}). {_PACK_AGAIN}") from error
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise InputError(f'{path}: not a packed dataset, expected {{"format": "{FORMAT}", …}}. {_PACK_AGAIN}')
    if head.get("version") != VERSION:
        raise InputError(f"{path}: format version {head.get('version')!r}, this program reads {VERSION}. {_PACK_AGAIN}")
    classes = head.get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InputError(f'{path}: "classes" must be a list of names. {_PACK_AGAIN}')
    return tuple(classes)


def _map_array(path: Path) -> NDArray[Any]:
    """Map a .npy file read-only. Its header is data alone; Python objects (pickles) are refused."""
    try:
        with open_regular(path) as file:
            dtype, shape = _header(file)
            begin = file.tell()
            needed_bytes = math.prod(shape) * dtype.itemsize
            rest_bytes = file.seek(0, io.SEEK_END) - begin
            if needed_bytes > rest_bytes:
                raise ValueError(f"{dtype} {shape} takes {needed_bytes} bytes, {rest_bytes} are there")
            if needed_bytes == 0:
                return np.empty(shape, dtype)  # what is empty cannot be mapped
            return np.memmap(file, dtype, "r", begin, shape)
    # NumPy reads a header with Python's own parser, which raises nearly anything.
    except Exception as error:
        why = str(error) or type(error).__name__
        raise InputError(f"{path}: not a complete, plain .npy file ({why}). {_PACK_AGAIN}") from error


def _header(file: BinaryIO) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Dtype and shape of a .npy file in C order. Raises ValueError, and what NumPy raises."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"version {version}")
    if fortran and len(shape) > 1:
        raise ValueError("stored in Fortran order, expected C order")
    if dtype.hasobject or dtype.itemsize == 0 or dtype.subdtype is not None or min(shape, default=0) < 0:
        raise ValueError(f"{dtype} {shape}")
    return dtype, tuple(int(side) for side in shape)
