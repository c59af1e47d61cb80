"""The kernels compiled ahead of time: where the library lies in a cache, whether it is intact, loading it.

Neither needs Numba. The library's name holds a digest of the kernels' source and the machine, so that a library of
another version is never taken for this one; a second file holds the digest of its bytes, so that one damaged by a full
disk or a power cut is never loaded; and one that others could have written never is.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import struct
import sys
from pathlib import Path

import numpy as np

from ondevice.betti_numba import numpy_path
from ondevice.betti_numba.native import PROTOTYPES, Native
from signatures.errors import CapabilityError, InputError
from signatures.files import open_regular, read_limited

_SOURCES = ("kernels.py", "edges.py", "native.py", "build.py", "linker.py")


def cache_folder(cache_dir: Path) -> Path:
    """Where all that belongs to this package lies in a cache."""
    return cache_dir / "betti"


def build_id() -> str:
    """Digest of the kernels' source and the machine. Not of Numba's version: a library that was built is checked."""
    digest = hashlib.sha256(f"{sys.platform} {platform.machine()} {8 * struct.calcsize('P')}\n".encode())
    for name in _SOURCES:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()[:24]


def library_path(folder: Path, build: str) -> Path:
    """Where the library of one `build_id` lies."""
    return folder / f"betti-{build}.so"


def checksum_path(library: Path) -> Path:
    """Where the sha256 of a library lies, in hexadecimal."""
    return library.with_suffix(".sha256")


def is_ours_alone(library: Path) -> bool:
    """Whether nobody else can have put the library where it is, or can change it: it will run in this process."""
    try:
        found = [path.stat() for path in (library.parent, library)]
    except OSError:
        return False
    return all(one.st_uid in (0, os.geteuid()) and not one.st_mode & 0o022 for one in found)


def is_intact(library: Path) -> bool:
    """Whether the library is there and is what was written."""
    try:
        with open_regular(library) as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        return read_limited(checksum_path(library), len(digest)) == digest.encode()
    except (OSError, InputError):
        return False


def load(library: Path) -> Native:
    """Load a library into this process, where it stays.

    Raises:
        CapabilityError: the system does not load it (a folder mounted noexec), or it lacks a kernel.
    """
    try:
        loaded = ctypes.CDLL(str(library.absolute()))
        addresses = {name: ctypes.cast(getattr(loaded, name), ctypes.c_void_p).value or 0 for name in PROTOTYPES}
    except (OSError, AttributeError) as error:
        raise CapabilityError(f"{library} cannot be loaded: {error}") from None
    return Native(addresses)


def check(native: Native) -> None:
    """Have kernels compute what NumPy then checks: small matrices without ties, and full of them.

    Raises:
        CapabilityError: they differ.
    """
    rng = np.random.default_rng(0)
    upper = np.triu(rng.random((4, 12, 12)), 1)
    upper[2:] = np.ceil(3 * upper[2:])
    d2 = upper + upper.transpose(0, 2, 1)
    same = np.array_equal(native.betti_numbers(d2), numpy_path.betti_numbers(d2))
    for matrix in d2:
        ours, theirs = vars(native.curves(matrix)), vars(numpy_path.curves(matrix))
        same &= all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    if not same:
        raise CapabilityError("The compiled kernels do not compute what NumPy does: please report this machine")
