"""Replay: what the frozen prefix makes of every training image, computed once and read again in each epoch.

The prefix never changes, so this is exact. Rows lie in one file, an image after the other, and are read, not mapped:
mapped pages would count as this process's memory. Where the cut is at the input, the images themselves are taken; where
the disk has no room for the rows, the prefix runs again for each micro-batch.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ondevice.dataset import Split, to_input
from ondevice.runtime import LoadedModel
from signatures.catalogue import Preprocessing
from signatures.cut import Cut
from signatures.errors import InputError
from signatures.graph import Array
from signatures.micro_batches import input_name

_CHECK_BYTES = 4
SPARE_BYTES = 64 << 20
"""What is left free on the disk."""


class Features(Protocol):
    """The inputs x0, x1 … of `gradients` for images of a split."""

    def take(self, rows: NDArray[np.intp], flipped: NDArray[np.bool_]) -> Mapping[str, Array]:
        """x0, x1 …, float32, for the given images, mirrored where `flipped` says so."""


def pictures(split: Split, rows: NDArray[np.intp], flipped: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Images uint8 [len(rows), H, W, 3], mirrored left to right where `flipped`."""
    images, _ = split.take(rows)
    images[flipped] = images[flipped, :, ::-1]
    return images


@dataclass(frozen=True, eq=False)
class Pixels:
    """The cut is at the input: the images themselves."""

    split: Split
    preprocessing: Preprocessing

    def take(self, rows: NDArray[np.intp], flipped: NDArray[np.bool_]) -> Mapping[str, Array]:
        """x0: float32 [len(rows), H, W, 3]."""
        return {input_name(0): to_input(pictures(self.split, rows, flipped), self.preprocessing)}


@dataclass(frozen=True, eq=False)
class Prefix:
    """The frozen prefix in an interpreter, run for each request."""

    model: LoadedModel
    batch: int
    """Images that one call takes."""
    crossing: tuple[tuple[int, ...], ...]
    """Shapes, for one image, of what crosses the cut."""
    split: Split
    preprocessing: Preprocessing

    def take(self, rows: NDArray[np.intp], flipped: NDArray[np.bool_]) -> Mapping[str, Array]:
        """x0, x1 …: float32, the images one behind the other along the first axis."""
        values = np.concatenate(
            [
                self.values(rows[i : i + self.batch], flipped[i : i + self.batch])
                for i in range(0, len(rows), self.batch)
            ]
        )
        return _inputs(values, self.crossing)

    def values(self, rows: NDArray[np.intp], flipped: NDArray[np.bool_]) -> NDArray[np.float32]:
        """What crosses for at most `batch` images, side by side: float32 [len(rows), elements]."""
        filled = np.minimum(np.arange(self.batch), len(rows) - 1)  # the last images of a split may not fill a batch
        images = pictures(self.split, rows[filled], flipped[filled])
        results = self.model.call("prefix", {"x": to_input(images, self.preprocessing)})
        parts = [results[input_name(i)] for i in range(len(self.crossing))]
        return (parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1))[: len(rows)]


@dataclass(frozen=True, eq=False)
class KeptRows:
    """Rows in a file, one for each image, those of mirrored images behind them."""

    path: Path
    dtype: str
    """float32 or float16."""
    images: int
    crossing: tuple[tuple[int, ...], ...]

    def take(self, rows: NDArray[np.intp], flipped: NDArray[np.bool_]) -> Mapping[str, Array]:
        """x0, x1 …: float32, the images one behind the other along the first axis."""
        elements = sum(int(np.prod(shape)) for shape in self.crossing)
        values = np.empty((len(rows), elements), self.dtype)
        with self.path.open("rb", buffering=0) as file:
            for i, row in enumerate(rows + self.images * flipped):
                file.seek(int(row) * values[i].nbytes)
                if file.readinto(values[i].data) != values[i].nbytes:
                    raise InputError(f"{self.path} has been cut short while training: start again")
        return _inputs(values.astype(np.float32, copy=False), self.crossing)


def _inputs(values: NDArray[np.float32], crossing: Sequence[tuple[int, ...]]) -> Mapping[str, Array]:
    inputs: dict[str, Array] = {}
    begin = 0
    for i, shape in enumerate(crossing):
        end = begin + int(np.prod(shape))
        inputs[input_name(i)] = np.ascontiguousarray(values[:, begin:end]).reshape(len(values) * shape[0], *shape[1:])
        begin = end
    return inputs


@dataclass(frozen=True)
class Keeping:
    """How rows are kept, and how much room there is for them."""

    images: int
    dtype: str
    """float32 or float16."""
    mirrored: bool
    """Whether those of mirrored images are wanted too."""
    room_bytes: int

    @property
    def variants(self) -> int:
        """Rows an image."""
        return 2 if self.mirrored else 1

    def kept_bytes(self, cut: Cut, other_bytes: int) -> int:
        """Size of the file of rows; 0 where there is nothing to keep, or no room for it and for `other_bytes`."""
        if cut.at_input:
            return 0
        elements = sum(tensor.size for tensor in cut.prefix.outputs)
        n_bytes = elements * np.dtype(self.dtype).itemsize * self.images * self.variants
        return n_bytes if n_bytes + other_bytes <= self.room_bytes else 0


def room_bytes(folder: Path) -> int:
    """Bytes that a run may take on the disk of `folder`."""
    return max(0, shutil.disk_usage(folder).free - SPARE_BYTES)


def keep_rows(prefix: Prefix, path: Path, keeping: Keeping, after: Callable[[int, int], None]) -> KeptRows:
    """Run the prefix over all images of its split, in stored order, and write the rows to `path`.

    Beside it a CRC-32 of each row is kept: what a killed process had written is checked, and gone on with.
    `after(done, total)` is told how many images are done. InputError where a value does not fit float16.
    """
    images, total = keeping.images, keeping.images * keeping.variants
    row_bytes = sum(int(np.prod(shape)) for shape in prefix.crossing) * np.dtype(keeping.dtype).itemsize
    checks = path.with_name(f"{path.name}.crc32")
    done = _intact_rows(path, checks, row_bytes)
    batches = [
        (first, min(first + prefix.batch, images), flip)
        for flip in (False, True)[: keeping.variants]
        for first in range(0, images, prefix.batch)
    ]
    left = [batch for batch in batches if batch[1] + images * batch[2] > done]
    with path.open("ab") as file, checks.open("ab") as check_file:
        start = left[0][0] + images * left[0][2] if left else total  # whole batches: what is made anew is the same
        file.truncate(start * row_bytes)
        check_file.truncate(start * _CHECK_BYTES)
        for first, end, flip in left:
            with np.errstate(over="ignore"):
                values = prefix.values(np.arange(first, end), np.full(end - first, flip))
                values = values.astype(keeping.dtype, copy=False)
            if keeping.dtype == "float16" and not np.isfinite(values).all():
                raise InputError("activations before the first trained layer do not fit float16: keep float32")
            file.write(values.tobytes())
            check_file.write(b"".join(_check(row.tobytes()) for row in values))
            file.flush()  # in this order: a killed process leaves no check without its row
            check_file.flush()
            after(end + images * flip, total)
    return KeptRows(path, keeping.dtype, images, prefix.crossing)


def _check(row: bytes) -> bytes:
    return zlib.crc32(row).to_bytes(_CHECK_BYTES, "little")


def _intact_rows(path: Path, checks: Path, row_bytes: int) -> int:
    """How many rows at the beginning are as they were written."""
    if not (path.exists() and checks.exists()):
        return 0
    count = 0
    with path.open("rb") as file, checks.open("rb") as check_file:
        while (row := file.read(row_bytes)) and check_file.read(_CHECK_BYTES) == _check(row):
            count += 1
    return count
