"""The bytes between host and device over TCP, for adb-shell."""

from __future__ import annotations

import socket

import adb_shell.adb_device
import adb_shell.adb_message
import numpy as np
from adb_shell.exceptions import TcpTimeoutException
from adb_shell.transport.base_transport import BaseTransport

_ROWS = 256


class WholeTcpTransport(BaseTransport):  # type: ignore[misc]
    """A TCP connection that writes whole messages and notices its end.

    adb-shell 0.4.4's own writes what fits the socket's buffer and drops the rest, and takes the end of the stream for
    silence. Raises TcpTimeoutException and OSError (ConnectionResetError at the end of the stream).
    """

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._socket: socket.socket | None = None

    def connect(self, transport_timeout_s: float | None) -> None:
        """Open the connection; OSError if nobody listens."""
        self._socket = socket.create_connection(self._address, transport_timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

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
        except TimeoutError:
            raise TcpTimeoutException(f"no answer within {transport_timeout_s} s") from None
        if not data:
            raise ConnectionResetError("the device closed the connection")
        return data

    def bulk_write(self, data: bytes, transport_timeout_s: float | None) -> int:
        """Write all of `data`; after an error the connection is of no more use."""
        try:
            self._open(transport_timeout_s).sendall(data)
        except TimeoutError:
            raise TcpTimeoutException(f"nothing could be sent within {transport_timeout_s} s") from None
        return len(data)

    def _open(self, timeout_s: float | None = None) -> socket.socket:
        if self._socket is None:
            raise ConnectionResetError("the connection is closed")
        self._socket.settimeout(timeout_s)
        return self._socket


def checksum(data: bytes | bytearray) -> int:
    """Sum of all bytes modulo 2³², what a message of protocol version 0x01000000 carries."""
    values = np.frombuffer(data, np.uint8)
    columns = len(values) // _ROWS
    # 256 bytes add up to at most 65280, so the processor adds 16-bit lanes: four times as fast as a plain sum().
    sums = values[: columns * _ROWS].reshape(_ROWS, columns).sum(axis=0, dtype=np.uint16)
    return int(sums.sum(dtype=np.uint64) + values[columns * _ROWS :].sum(dtype=np.uint64)) & 0xFFFFFFFF


def sum_quickly() -> None:
    """Have adb-shell compute its checksums by NumPy: sum() takes 23 ms a MB, several times what sending it takes."""
    adb_shell.adb_message.checksum = checksum
    adb_shell.adb_device.checksum = checksum
