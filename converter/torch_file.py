"""PyTorch state dicts (.pth) without PyTorch and without executing a pickle: legacy and zip containers.

Legacy (torch < 1.6): five pickles (magic number, protocol, system, state dict, storage keys), then for each key an
int64 element count and the raw elements. Zip (torch >= 1.6): `<root>/data.pkl` and one uncompressed
`<root>/data/<key>` for each storage. Layouts: torch/serialization.py.
"""

from __future__ import annotations

import io
import math
import mmap
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.torch_pickle import Storage, StridedTensor, interpret
from signatures.errors import InputError
from signatures.files import open_regular

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
PICKLE_START = b"\x80"
ZIP_START = b"PK\x03\x04"
MAX_DIMENSIONS = 32

Arrays = dict[str, NDArray[Any]]


def read_torch(path: Path) -> Arrays:
    """Read the tensors of a state dict that torch.save wrote.

    Returns name → read-only array with the file's dtype and torch's shape; legacy files stay mapped, not copied.
    Values of the state dict that are no tensors are left out. Raises InputError for files that are missing, cut
    short, damaged, or hold anything but data.
    """
    try:
        with open_regular(path) as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    try:
        return _read_zip(path) if mapped[:4] == ZIP_START else _read_legacy(mapped)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _read_legacy(mapped: mmap.mmap) -> Arrays:
    if mapped[:1] != PICKLE_START or interpret(mapped) != MAGIC or interpret(mapped) != PROTOCOL:
        raise InputError("no PyTorch file: neither the legacy magic number nor a zip archive")
    match interpret(mapped):
        case {"little_endian": True}:
            pass
        case _:
            raise InputError("written on a big-endian machine; save it again on a little-endian one")
    tensors = _tensors(interpret(mapped))
    storages = _storages(tensors)
    keys = interpret(mapped)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(storages):
        raise InputError("the list of storages does not match the storages that the tensors use")
    data: Arrays = {}
    for key in keys:
        count = mapped.read(8)
        if len(count) < 8:
            raise InputError(f"cut short before storage {key!r}")
        (numel,) = struct.unpack("<q", count)
        if numel != storages[key].numel:
            raise InputError(f"storage {key!r}: {numel} elements in the file, {storages[key].numel} in the pickle")
        data[key] = _elements(mapped, mapped.tell(), storages[key])
        mapped.seek(data[key].nbytes, io.SEEK_CUR)
    return {name: _view(name, tensor, data[tensor.storage.key]) for name, tensor in tensors.items()}


def _read_zip(path: Path) -> Arrays:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise InputError("compressed zip members, which torch.save never writes")
            if sum(member.file_size for member in members) > path.stat().st_size:
                raise InputError("zip members that overlap or reach beyond the file")
            roots = [m.filename.removesuffix("data.pkl") for m in members if m.filename.endswith("/data.pkl")]
            if len(roots) != 1:
                raise InputError(f"{len(roots)} members named data.pkl, expected one: no PyTorch file")
            byteorder = f"{roots[0]}byteorder"
            if byteorder in archive.namelist() and archive.read(byteorder) != b"little":
                raise InputError("written on a big-endian machine; save it again on a little-endian one")
            tensors = _tensors(interpret(io.BytesIO(archive.read(f"{roots[0]}data.pkl"))))
            data = {
                key: _elements(archive.read(f"{roots[0]}data/{key}"), 0, storage)
                for key, storage in _storages(tensors).items()
            }
    # zipfile answers damage with any of these; EOFError and struct errors come from cut headers.
    except (zipfile.BadZipFile, KeyError, RuntimeError, ValueError, OSError, EOFError, struct.error) as error:
        raise InputError(f"damaged zip archive: {error}") from None
    return {name: _view(name, tensor, data[tensor.storage.key]) for name, tensor in tensors.items()}


def _tensors(state: object) -> dict[str, StridedTensor]:
    if not isinstance(state, dict):
        raise InputError(f"holds a {type(state).__name__}, expected a state dict (name → tensor)")
    tensors = {name: value for name, value in state.items() if isinstance(value, StridedTensor)}
    if not tensors:
        names = ", ".join(str(name)[:40] for name in list(state)[:6]) or "nothing"
        raise InputError(f"holds no tensors at its top level, only: {names}; save model.state_dict() itself")
    return {str(name): tensor for name, tensor in tensors.items()}


def _storages(tensors: Mapping[str, StridedTensor]) -> dict[str, Storage]:
    storages: dict[str, Storage] = {}
    for name, tensor in tensors.items():
        if storages.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise InputError(f"{name}: disagrees with another tensor about the storage {tensor.storage.key!r}")
    return storages


def _elements(buffer: mmap.mmap | bytes, offset: int, storage: Storage) -> NDArray[Any]:
    needed_bytes = storage.numel * storage.dtype.itemsize
    if needed_bytes > len(buffer) - offset:
        raise InputError(
            f"cut short: storage {storage.key!r} needs {needed_bytes} bytes, {len(buffer) - offset} are there"
        )
    return np.frombuffer(buffer, storage.dtype, storage.numel, offset) if storage.numel else np.empty(0, storage.dtype)


def _view(name: str, tensor: StridedTensor, elements: NDArray[Any]) -> NDArray[Any]:
    """Return the tensor as a strided view; every element it reaches has been checked to lie in the storage."""
    shape, strides, numel = tensor.shape, tensor.strides, elements.size
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=False))
    if (
        len(shape) != len(strides)
        or len(shape) > MAX_DIMENSIONS
        or min((tensor.offset, *strides), default=0) < 0
        or min(shape, default=1) < 1
        or last >= numel
        or math.prod(shape) > numel
    ):
        raise InputError(
            f"{name}: shape {shape}, strides {strides} and offset {tensor.offset} do not fit "
            f"a storage of {numel} elements"
        )
    steps = tuple(stride * elements.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(elements[tensor.offset :], shape, steps, writeable=False)
