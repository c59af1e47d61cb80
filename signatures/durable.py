"""Files that are there whole or not at all, also after a crash or a power cut."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_PARTIAL = ".partial"


def partial_suffix() -> str:
    """How names of this process's own end, by which `remove_left_over` knows what it leaves if it is killed."""
    return f".{os.getpid()}{_PARTIAL}"


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` at the end of the block, in one step; none stays where that fails.

    It is written beside `path`, under a name of this process's own: two may make one file. `durable`: at the end it is
    on the disk; otherwise what a killed process wrote is safe, and a power cut may leave anything.
    """
    partial = path.with_name(path.name + partial_suffix())
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):  # what went wrong before says more
            partial.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


@contextmanager
def overwriting(path: Path) -> Iterator[BinaryIO]:
    """A file that is written over where it lies, and made if it is not there. Killed within the block, it is spoilt.

    For what is written again and again: many file systems send a file that takes another's place to the disk at once,
    and one that is written over only every half minute (docs/decisions.md).
    """
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666), "wb") as file:
        yield file
        file.truncate()


def sync_file(path: Path) -> None:
    """Have on the disk what was written to a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have on the disk what was renamed, made or removed in `folder`; nothing on file systems that cannot."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network and FUSE file systems refuse; the files themselves are there
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_left_over(folder: Path) -> None:
    """Remove what processes that were killed left in `folder`: what has a name that ends in a `partial_suffix`."""
    for path in folder.glob(f"*{_PARTIAL}"):
        number = path.name.removesuffix(_PARTIAL).rpartition(".")[2]
        if not number.isdecimal() or _runs(int(number)):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
