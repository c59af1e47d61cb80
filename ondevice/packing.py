"""Writing a packed dataset from any source of pictures, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ondevice.packed import FORMAT, VERSION, Dataset, Split
from signatures.errors import CapabilityError, UsageError

Progress = Callable[[int, int], None]  # (done, total), called after each image


@dataclass(frozen=True, eq=False)
class Pictures:
    """One split before it is packed: int32 labels [N], and how to get picture `row` at a size.

    `load(row, image)` returns uint8 [image, image, 3] and raises InputError.
    """

    labels: NDArray[np.int32]
    load: Callable[[int, int], NDArray[np.uint8]]


@dataclass(frozen=True, eq=False)
class Source:
    """A dataset before it is packed. Sources of the same `identity` have the same pictures."""

    name: str
    classes: tuple[str, ...]
    train: Pictures
    test: Pictures
    identity: str


def packed_source(dataset: Dataset, resize: Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]) -> Source:
    """The dataset as a source to pack again; `resize(pixels, image)` makes pixels [image, image, 3]."""

    def pictures(split: Split) -> Pictures:
        def load(row: int, image: int) -> NDArray[np.uint8]:
            pixels = split.take(np.array([row]))[0][0]
            return pixels if pixels.shape == (image, image, 3) else resize(pixels, image)

        return Pictures(split.labels, load)

    return Source(
        dataset.name, dataset.classes, pictures(dataset.train), pictures(dataset.test), content_sha256(dataset)
    )


def content_sha256(dataset: Dataset) -> str:
    """Hash of every pixel: the fingerprint samples, and a changed picture must not be taken for its old copy."""
    digest = hashlib.sha256(dataset.fingerprint.encode())
    for split in (dataset.train, dataset.test):
        for row in range(len(split)):
            digest.update(split.take(np.array([row]))[0].tobytes())
    return digest.hexdigest()


def write_packed(source: Source, image: int, out: Path, progress: Progress = lambda done, total: None) -> None:
    """Write the source as a packed dataset of image × image pixels, one picture in memory at a time.

    `out` appears complete or not at all: everything goes to a hidden sibling, `.NAME.partial`, renamed at
    the end (what an earlier, killed run left there is removed).
    Raises UsageError where `out` exists, CapabilityError where it cannot be written (rights, space),
    and what the source raises.
    """
    if out.exists():
        raise UsageError(f"{out}: exists already. Choose another name, or delete it first.")
    total = len(source.train.labels) + len(source.test.labels)
    partial = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _check_space(out.parent, total * image * image * 3)
        if partial.exists():
            shutil.rmtree(partial)
        _write_split(source.train, image, partial / "train", lambda done: progress(done, total))
        first = len(source.train.labels)
        _write_split(source.test, image, partial / "test", lambda done: progress(first + done, total))
        head = {"format": FORMAT, "version": VERSION, "classes": list(source.classes)}
        with _durable(partial / "classes.json") as file:
            file.write((json.dumps(head, indent=1) + "\n").encode())
        partial.rename(out)
    except OSError as error:
        raise CapabilityError(
            f"{out}: cannot write the packed dataset ({error.strerror or error}). "
            f"It takes {total * image * image * 3 / 2**20:.0f} MiB: choose a place with the right and the space to."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_space(folder: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise CapabilityError(
            f"{folder}: the packed images take {needed_bytes / 2**20:.0f} MiB, "
            f"{free_bytes / 2**20:.0f} MiB are free. Free some space, or choose another place."
        )


def _write_split(pictures: Pictures, image: int, folder: Path, done: Callable[[int], None]) -> None:
    # Plain writes: on a full disk a write fails with an error, a store to a mapping kills the process.
    folder.mkdir(parents=True)
    count = len(pictures.labels)
    with _durable(folder / "images.npy") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, image, image, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        for row in range(count):
            pixels = pictures.load(row, image)
            assert pixels.shape == (image, image, 3)
            assert pixels.dtype == np.uint8
            file.write(pixels.tobytes())
            done(row + 1)
    with _durable(folder / "labels.npy") as file:
        np.save(file, pictures.labels.astype(np.int32), allow_pickle=False)


@contextmanager
def _durable(path: Path) -> Iterator[IO[bytes]]:
    """A new file that is on the disk at the end, before the rename that makes it count."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
