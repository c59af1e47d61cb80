"""Folders of images: train|test/<class>/*.jpg, or plain <class>/*.jpg with a test split held out."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ondevice.packing import Pictures, Source
from ondevice.pictures import decode_picture
from signatures.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
HOLD_OUT = 0.2
_NOT_DECODED = (".heic", ".heif", ".avif", ".tif", ".tiff", ".dng")  # photos all the same: never skip them silently
_HOLD_OUT_STREAM = 2  # third word of the seed, apart from those of batches and probing
_EXPECTED = "Expected train/<class>/*.jpg and test/<class>/*.jpg, or <class>/*.jpg."


@dataclass(frozen=True)
class _File:
    """One image: path relative to the folder, and its class id."""

    name: str
    label: int


def folder_source(path: Path, seed: int) -> Source:
    """List an image folder; nothing is decoded yet.

    Classes are the sub-folders in order of their names, images likewise; hidden entries and files that are
    no images are skipped. A plain folder has 20 % of each class (rounded, at least one image) held out as
    the test split, the same for the same seed and files.
    Raises InputError: no classes, one class, an empty class, train and test that differ, HEIC and the like.
    """
    if (path / "train").is_dir() and _folders(path / "train"):
        classes, train, test = _split_folder(path)
    else:
        classes, train, test = _plain_folder(path, seed)
    identity = _identity(path, classes, train, test)
    return Source(path.resolve().name, classes, _pictures(path, train), _pictures(path, test), identity)


def _split_folder(path: Path) -> tuple[tuple[str, ...], list[_File], list[_File]]:
    if not (path / "test").is_dir():
        raise InputError(f"{path}: has train/ but no test/. {_EXPECTED}")
    classes = _classes(path / "train")
    differing = sorted(set(classes) ^ set(_folders(path / "test")))
    if differing:
        raise InputError(f"{path}: train/ and test/ must hold the same classes; only one of them has {differing}.")
    train, test = (
        [file for label, name in enumerate(classes) for file in _images(path, f"{split}/{name}", label)]
        for split in ("train", "test")
    )
    return classes, train, test


def _plain_folder(path: Path, seed: int) -> tuple[tuple[str, ...], list[_File], list[_File]]:
    classes = _classes(path)
    train: list[_File] = []
    test: list[_File] = []
    for label, name in enumerate(classes):
        files = _images(path, name, label)
        if len(files) < 2:
            raise InputError(f"{path / name}: 1 image; holding out a test image takes at least 2.")
        held_out = _held_out(len(files), seed, label)
        train += [file for row, file in enumerate(files) if row not in held_out]
        test += [file for row, file in enumerate(files) if row in held_out]
    return classes, train, test


def _held_out(count: int, seed: int, label: int) -> set[int]:
    generator = np.random.Generator(np.random.PCG64([seed, label, _HOLD_OUT_STREAM]))
    return set(generator.permutation(count)[: max(1, round(HOLD_OUT * count))].tolist())


def _classes(path: Path) -> tuple[str, ...]:
    classes = _folders(path)
    if len(classes) < 2:
        found = f"only one class folder, {classes[0]}" if classes else "no class folders"
        raise InputError(f"{path}: {found}; telling apart takes at least 2 classes. {_EXPECTED}")
    return tuple(classes)


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in _entries(path) if entry.is_dir() and entry.name != "__MACOSX")


def _images(path: Path, folder: str, label: int) -> list[_File]:
    names = sorted(entry.name for entry in _entries(path / folder) if entry.is_file())
    foreign = [name for name in names if name.lower().endswith(_NOT_DECODED)]
    if foreign:
        raise InputError(f"{path / folder / foreign[0]}: this format is not read. Convert it to JPEG, or remove it.")
    files = [_File(f"{folder}/{name}", label) for name in names if name.lower().endswith(SUFFIXES)]
    if not files:
        raise InputError(f"{path / folder}: an empty class, no {' '.join(SUFFIXES)} in it. Add some, or remove it.")
    return files


def _entries(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{path}: cannot be listed ({error.strerror}). {_EXPECTED}") from error


def _pictures(path: Path, files: list[_File]) -> Pictures:
    def load(row: int, image: int) -> NDArray[np.uint8]:
        return decode_picture(path / files[row].name, image)

    return Pictures(np.array([file.label for file in files], np.int32), load)


def _identity(path: Path, classes: tuple[str, ...], train: list[_File], test: list[_File]) -> str:
    """Hash of names, sizes, times of change and the split: a changed, added or moved file changes it."""
    digest = hashlib.sha256(ascii(classes).encode())
    for split in (train, test):
        for file in split:
            try:
                stat = (path / file.name).stat()
            except OSError as error:
                raise InputError(f"{path / file.name}: cannot be read ({error.strerror}).") from error
            digest.update(os.fsencode(file.name) + f"\0{stat.st_size} {stat.st_mtime_ns}\0".encode())
        digest.update(b"\0")
    return digest.hexdigest()
