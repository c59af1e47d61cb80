"""Listens, and gives every client a connection."""

from __future__ import annotations

import asyncio
import socket

from tests.device.adb_daemon.connection import Connection, Settings
from tests.device.adb_daemon.fuse import Fuse


def listen(port: int) -> socket.socket:
    """On the loopback address alone; 0 lets the system choose the port. Raises OSError."""
    return socket.create_server(("127.0.0.1", port))


async def serve(listener: socket.socket, settings: Settings, fuse: Fuse) -> None:
    """Until it is cancelled."""
    loop = asyncio.get_running_loop()
    listener.setblocking(False)
    clients: set[asyncio.Task[None]] = set()
    while True:
        sock, _ = await loop.sock_accept(listener)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = asyncio.ensure_future(Connection(sock, settings, fuse).serve())
        clients.add(client)
        client.add_done_callback(clients.discard)
