"""One client's connection: handshake, packets, and the streams that they belong to."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
import traceback
from collections import deque
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from tests.device.adb_daemon import wire
from tests.device.adb_daemon.auth import TOKEN_BYTES, is_signed
from tests.device.adb_daemon.fuse import Fuse, LinkCut
from tests.device.adb_daemon.services import Device, find_service
from tests.device.adb_daemon.stream import NOTHING, Stream, StreamClosed
from tests.device.adb_daemon.tasks import run_first
from tests.device.adb_daemon.wire import A_AUTH, A_CLSE, A_CNXN, A_OKAY, A_OPEN, A_WRTE, Header, ProtocolError


@dataclass(frozen=True)
class Settings:
    """What all connections have in common."""

    device: Device
    keys: tuple[RSAPublicKey, ...]
    max_payload_bytes: int


class Connection:
    """`sock` does not block, and is closed at the end."""

    def __init__(self, sock: socket.socket, settings: Settings, fuse: Fuse) -> None:
        self._sock = sock
        self._settings = settings
        self._fuse = fuse
        self._loop = asyncio.get_running_loop()
        self._version = wire.VERSION_WITH_CHECKSUMS
        self._max_payload_bytes = settings.max_payload_bytes
        self._token = b""
        self._online = False
        self._streams: dict[int, Stream] = {}
        self._services: set[asyncio.Task[None]] = set()
        self._last_id = 0
        self._outgoing: deque[bytes | memoryview] = deque()
        self._something_to_send = asyncio.Event()

    async def serve(self) -> None:
        """Until the client leaves, breaks the protocol, or the fuse blows. The services end in their own time."""
        with self._sock:
            try:
                await run_first(self._receive_all(), self._send_all())
            except ProtocolError as error:
                print(f"adb_daemon: closed a connection: {error}", file=sys.stderr, flush=True)
            except LinkCut:
                # Without lingering, closing resets: nothing is said, and what is under way is lost.
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except (OSError, EOFError):
                pass  # the client left
            finally:
                self._close_streams()

    # ---- bytes

    async def _receive_all(self) -> None:
        header_bytes = bytearray(wire.HEADER.size)
        while True:
            await self._fill(memoryview(header_bytes))
            # A client that sends the payload apart, by Nagle's rule, waits for this acknowledgment: 40 ms if delayed.
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            header = wire.parse_header(header_bytes)
            payload = self._room_for(header)
            await self._fill(payload)
            if self._version < wire.VERSION and wire.checksum(payload) != header.checksum:
                raise ProtocolError(f"packet {header.command:#010x}: its checksum is not that of its payload")
            self._handle(header, payload)

    def _room_for(self, header: Header) -> memoryview:
        """Where its payload goes. Raises ProtocolError."""
        if header.length > self._max_payload_bytes:
            raise ProtocolError(f"a payload of {header.length} bytes; the limit is {self._max_payload_bytes}")
        stream = self._stream_of(header) if header.command == A_WRTE else None
        if stream is None:
            return memoryview(bytearray(header.length))
        if stream.full:
            raise ProtocolError(f"stream {stream.remote}: data before we took what was sent last")
        return stream.buffer(header.length)

    async def _fill(self, buffer: memoryview) -> None:
        while buffer:
            size = await self._loop.sock_recv_into(self._sock, buffer)
            if size == 0:
                raise EOFError
            if self._fuse.burn(size) is not None:
                raise LinkCut
            buffer = buffer[size:]

    async def _send_all(self) -> None:
        while True:
            await self._something_to_send.wait()
            while self._outgoing:
                data = self._outgoing.popleft()
                last = self._fuse.burn(len(data))
                await self._loop.sock_sendall(self._sock, data[:last])
                if last is not None:
                    raise LinkCut
            self._something_to_send.clear()

    def _post(self, command: int, arg0: int, arg1: int, payload: bytes | memoryview = NOTHING) -> None:
        # Nobody waits for the socket here: if what receives did, two sides that send would wait for each other. The
        # queue stays short because every stream has one packet under way.
        check = wire.checksum(payload) if self._version < wire.VERSION else 0
        self._outgoing.append(wire.pack_header(command, arg0, arg1, len(payload), check))
        if payload:
            self._outgoing.append(payload)
        self._something_to_send.set()

    # ---- packets

    def _handle(self, header: Header, payload: memoryview) -> None:
        if header.command == A_CNXN:
            self._negotiate(header)
        elif header.command == A_AUTH:
            self._authenticate(header, bytes(payload))
        elif not self._online:
            return
        elif header.command == A_OPEN:
            self._open(header, bytes(payload).partition(b"\0")[0])
        elif (stream := self._stream_of(header)) is None:
            return  # closed meanwhile
        elif header.command == A_WRTE:
            stream.deliver(payload)
        elif header.command == A_OKAY:
            stream.acknowledged()
        elif header.command == A_CLSE:
            self._forget(stream)
            stream.close()

    def _negotiate(self, header: Header) -> None:
        if header.arg1 == 0:
            raise ProtocolError("the client takes no payloads at all")
        self._close_streams()
        self._online = False
        self._version = min(header.arg0, wire.VERSION)
        self._max_payload_bytes = min(header.arg1, self._settings.max_payload_bytes)
        self._send_token()

    def _send_token(self) -> None:
        self._token = os.urandom(TOKEN_BYTES)
        self._post(A_AUTH, wire.AUTH_TOKEN, 0, self._token)

    def _authenticate(self, header: Header, payload: bytes) -> None:
        # A public key is an offer for the owner of the phone to confirm, which ours never does.
        if header.arg0 != wire.AUTH_SIGNATURE or self._online or not self._token:
            return
        if not is_signed(self._token, payload, self._settings.keys):
            self._send_token()
            return
        self._online = True
        self._post(A_CNXN, wire.VERSION, self._settings.max_payload_bytes, self._settings.device.banner())

    def _stream_of(self, header: Header) -> Stream | None:
        stream = self._streams.get(header.arg1)
        # Old versions of adb close streams with 0 for their own id.
        nameless = header.command == A_CLSE and header.arg0 == 0
        return stream if stream and (nameless or stream.remote == header.arg0) else None

    # ---- streams

    def _open(self, header: Header, destination: bytes) -> None:
        if header.arg0 == 0 or header.arg1 != 0:
            return
        self._last_id += 1
        stream = Stream(self._last_id, header.arg0, self._max_payload_bytes, self._post)
        self._streams[stream.local] = stream
        task = asyncio.ensure_future(self._serve_stream(stream, destination))
        self._services.add(task)
        task.add_done_callback(self._services.discard)

    async def _serve_stream(self, stream: Stream, destination: bytes) -> None:
        service = find_service(destination, self._settings.device)
        try:
            if service is not None:
                await service(stream)
        except StreamClosed:
            pass
        except Exception:
            traceback.print_exc()  # a bug of ours; the daemon goes on
        finally:
            self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        if self._streams.pop(stream.local, None):
            self._post(A_CLSE, stream.local if stream.accepted else 0, stream.remote)

    def _close_streams(self) -> None:
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.close()
