"""adb-shell 0.4.4 with what it lacks: whole writes, a stream whose end is noticed, words in the middle of a push.

Subclasses of its transport and its device, the latter of methods that it keeps to itself; pyproject.toml admits no 0.5.
"""

from __future__ import annotations

import socket
from typing import Any

import adb_shell.adb_device
import adb_shell.adb_message
import numpy as np
from adb_shell import constants
from adb_shell.adb_device import AdbDevice
from adb_shell.adb_message import AdbMessage
from adb_shell.exceptions import InvalidResponseError, TcpTimeoutException
from adb_shell.transport.base_transport import BaseTransport

_ROWS = 256
_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 15_000}
"""A peer that is gone is noticed within 15 s, so that a longer silence means a slow command; where the system can."""


class WholeTcpTransport(BaseTransport):  # type: ignore[misc]
    """A TCP connection that writes whole messages and notices its end.

    adb-shell's own writes what fits the socket's buffer, drops the rest, and takes the end of the stream for silence.
    Raises TcpTimeoutException and OSError (ConnectionResetError at the end of the stream).
    """

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._socket: socket.socket | None = None

    def connect(self, transport_timeout_s: float | None) -> None:
        """Open the connection; OSError if nobody listens."""
        self._socket = socket.create_connection(self._address, transport_timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                self._socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def fileno(self) -> int:
        """For select()."""
        return self._open().fileno()

    def bulk_read(self, numbytes: int, transport_timeout_s: float | None) -> bytes:
        """Between one and `numbytes` bytes."""
        try:
            data = self._open(transport_timeout_s).recv(numbytes)
        except TimeoutError as error:
            raise _silence(error, f"no answer within {transport_timeout_s} s") from None
        if not data:
            raise ConnectionResetError("the device closed the connection")
        return data

    def bulk_write(self, data: bytes, transport_timeout_s: float | None) -> int:
        """Write all of `data`; after an error the connection is of no more use."""
        try:
            self._open(transport_timeout_s).sendall(data)
        except TimeoutError as error:
            raise _silence(error, f"nothing could be sent within {transport_timeout_s} s") from None
        return len(data)

    def _open(self, timeout_s: float | None = None) -> socket.socket:
        if self._socket is None:
            raise ConnectionResetError("the connection is closed")
        self._socket.settimeout(timeout_s)
        return self._socket


class Device(AdbDevice):  # type: ignore[misc]
    """A device that hears a FAIL in the middle of a push, and closes a stream without waiting for an answer."""

    def _filesync_flush(self, adb_info: Any, filesync_info: Any) -> None:
        """Send what is buffered; adb-shell's own drops what the device says meanwhile, then waits for it in vain."""
        data = memoryview(filesync_info.send_buffer)[: filesync_info.send_idx]
        self._io_manager.send(AdbMessage(constants.WRTE, adb_info.local_id, adb_info.remote_id, data), adb_info)
        filesync_info.send_idx = 0
        while True:
            command, data = self._read_until([constants.OKAY, constants.WRTE, constants.CLSE], adb_info)
            if command == constants.OKAY:
                return
            if command == constants.CLSE:
                raise InvalidResponseError("the device closed the stream in the middle of a transfer")
            filesync_info.recv_buffer += data

    def _clse(self, adb_info: Any) -> None:
        """Close a stream; not every daemon answers that, and an answer that comes late is passed over."""
        self._io_manager.send(AdbMessage(constants.CLSE, adb_info.local_id, adb_info.remote_id), adb_info)


def checksum(data: bytes | bytearray | memoryview) -> int:
    """Sum of all bytes modulo 2³², what a message of protocol version 0x01000000 carries."""
    values = np.frombuffer(data, np.uint8)
    columns = len(values) // _ROWS
    # 256 bytes add up to at most 65280, so the processor adds 16-bit lanes: four times as fast as a plain sum().
    sums = values[: columns * _ROWS].reshape(_ROWS, columns).sum(axis=0, dtype=np.uint16)
    return int(sums.sum(dtype=np.uint64) + values[columns * _ROWS :].sum(dtype=np.uint64)) & 0xFFFFFFFF


def _silence(error: TimeoutError, words: str) -> Exception:
    """A timeout of ours is silence; one of the system's, which has a number, is a peer that is gone."""
    return error if error.errno else TcpTimeoutException(words)


# adb-shell's own sum() takes 19 to 23 ms a MB, several times what sending takes, and cannot be replaced otherwise.
adb_shell.adb_message.checksum = checksum
adb_shell.adb_device.checksum = checksum
