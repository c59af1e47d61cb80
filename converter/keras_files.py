"""Keras' files, looked through before Keras and HDF5 read them: no code, no other files, no bombs.

A .keras file is a zip of a configuration and an HDF5 file; an .h5 file is HDF5 alone. HDF5 may refer to other files and
promise arrays of any size, a configuration may name any function of any module. Keras refuses most of that itself, but
not in all versions that we run with. What this cannot do is parse HDF5: h5py does, natively.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from signatures.errors import InputError
from signatures.files import MOST_JSON_BYTES, open_regular

HDF5_START = b"\x89HDF\r\n\x1a\n"
ZIP_START = b"PK\x03\x04"
_SMALL_BYTES = 64 << 20
_EXPANSION = 20
"""Weights are noise: no compression makes them much smaller."""
_MOST_OBJECTS = 100_000
_CODE = ("Lambda", "__lambda__", "function")
"""Classes in a configuration that stand for functions."""


def check_keras_file(path: Path) -> None:
    """Raise InputError where a .keras or .h5 file is neither zip nor HDF5, or holds what no plain model does."""
    try:
        with open_regular(path) as file:
            start = file.read(len(HDF5_START))
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            if start == HDF5_START:
                _check_hdf5(file, size)
            elif start.startswith(ZIP_START):
                _check_zip(file, size)
            else:
                raise InputError("neither HDF5 nor a zip file")
    except InputError as error:
        raise InputError(f"{path} is no Keras model: {error}") from None
    # zipfile and h5py answer damage with whatever comes to hand.
    except Exception as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{path} is no Keras model: {why}") from None


def _check_zip(file: BinaryIO, size: int) -> None:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if len(members) > _MOST_OBJECTS or unpacked > max(_SMALL_BYTES, _EXPANSION * size):
            raise InputError(f"{size:,} bytes that unpack to {unpacked:,} in {len(members)} files")
        for member in members:
            name = Path(member.filename)
            if name.is_absolute() or ".." in name.parts or "\\" in member.filename:
                raise InputError(f"it would unpack to {member.filename!r}")
            if member.filename.endswith(".json"):
                if member.file_size > MOST_JSON_BYTES:
                    raise InputError(f"{member.filename} has {member.file_size:,} bytes")
                _check_config(json.loads(archive.read(member)))
            elif member.filename.endswith((".h5", ".hdf5")):
                _check_hdf5(io.BytesIO(archive.read(member)), size)


def _check_config(node: Any) -> None:
    """No functions, and no classes but Keras' own."""
    if isinstance(node, dict):
        module, name = node.get("module"), node.get("class_name")
        if name in _CODE or (isinstance(module, str) and module.partition(".")[0] != "keras"):
            raise InputError(f"its configuration names code, {module or ''}.{name}: save it without")
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _check_config(child)


def _check_hdf5(file: BinaryIO, size: int) -> None:
    import h5py  # type: ignore[import-untyped]

    found: list[int] = []

    def wrong(name: str, link: Any) -> str | None:
        """What is, if anything: an exception does not get through h5py's visits, a result ends them."""
        if not isinstance(link, h5py.HardLink):
            return f"{name!r} in it is a link"
        found.append(0)
        if len(found) > _MOST_OBJECTS:
            return f"more than {_MOST_OBJECTS:,} objects"
        entry = opened[name]
        if isinstance(entry, h5py.Dataset):
            if entry.external or entry.is_virtual:
                return f"{name!r} in it lies in another file"
            if entry.dtype.kind != "O":  # texts of any length, read one by one
                found[-1] = math.prod(entry.shape or ()) * entry.dtype.itemsize
            if sum(found) > max(_SMALL_BYTES, _EXPANSION * size):
                return f"{name!r} in it has shape {entry.shape}, far more than {size:,} bytes"
        return None

    with h5py.File(file, "r") as opened:
        why = opened.visititems_links(wrong)
        if why is not None:
            raise InputError(why)
        text = opened.attrs.get("model_config")
        if isinstance(text, bytes | str):
            _check_config(json.loads(text))
