"""Archives of arrays (.npz), read without pickles, and without unpacking what is far larger than the file."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from signatures.errors import InputError
from signatures.files import open_regular

_SMALL_BYTES = 64 << 20
_EXPANSION = 200
"""Arrays may take so many times the file, or be small. Drawings compress well; a bomb does a thousandfold."""
_MOST_BYTES = 16 << 30


def read_npz(path: Path, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of an archive, all or those called `names`, by name.

    Raises InputError where the file is missing or damaged, lacks an array, holds objects, or would unpack to more than
    an archive of weights or pictures does.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            if len(members) < len(archive.infolist()):
                raise InputError(f"{path}: two arrays of one name")
            missing = [name for name in names or () if name not in members]
            if missing:
                raise InputError(f"{path}: lacks {', '.join(missing)}; expected the arrays {', '.join(names or ())}.")
            _check_sizes(path, list(members.values()), file.seek(0, 2))
            return {name: _array(archive, members[name]) for name in (members if names is None else names)}
    except InputError:
        raise
    # A damaged archive makes zipfile, zlib and NumPy raise nearly anything.
    except Exception as error:
        why = str(error) or type(error).__name__
        raise InputError(f"{path}: damaged, or no archive of plain arrays: {why}") from None


def _check_sizes(path: Path, members: Sequence[zipfile.ZipInfo], archive_bytes: int) -> None:
    unpacked = sum(member.file_size for member in members)
    if unpacked > min(_MOST_BYTES, max(_SMALL_BYTES, _EXPANSION * archive_bytes)):
        raise InputError(
            f"{path}: {archive_bytes:,} bytes that unpack to {unpacked:,}, which no archive of weights or pictures does"
        )


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """One array; what its header says is checked against the size of the member before room is made for it."""
    with archive.open(member) as file:
        claimed_bytes, header_bytes = _claim(file)
    if claimed_bytes + header_bytes != member.file_size:
        raise ValueError(f"{member.filename} says {claimed_bytes} bytes and holds {member.file_size - header_bytes}")
    with archive.open(member) as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _claim(file: IO[bytes]) -> tuple[int, int]:
    """Bytes that a .npy file says its values take, and those of its header."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f".npy version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds a pickle")
    if min(shape, default=0) < 0:
        raise ValueError(f"{dtype} {shape} is no array")
    return math.prod(map(int, shape)) * dtype.itemsize, file.tell()
