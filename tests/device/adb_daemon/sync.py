"""The sync service: files to the device and from it.

Other than adbd: a file has its time before the client hears that it arrived, owners are left alone, and of the second
version of the requests (STA2, LST2, LIS2, SND2, RCV2) there is none, as the banner promises none.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from pathlib import Path

from tests.device.adb_daemon.stream import Stream, StreamClosed

_PAIR = struct.Struct("<4sI")
"""What request it is, and the size of what follows it."""
_STAT = struct.Struct("<4sIII")
_ENTRY = struct.Struct("<4sIIII")
_MAX_PATH_BYTES = 1024
_MAX_DATA_BYTES = 64 * 1024
_PULLED_BYTES = 15 * (_PAIR.size + _MAX_DATA_BYTES)
"""Sent at a time: as many messages as fit into the largest packet."""
_U32 = 0xFFFFFFFF


class SyncFailed(Exception):  # noqa: N818 — told to the client, as FAIL
    """A request that cannot be done; the service ends with it."""

    @classmethod
    def at(cls, what: str, error: OSError) -> SyncFailed:
        return cls(f"{what}: {error.strerror}")


async def serve(stream: Stream) -> None:
    """sync: — requests one after the other, until QUIT, a failure, or the end of the stream."""
    stream.accept()
    try:
        while await _serve_request(stream):
            pass
    except SyncFailed as failure:
        await _tell(stream, failure)


async def _serve_request(stream: Stream) -> bool:
    """Whether another may follow."""
    kind, size = await _read_pair(stream)
    if size > _MAX_PATH_BYTES:
        raise SyncFailed("path too long")
    path = (await stream.read_exactly(size)).partition(b"\0")[0]
    if kind == b"QUIT":
        return False
    if kind == b"SEND":
        return await _receive(stream, path)
    if kind == b"RECV":
        await _send_file(stream, path)
    elif kind == b"STAT":
        await stream.write(_STAT.pack(b"STAT", *_facts(path)))
    elif kind == b"LIST":
        await stream.write(_listing(path))
    else:
        raise SyncFailed(f"unknown command {int.from_bytes(kind, 'little'):08x}")
    return True


async def _read_pair(stream: Stream) -> tuple[bytes, int]:
    kind, size = _PAIR.unpack(await stream.read_exactly(_PAIR.size))
    return kind, size


async def _tell(stream: Stream, failure: SyncFailed) -> None:
    reason = str(failure).encode()
    await stream.write(_PAIR.pack(b"FAIL", len(reason)) + reason)


# ---- from the device


def _facts(path: bytes) -> tuple[int, int, int]:
    """Mode, size in bytes and time of change in seconds, of a link itself; zeros where there is nothing."""
    try:
        found = os.lstat(path)
    except OSError:
        return 0, 0, 0
    return found.st_mode, found.st_size & _U32, int(found.st_mtime) & _U32


def _listing(path: bytes) -> bytes:
    """All entries of a folder, none where it cannot be read; then DONE."""
    try:
        with os.scandir(path) as entries:
            names = [b".", b"..", *(entry.name for entry in entries)]
    except OSError:
        names = []
    listed = [_ENTRY.pack(b"DENT", *_facts(path + b"/" + name), len(name)) + name for name in names]
    return b"".join(listed) + _ENTRY.pack(b"DONE", 0, 0, 0, 0)


async def _send_file(stream: Stream, path: bytes) -> None:
    try:
        # A FIFO that nobody writes to must not stop the daemon.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise SyncFailed.at("open failed", error) from error
    # One is filled while the other is under way.
    buffers = [memoryview(bytearray(_PULLED_BYTES)), memoryview(bytearray(_PULLED_BYTES))]
    try:
        while size := _fill(descriptor, buffers[0]):
            await stream.write(buffers[0][:size])
            buffers.reverse()
    except OSError as error:
        raise SyncFailed.at("read failed", error) from error
    finally:
        os.close(descriptor)
    await stream.write(_PAIR.pack(b"DONE", 0))


def _fill(descriptor: int, buffer: memoryview) -> int:
    """DATA messages with what comes next in the file, as many as fit; returns their size, 0 after the file's end."""
    end = 0
    while end < len(buffer):
        start = end + _PAIR.size
        size = os.readv(descriptor, [buffer[start : start + _MAX_DATA_BYTES]])
        if size == 0:
            break
        _PAIR.pack_into(buffer, end, b"DATA", size)
        end = start + size
        if size < _MAX_DATA_BYTES:
            break  # what is left of the buffer may be too small for a message
    return end


# ---- to the device


async def _receive(stream: Stream, request: bytes) -> bool:
    """SEND: a file or a link. False where it failed, which the client was told."""
    path, mode = _parse_send(request)
    arrived = False
    replaced = _facts(path)[0]
    ours = not replaced or stat.S_ISREG(replaced) or (stat.S_ISLNK(replaced) and not stat.S_ISLNK(mode))
    try:
        if ours:
            _remove(path)
        changed_s = await (_receive_link(stream, path) if stat.S_ISLNK(mode) else _receive_file(stream, path, mode))
        arrived = True
    except SyncFailed as failure:
        await _tell(stream, failure)
        # Clients that look for an answer only when they have sent everything would wait for ever.
        await _skip_data(stream)
        return False
    finally:
        if ours and not arrived:
            _remove(path)
    with contextlib.suppress(OSError):
        os.utime(path, (changed_s, changed_s), follow_symlinks=False)
    await stream.write(_PAIR.pack(b"OKAY", 0))
    return True


def _parse_send(request: bytes) -> tuple[bytes, int]:
    """From b"/a/file,33188" the path and the mode, which may be octal: 0644."""
    path, comma, mode = request.rpartition(b",")
    if not comma:
        raise SyncFailed("missing , in ID_SEND")
    try:
        return path, int(mode, 8 if mode.startswith(b"0") else 10)
    except ValueError as error:
        raise SyncFailed("bad mode") from error


async def _receive_file(stream: Stream, path: bytes, mode: int) -> int:
    """Returns the time of change that the client wants, in seconds. All get the rights that the owner has."""
    mode &= 0o777
    mode |= mode >> 3 & 0o070
    mode |= mode >> 3 & 0o007
    descriptor = _create(path, mode)
    try:
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, mode)
        while True:
            kind, size = await _read_pair(stream)
            if kind == b"DONE":
                return size
            if kind != b"DATA":
                raise SyncFailed("invalid data message")
            if size > _MAX_DATA_BYTES:
                raise SyncFailed("oversize data message")
            while size:
                data = await stream.read(size)
                if not data:
                    raise StreamClosed
                size -= len(data)
                while data:
                    data = data[os.write(descriptor, data) :]
    except OSError as error:
        raise SyncFailed.at("write failed", error) from error
    finally:
        os.close(descriptor)


def _create(path: bytes, mode: int) -> int:
    flags = os.O_WRONLY | os.O_CLOEXEC
    new = flags | os.O_CREAT | os.O_EXCL
    try:
        try:
            return os.open(path, new, mode)
        except FileNotFoundError:
            _make_parents(path)
            return os.open(path, new, mode)
        except FileExistsError:
            return os.open(path, flags)
    except OSError as error:
        raise SyncFailed.at("couldn't create file", error) from error


async def _receive_link(stream: Stream, path: bytes) -> int:
    """Returns the time of change that the client wants, in seconds."""
    kind, size = await _read_pair(stream)
    if kind != b"DATA":
        raise SyncFailed("invalid data message: expected ID_DATA")
    if size > _MAX_DATA_BYTES:
        raise SyncFailed("oversize data message")
    target = (await stream.read_exactly(size)).partition(b"\0")[0]
    _remove(path)
    link = Path(os.fsdecode(path))
    try:
        try:
            link.symlink_to(os.fsdecode(target))
        except FileNotFoundError:
            _make_parents(path)
            link.symlink_to(os.fsdecode(target))
    except OSError as error:
        raise SyncFailed.at("symlink failed", error) from error
    kind, changed_s = await _read_pair(stream)
    if kind != b"DONE":
        raise SyncFailed("invalid data message: expected ID_DONE")
    return changed_s


def _make_parents(path: bytes) -> None:
    """Raises SyncFailed."""
    if not path.startswith(b"/"):
        raise SyncFailed("secure_mkdirs failed: not an absolute path")
    try:
        for folder in reversed(Path(os.fsdecode(path)).parents):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(0o775)
    except OSError as error:
        raise SyncFailed.at("secure_mkdirs failed", error) from error


async def _skip_data(stream: Stream) -> None:
    while True:
        kind, size = await _read_pair(stream)
        if kind != b"DATA" or size > _MAX_DATA_BYTES:
            return
        await stream.read_exactly(size)


def _remove(path: bytes) -> None:
    with contextlib.suppress(OSError):
        Path(os.fsdecode(path)).unlink()
