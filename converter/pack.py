"""Packing datasets on the host: an image folder, a packed dataset of another size, an .npz, or arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.npz import read_npz
from ondevice.dataset import open_source
from ondevice.packed import Dataset, Split, check_dataset, read_packed
from ondevice.packing import Progress, packed_source, write_packed
from ondevice.pictures import resize_pixels
from signatures.errors import InputError

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels", "classes")


def silent(done: int, total: int) -> None:
    """Report no progress."""


def pack(source: Path, out: Path, image: int, seed: int, progress: Progress = silent) -> Dataset:
    """Pack an .npz file or a folder into `out`, a new directory; see `pack_npz` and `pack_folder`."""
    if source.suffix.lower() == ".npz" and not source.is_dir():
        return pack_npz(source, out, image, progress)
    return pack_folder(source, out, image, seed, progress)


def pack_folder(source: Path, out: Path, image: int, seed: int, progress: Progress = silent) -> Dataset:
    """Pack an image folder, or a packed dataset again, at image × image pixels.

    `seed` decides which images of a folder without test/ become the test split.
    Raises InputError (source), UsageError (`out` exists), CapabilityError (no Pillow, `out` not writable).
    """
    write_packed(open_source(source, seed), image, out, progress)
    return read_packed(out)


def pack_npz(source: Path, out: Path, image: int, progress: Progress = silent) -> Dataset:
    """Pack an .npz with train_images, train_labels, test_images, test_labels and classes, as `pack_arrays`.

    Raises InputError where an array is missing, damaged or a pickle; the others as `pack_folder`.
    """
    arrays = read_npz(source, _ARRAYS)
    return pack_arrays(
        (arrays["train_images"], arrays["train_labels"]),
        (arrays["test_images"], arrays["test_labels"]),
        tuple(np.atleast_1d(arrays["classes"]).astype(str).tolist()),
        out,
        image,
        where=str(source),
        progress=progress,
    )


def pack_arrays(
    train: tuple[NDArray[Any], NDArray[Any]],
    test: tuple[NDArray[Any], NDArray[Any]],
    classes: tuple[str, ...],
    out: Path,
    image: int,
    where: str = "arrays",
    progress: Progress = silent,
) -> Dataset:
    """Pack images and labels of both splits at image × image pixels.

    Images are uint8, RGB [N, H, W, 3] or grey [N, H, W] or [N, H, W, 1]; labels are integers [N] into `classes`.
    `where` names the arrays in errors. Raises as `pack_folder`.
    """
    splits = _split(f"{where}, train", *train), _split(f"{where}, test", *test)
    dataset = check_dataset(out.name, where, *splits, classes)
    write_packed(packed_source(dataset, resize_pixels), image, out, progress)
    return read_packed(out)


def _split(where: str, images: NDArray[Any], labels: NDArray[Any]) -> Split:
    """Grey to RGB without a copy, labels to int32; what is wrong beyond that, `check_dataset` says."""
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim == 4 and images.shape[3] == 1:
        images = np.broadcast_to(images, (*images.shape[:3], 3))
    if labels.dtype.kind not in "iu" or (labels.size and not 0 <= labels.min() <= labels.max() < 2**31):
        raise InputError(f"{where}: labels are {labels.dtype} {labels.shape}, expected integers from 0.")
    return Split(images, labels.astype(np.int32))
