"""What a run needs on the device: our packages, the bundle, the images; sent by content."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import ondevice
import signatures
from android_harness.files import inventory, mirror
from android_harness.session import Session
from signatures.errors import InputError

CODE, BUNDLE, DATA = "code", "bundle", "data"
_REDRAW_S = 0.2


def push_inputs(session: Session, bundle: Path, data: Path) -> None:
    """Make the device's copies of our packages, `bundle` and `data` equal to ours, and say on stderr what was sent.

    Raises InputError for a folder that holds nothing, DeviceFullError before anything is sent.
    """
    for package in (signatures, ondevice):
        name = package.__name__
        _push(session, Path(package.__path__[0]), f"{CODE}/{name}", lambda path: path.endswith(".py"))
    _push(session, bundle, BUNDLE)
    _push(session, data, DATA)


def check_inputs(bundle: Path, data: Path) -> None:
    """InputError for folders that are no bundle and no data; what is in them, the device checks."""
    if not (bundle / "manifest.json").is_file():
        raise InputError(f"{bundle}: not a bundle (no manifest.json); `make export` writes one")
    if not data.is_dir() or not any(data.iterdir()):
        raise InputError(f"{data}: {'nothing in it' if data.is_dir() else 'no such folder'}")


def _push(session: Session, folder: Path, name: str, wanted: Callable[[str], bool] = lambda _: True) -> None:
    files = inventory(folder, wanted)
    began = drawn = time.monotonic()

    def progress(done: int, total: int, file: str) -> None:
        nonlocal drawn
        if sys.stderr.isatty() and time.monotonic() - drawn >= _REDRAW_S:
            drawn = time.monotonic()
            print(f"\r\x1b[K{name}: {done >> 20} of {total >> 20} MiB  {file}", end="", file=sys.stderr, flush=True)

    transfer = mirror(session.link, files, session.inputs(name), progress)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    seconds = time.monotonic() - began
    sent = f"{len(transfer.send)} files, {transfer.send_bytes / (1 << 20):.1f} MiB sent in {seconds:.1f} s"
    print(f"{name}: {sent}, {transfer.unchanged} unchanged", file=sys.stderr, flush=True)
