"""The system: Android's properties, os-release, the device tree, `uname`, free disk."""

from __future__ import annotations

import re
from dataclasses import dataclass

from android_harness.parsers.text import pairs


@dataclass(frozen=True)
class Disk:
    """One line of `df -k`."""

    filesystem: str
    size_bytes: int
    used_bytes: int
    available_bytes: int
    mounted_on: str


@dataclass(frozen=True)
class Kernel:
    """`uname -s`, `uname -r` and `uname -m`."""

    system: str
    release: str
    machine: str


def parse_getprop(text: str) -> dict[str, str]:
    """Read `getprop`: `[ro.product.model]: [Pixel 6]`; a value may have several lines. Empty values are left out."""
    found = re.findall(r"^\[([^\]\n]+)\]: \[(.*?)\]$", _unix(text), re.MULTILINE | re.DOTALL)
    return {name: value for name, value in found if value}


def parse_os_release(text: str) -> dict[str, str]:
    """Read /etc/os-release (os-release(5)): `PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"`, quotes taken off."""
    told = {}
    for name, value in pairs(text, "="):
        quoted = re.fullmatch(r"""(["'])(.*)\1""", value)
        told[name] = re.sub(r'\\(["$`\\])', r"\1", quoted[2]) if quoted else value
    return told


def parse_device_tree(text: str) -> tuple[str, ...]:
    """Read /proc/device-tree/model or compatible: strings that end in NUL, or lines."""
    return tuple(part.strip() for part in re.split(r"[\0\n]", _unix(text)) if part.strip())


def parse_uname(text: str) -> Kernel | None:
    """Read the three answers on a line each, or separated by blanks; None where there are not three."""
    words = text.split()
    return Kernel(*words) if len(words) == 3 else None


def parse_df(text: str) -> tuple[Disk, ...]:
    """Read `df -k` of toybox, busybox or coreutils; busybox and old coreutils break the line after a long name.

    Empty where the heading tells that the sizes are not KiB.
    """
    heading, _, rest = _unix(text).partition("\n")
    if not re.search(r"\b1(K|024)-blocks\b", heading):
        return ()
    rows = re.findall(_DISK, rest, re.MULTILINE)
    return tuple(
        Disk(name, int(size) * 1024, int(used) * 1024, int(free) * 1024, mount)
        for name, size, used, free, mount in rows
    )


def free_bytes(text: str) -> int | None:
    """What `df -k FOLDER` says can still be written there; None where it does not say it of just one folder."""
    disks = parse_df(text)
    return disks[0].available_bytes if len(disks) == 1 else None


_DISK = r"^(\S+)\s+([0-9]{1,18}) +([0-9]{1,18}) +([0-9]{1,18}) +(?:[0-9]+%|-) +(\S.*?) *$"


def _unix(text: str) -> str:
    return re.sub(r"\r+\n", "\n", text)
