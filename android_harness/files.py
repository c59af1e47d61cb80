"""Folders on the device that hold what folders here hold: only what differs is sent, and hashes tell."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from android_harness.errors import DeviceAnswerError, DeviceFullError
from android_harness.link import REST, Link
from android_harness.parsers import free_bytes
from android_harness.places import AdbPlace, Place
from signatures.errors import CapabilityError, InputError

PARTIAL = ".partial"
_HASHING_S = 600.0
_ROOM = 4 << 20
"""Bytes that stay free: folders, the system's own writing."""
_COMMAND_BYTES = 3000
"""The oldest daemons take messages of 4 KiB."""


@dataclass(frozen=True)
class File:
    """A file here, and its path on the device under the folder that is kept equal."""

    local: Path
    remote: str
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class Transfer:
    """What makes the device's folder equal to ours."""

    send: tuple[File, ...]
    remove: tuple[str, ...]
    unchanged: int

    @property
    def send_bytes(self) -> int:
        """What goes over the wire."""
        return sum(file.n_bytes for file in self.send)


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inventory(folder: Path, wanted: Callable[[str], bool] = lambda _: True) -> tuple[File, ...]:
    """The files under `folder` whose path in it is `wanted`; hidden ones are left out.

    Raises InputError for names that a line of text cannot hold, and where there is no file.
    """
    files = []
    for path in sorted(_files_under(folder)):
        name = path.relative_to(folder).as_posix()
        if any(part.startswith(".") for part in name.split("/")) or not wanted(name):
            continue
        if "\\" in name or not name.isprintable() or name.endswith(PARTIAL):
            raise InputError(f"{path}: rename it; no backslashes, line breaks or names that end in {PARTIAL} please")
        files.append(File(path, name, path.stat().st_size, sha256_of(path)))
    if not files:
        raise InputError(f"{folder}: {'no files in it' if folder.is_dir() else 'no such folder'}")
    return tuple(files)


def _files_under(folder: Path) -> Iterator[Path]:
    """All files, of linked folders too, as ondevice.image_folder reads them; a link that leads back is not followed."""
    seen = set()
    for name, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(name)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (path for file in files if (path := Path(name, file)).is_file())


def plan(files: Iterable[File], present: Mapping[str, str]) -> Transfer:
    """What to send and remove, where `present` maps the paths on the device to their digests.

    A file that came whole but was not yet put in its place, for the connection broke, need not come again.
    """
    files = tuple(files)
    places = {(file.remote, file.sha256) for file in files} | {(file.remote + PARTIAL, file.sha256) for file in files}
    kept = {path for path, digest in present.items() if (path, digest) in places}
    send = tuple(file for file in files if not kept & {file.remote, file.remote + PARTIAL})
    # What is out of date stays until it is replaced.
    stale = set(present) - kept - {file.remote for file in files}
    return Transfer(send, tuple(sorted(stale)), len(files) - len(send))


def digests(place: Place, folder: str) -> dict[str, str]:
    """SHA-256 of every file under a folder of the device, by its path in it; none where there is no folder.

    Raises CapabilityError where the device has no sha256sum, DeviceAnswerError for an answer that is no list.
    """
    output = place.shell(
        "for sum in sha256sum 'toybox sha256sum' 'busybox sha256sum' none; do\n"
        "$sum </dev/null >/dev/null 2>&1 && break; done\n"
        f'[ "$sum" != none ] || exit 127\n[ -d {quote(folder)} ] || exit 0\n'
        f"cd {quote(folder)} && find . -type f -exec $sum {{}} +",
        _HASHING_S,
    )
    if output.code == 127:
        raise CapabilityError("the device has no sha256sum (Android 6 and Debian have one)")
    if output.code:
        raise DeviceAnswerError(f"cannot read {folder}: {output.text.strip()[-300:]}")
    found = {}
    for line in output.text.splitlines():
        digest, mark, path = line[:64], line[64:68], line[68:]
        if mark not in ("  ./", " *./") or not set(digest) <= set("0123456789abcdef"):
            raise DeviceAnswerError(f"sha256sum answered {line[:100]!r}")
        found[path] = digest
    return found


def mirror(
    link: Link, files: Iterable[File], folder: str, progress: Callable[[int, int, str], None] = lambda *_: None
) -> Transfer:
    """Make `folder` on the device hold exactly `files`; a file is at its place only whole and with the right digest.

    `progress` is told bytes sent, bytes to send, and the file. Raises DeviceFullError before anything is sent where
    the room does not do.
    """
    files = tuple(files)
    present = digests(AdbPlace(link), folder)
    transfer = plan(files, present)
    _remove(link, folder, transfer.remove)
    if not transfer.send and not any(name.endswith(PARTIAL) for name in present):
        return transfer
    parents = sorted({f"{folder}/{file.remote}".rpartition("/")[0] for file in transfer.send})
    for some in _in_commands(parents):
        link.checked(f"umask 022; mkdir -p {some}")
    _check_room(link, folder, transfer.send_bytes)
    sent = 0
    for file in transfer.send:
        progress(sent, transfer.send_bytes, file.remote)
        link.push(file.local, f"{folder}/{file.remote}{PARTIAL}")
        sent += file.n_bytes
    progress(sent, transfer.send_bytes, "checking")
    arrived = digests(AdbPlace(link), folder)
    for file in transfer.send:
        if arrived.get(file.remote + PARTIAL, arrived.get(file.remote)) != file.sha256:
            raise DeviceAnswerError(f"{folder}/{file.remote} is not what was sent; was {file.local} changed meanwhile?")
    link.checked(
        f"cd {quote(folder)} && find . -name '*{PARTIAL}' -type f | "
        f'while IFS= read -r name; do mv -f "$name" "${{name%{PARTIAL}}}" || exit 1; done'
    )
    return transfer


def fetch_folder(place: Place, folder: str, out: Path, wanted: Callable[[str], bool] = lambda _: True) -> None:
    """Copy the `wanted` files of a folder of the device to `out`; those that are there and equal are not sent again.

    Raises DeviceAnswerError where a file is not what the device said.
    """
    for name, digest in sorted(digests(place, folder).items()):
        parts = name.split("/")
        if ".." in parts or name.startswith("/"):
            raise DeviceAnswerError(f"{folder} holds {name!r}, which leads out of it")
        if name.endswith(REST) or not wanted(name):
            continue
        try:
            _fetch(place, f"{folder}/{name}", digest, out.joinpath(*parts))
        except OSError as error:
            raise CapabilityError(f"on this computer: {error}") from None


def _fetch(place: Place, remote: str, digest: str, local: Path) -> None:
    local.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        if local.is_file() and sha256_of(local) == digest:
            return
        place.fetch(remote, local)
    if sha256_of(local) != digest:
        raise DeviceAnswerError(f"{remote} arrived damaged, twice")


def _remove(link: Link, folder: str, names: Iterable[str]) -> None:
    """Delete files, and the folders that are empty then: an empty one would be a class without images."""
    for some in _in_commands(f"{folder}/{name}" for name in names):
        link.checked(f"rm -f {some}")
    link.shell(f"[ -d {quote(folder)} ] && cd {quote(folder)} && find . -depth -type d -exec rmdir {{}} + 2>/dev/null")


def _check_room(link: Link, folder: str, needed: int) -> None:
    free = free_bytes(link.checked(f"df -k {quote(folder)}"))
    if free is not None and free < needed + _ROOM:
        raise DeviceFullError(
            f"{folder} has {free >> 20} MiB free, {(needed + _ROOM) >> 20} MiB are needed; make room, or "
            f"name another folder by --work"
        )


def _in_commands(paths: Iterable[str]) -> Iterable[str]:
    """The paths, quoted, in lines that fit one command."""
    line = ""
    for path in paths:
        if line and len(line.encode()) + len(path.encode()) > _COMMAND_BYTES:
            yield line
            line = ""
        line += f" {quote(path)}"
    if line:
        yield line
