"""Files that come from outside, opened with care: only regular ones, and only up to a size where they are read whole.

A named pipe in place of a file would keep a reader waiting for ever, and a device would never end.
"""

from __future__ import annotations

import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

from signatures.errors import InputError

MOST_JSON_BYTES = 64 << 20
"""Of a JSON file. A report of a hundred thousand steps takes three."""


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading; links are followed. Raises OSError, also for what is no regular file."""
    # A pipe is opened without waiting for who writes to it. ValueError: a name that no file can have.
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:
        raise OSError(22, f"Invalid name ({error})") from None
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(22, "Not a regular file")
    except BaseException:
        os.close(number)
        raise
    return os.fdopen(number, "rb")


def read_limited(path: Path, most_bytes: int) -> bytes:
    """The content of a regular file. Raises OSError, InputError where it is larger."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(min(size, most_bytes))  # a read of more would reserve that much
    if size > most_bytes:
        raise InputError(f"{path} has more than {most_bytes:,} bytes, which no such file has")
    return content


def read_json(path: Path) -> Any:
    """The document in a JSON file. Raises OSError; ValueError or RecursionError where it is none; InputError."""
    return json.loads(read_limited(path, MOST_JSON_BYTES))
