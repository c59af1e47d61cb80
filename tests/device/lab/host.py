"""What this machine needs to build and to run the lab, and what root can switch on by itself."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from signatures.errors import CapabilityError
from tests.device.lab import namespace
from tests.device.lab.layout import is_native

BINFMT = Path("/proc/sys/fs/binfmt_misc")
EMULATOR = "qemu-aarch64-static"
EMULATOR_PACKAGE = "qemu-user-static"
TOOLS = ("debootstrap", "adb")
"""Programs, each in the Debian package of its name."""

# An ELF file of 64 bits, little-endian, executable or shared, for machine 183 (EM_AARCH64), as Debian registers it.
MAGIC = bytes.fromhex("7f454c460201010000000000000000000200b700")
MASK = bytes.fromhex("ffffffffffffff00fffffffffffffffffeffffff")


@dataclass(frozen=True)
class Handler:
    """An entry of binfmt_misc. With flag F the kernel holds the interpreter open, so it is found in a chroot too."""

    path: Path
    enabled: bool
    flags: str
    magic: bytes


def require() -> None:
    """Make sure that the lab can be built and run here, and switch on what root may; CapabilityError if it cannot."""
    if sys.platform != "linux":
        raise CapabilityError(f"the device lab needs Linux, and this is {sys.platform}")
    packages = [tool for tool in TOOLS if shutil.which(tool) is None]
    if not is_native() and not _emulates():
        packages.append(EMULATOR_PACKAGE)
    as_root = os.geteuid() == 0
    if packages or not as_root:
        needs = [*packages, *([] if as_root else [f"root (to mount and chroot; this is user {os.geteuid()})"])]
        install = f"apt-get install --no-install-recommends {' '.join(packages)}" if packages else ""
        remedy = " and ".join(step for step in (install, "" if as_root else "run this as root") if step)
        raise CapabilityError(f"the device lab needs {', '.join(needs)}: {remedy}")
    if not namespace.may_be_made():
        raise CapabilityError(
            "the device lab needs CAP_SYS_ADMIN, to mount, and this root has not got it: run it outside of the "
            "container, or in one that may (docker run --privileged)"
        )


def read_handlers(folder: Path) -> list[Handler]:
    """The entries of binfmt_misc that stand for arm64 programs and work in a chroot."""
    entries = [path for path in sorted(folder.iterdir()) if path.name not in ("register", "status")]
    handlers = [parse_handler(path, path.read_text()) for path in entries]
    return [handler for handler in handlers if handler.magic == MAGIC and "F" in handler.flags]


def parse_handler(path: Path, text: str) -> Handler:
    """Read what the kernel tells of an entry (Documentation/admin-guide/binfmt-misc.rst)."""
    state, *lines = text.splitlines()
    fields = {name.rstrip(":"): value for name, _, value in (line.partition(" ") for line in lines)}
    return Handler(path, state == "enabled", fields.get("flags", ""), bytes.fromhex(fields.get("magic", "")))


def _emulates() -> bool:
    """Whether the kernel hands arm64 programs to QEMU. As root: mount, enable or register what is merely not."""
    installed = shutil.which(EMULATOR)
    if os.geteuid() != 0 and not (BINFMT / "register").exists():
        return installed is not None
    if not (BINFMT / "register").exists():
        namespace.mount("binfmt_misc", BINFMT, "binfmt_misc")
        _say(f"mounted binfmt_misc on {BINFMT}")
    handlers = read_handlers(BINFMT)
    if os.geteuid() != 0:
        return bool(handlers) or installed is not None
    if (BINFMT / "status").read_text().strip() != "enabled":
        (BINFMT / "status").write_text("1")
        _say("enabled binfmt_misc")
    if any(handler.enabled for handler in handlers):
        return True
    if handlers:
        handlers[0].path.write_text("1")
        _say(f"enabled {handlers[0].path.name} of binfmt_misc")
        return True
    if installed is None:
        return False
    magic, mask = ("".join(f"\\x{byte:02x}" for byte in data) for data in (MAGIC, MASK))
    (BINFMT / "register").write_text(f":adabet-aarch64:M::{magic}:{mask}:{installed}:F")
    _say(f"registered {installed} with binfmt_misc")
    return True


def _say(what: str) -> None:
    print(f"device lab: {what}", file=sys.stderr)
