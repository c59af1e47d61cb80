"""The tcp service: a port of the device's own loopback address."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from tests.device.adb_daemon.stream import Stream
from tests.device.adb_daemon.tasks import run_first

_CHUNK_BYTES = 256 * 1024


async def serve(port: int, stream: Stream) -> None:
    """tcp:PORT — passes bytes both ways until one side closes; refused where nobody listens."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock, contextlib.suppress(OSError):
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.accept()
        await run_first(_from_device(sock, stream), _to_device(sock, stream))


async def _from_device(sock: socket.socket, stream: Stream) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(sock, _CHUNK_BYTES):
        await stream.write(data)


async def _to_device(sock: socket.socket, stream: Stream) -> None:
    loop = asyncio.get_running_loop()
    while data := await stream.read():
        await loop.sock_sendall(sock, data)
