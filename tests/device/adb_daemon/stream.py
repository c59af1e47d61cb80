"""One stream of a connection, as the service behind it sees it: bytes in, bytes out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.device.adb_daemon.wire import A_OKAY, A_WRTE

Post = Callable[[int, int, int, memoryview], None]
"""Queues a packet: command, both arguments, payload. The payload must not change until it was acknowledged."""

NOTHING = memoryview(b"")


class StreamClosed(Exception):  # noqa: N818 — an event, not an error
    """The peer closed the stream, or the connection is lost."""


class Stream:
    """In each direction one packet is under way at most: the next is sent when the other side took the last.

    We take a packet when the service begins to use it, so that the next arrives meanwhile. adbd takes it when it went
    into the socket pair that leads to the service, which holds some packets more.
    """

    def __init__(self, local: int, remote: int, max_payload_bytes: int, post: Post) -> None:
        self.local = local
        self.remote = remote
        self.accepted = False
        self.closed = asyncio.Event()
        self._max_payload_bytes = max_payload_bytes
        self._post = post
        # One is filled while the service reads from the other.
        self._buffers = [bytearray(), bytearray()]
        self._arrived: memoryview | None = None
        self._unread = NOTHING
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._writing = asyncio.Lock()

    # ---- for the service

    def accept(self) -> None:
        """Tell the peer that the stream is open. A service that returns without it has refused."""
        self.accepted = True
        self._acknowledge()

    async def read(self, limit: int | None = None) -> memoryview:
        """What there is, at least a byte and at most `limit`; empty after the last. Valid until the next read."""
        if not self._unread:
            await self._readable.wait()
            if self._arrived is None:
                return NOTHING
            self._unread, self._arrived = self._arrived, None
            self._buffers.reverse()
            if not self.closed.is_set():
                self._readable.clear()
                self._acknowledge()
        data = self._unread[:limit]
        self._unread = self._unread[len(data) :]
        return data

    async def read_exactly(self, size: int) -> bytes:
        """`size` bytes. Raises StreamClosed where the stream ends before."""
        data = b""
        while len(data) < size:
            more = await self.read(size - len(data))
            if not more:
                raise StreamClosed
            data += more
        return data

    async def write(self, data: bytes | memoryview) -> None:
        """Returns when the last packet is queued; `data` must not change before the next write returns, or raises.

        Raises StreamClosed.
        """
        view = memoryview(data)
        async with self._writing:
            while view:
                await self._writable.wait()
                if self.closed.is_set():
                    raise StreamClosed
                self._writable.clear()
                self._post(A_WRTE, self.local, self.remote, view[: self._max_payload_bytes])
                view = view[self._max_payload_bytes :]

    # ---- for the connection

    @property
    def full(self) -> bool:
        """Whether the packet that arrived last still waits for the service: none may follow it."""
        return self._arrived is not None

    def buffer(self, size: int) -> memoryview:
        """Where the next payload goes: `size` bytes that the service is not using."""
        if len(self._buffers[0]) < size:
            self._buffers[0] = bytearray(size)
        return memoryview(self._buffers[0])[:size]

    def deliver(self, payload: memoryview) -> None:
        """A payload has arrived in the buffer."""
        if payload:
            self._arrived = payload
            self._readable.set()
        else:
            self._acknowledge()

    def acknowledged(self) -> None:
        """The peer took what we wrote."""
        self._writable.set()

    def close(self) -> None:
        """The peer is gone. What has arrived can still be read."""
        self.closed.set()
        self._readable.set()
        self._writable.set()

    def _acknowledge(self) -> None:
        self._post(A_OKAY, self.local, self.remote, NOTHING)
