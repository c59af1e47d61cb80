"""Rows on disk: values of images, one row an image, read and written by the piece.

They are not mapped: mapped pages count as memory of the process.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from signatures.errors import CapabilityError
from signatures.strips import Rows


class RowFile:
    """A file of values of one shape, that of one image; gone when it is closed.

    A piece is `rows` of the value's second axis, its first having one entry; None: everything.
    OSError where the disk fails or is full.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._path = path
        self._file = path.open("w+b", buffering=0)

    def close(self) -> None:
        """Delete the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def write(self, images: NDArray[np.intp], rows: Rows | None, values: NDArray[Any]) -> None:
        """Write a piece of each of `images`; `values` holds them one behind the other."""
        offset, shape = self._piece(rows)
        for image, value in zip(images, values.reshape(len(images), *shape), strict=True):
            self._file.seek(image * self._image_bytes + offset)
            rest = np.ascontiguousarray(value).data.cast("B")
            while rest:
                rest = rest[self._file.write(rest) :]

    def read(self, images: NDArray[np.intp], rows: Rows | None) -> NDArray[Any]:
        """A piece of each of `images`, one behind the other along the first axis."""
        offset, shape = self._piece(rows)
        values = np.empty((len(images), *shape), self.dtype)
        for image, value in zip(images, values, strict=True):
            self._file.seek(image * self._image_bytes + offset)
            rest = value.data.cast("B")
            while rest:
                count = self._file.readinto(rest)
                if not count:
                    raise CapabilityError(f"{self._path} was cut short while it was in use: try again")
                rest = rest[count:]
        return values.reshape(len(images) * shape[0], *shape[1:])

    @property
    def _image_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def _piece(self, rows: Rows | None) -> tuple[int, tuple[int, ...]]:
        """Where a piece begins in an image, in bytes, and its shape."""
        if rows is None:
            return 0, self.shape
        row_bytes = math.prod(self.shape[2:]) * self.dtype.itemsize
        return rows[0] * row_bytes, (self.shape[0], rows[1] - rows[0], *self.shape[2:])
