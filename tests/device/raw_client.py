"""A client that speaks the ADB transport packet by packet: what adb-shell hides, does not know, or would never send."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from adb_shell.auth.sign_cryptography import CryptographySigner

VERSION_WITH_CHECKSUMS = 0x01000000
VERSION = 0x01000001
MAX_PAYLOAD_BYTES = 1 << 20
TIMEOUT_S = 10
QUIET_S = 0.15
"""How long silence lasts that counts as such."""


@dataclass(frozen=True)
class Packet:
    """One that arrived."""

    command: bytes
    arg0: int
    arg1: int
    payload: bytes


def packed(
    command: bytes, arg0: int, arg1: int, payload: bytes = b"", *, check: int | None = None, magic: int | None = None
) -> bytes:
    """A packet as it is sent; with a checksum, and magic, that may be wrong."""
    (word,) = struct.unpack("<I", command)
    check = sum(payload) if check is None else check
    magic = word ^ 0xFFFFFFFF if magic is None else magic
    return struct.pack("<6I", word, arg0, arg1, len(payload), check, magic) + payload


class RawClient:
    """Connects to a port of 127.0.0.1. Received checksums are checked where the version has them."""

    def __init__(self, port: int, version: int = VERSION) -> None:
        self.version = version
        self.passed_bytes = 0
        """Of both directions together, as far as they got through."""
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self._last_id = 0

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send_bytes(self, data: bytes) -> None:
        self._socket.sendall(data)
        self.passed_bytes += len(data)

    def send(self, command: bytes, arg0: int, arg1: int, payload: bytes = b"") -> None:
        self.send_bytes(packed(command, arg0, arg1, payload, check=0 if self.version == VERSION else None))

    def receive(self) -> Packet:
        """The next packet. Raises EOFError or ConnectionError where the connection ends, TimeoutError."""
        command, arg0, arg1, size, check, magic = struct.unpack("<6I", self._receive_bytes(24))
        assert magic == command ^ 0xFFFFFFFF
        payload = self._receive_bytes(size)
        assert check == (0 if self.version == VERSION else sum(payload))
        return Packet(struct.pack("<I", command), arg0, arg1, payload)

    def expect(self, command: bytes) -> Packet:
        packet = self.receive()
        assert packet.command == command, packet
        return packet

    def is_quiet(self) -> bool:
        """Whether nothing arrives for a while."""
        self._socket.settimeout(QUIET_S)
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(TIMEOUT_S)

    def is_closed(self) -> bool:
        """Whether the other side ends the connection, after whatever it still says."""
        try:
            while self._socket.recv(1 << 16):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    def greet(self) -> bytes:
        """Ask to be connected; returns the token to sign."""
        self.send_bytes(packed(b"CNXN", self.version, MAX_PAYLOAD_BYTES, b"host::features=shell_v2"))
        packet = self.expect(b"AUTH")
        assert packet.arg0 == 1
        return packet.payload

    def log_in(self, signer: CryptographySigner) -> Packet:
        """Greet and sign; returns what the device says of itself."""
        self.send(b"AUTH", 2, 0, signer.Sign(self.greet()))
        return self.expect(b"CNXN")

    def open(self, destination: bytes) -> RawStream:
        """Open a service that accepts."""
        self._last_id += 1
        self.send(b"OPEN", self._last_id, 0, destination + b"\0")
        answer = self.expect(b"OKAY")
        assert answer.arg1 == self._last_id
        return RawStream(self, self._last_id, answer.arg0)

    def _receive_bytes(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            if not more:
                raise EOFError
            self.passed_bytes += len(more)
            data += more
        return data


class RawStream:
    """The only stream of its client that is in use: all packets that arrive are taken for its own."""

    def __init__(self, client: RawClient, local: int, remote: int) -> None:
        self.client = client
        self.local = local
        self.remote = remote

    def write(self, data: bytes) -> None:
        """Send, and wait until it was taken."""
        self.send(data)
        self._expect_own(b"OKAY")

    def send(self, data: bytes) -> None:
        self.client.send(b"WRTE", self.local, self.remote, data)

    def read(self) -> bytes:
        """One packet of data, acknowledged."""
        data = self._expect_own(b"WRTE").payload
        self.acknowledge()
        return data

    def acknowledge(self) -> None:
        self.client.send(b"OKAY", self.local, self.remote)

    def read_all(self) -> bytes:
        """All that comes until the device closes the stream, which is answered."""
        data = b""
        while (packet := self.client.receive()).command == b"WRTE":
            data += packet.payload
            self.acknowledge()
        assert packet.command == b"CLSE", packet
        assert (packet.arg0, packet.arg1) == (self.remote, self.local)
        self.client.send(b"CLSE", self.local, self.remote)
        return data

    def close(self) -> None:
        self.client.send(b"CLSE", self.local, self.remote)
        self._expect_own(b"CLSE")

    def _expect_own(self, command: bytes) -> Packet:
        packet = self.client.expect(command)
        assert (packet.arg0, packet.arg1) == (self.remote, self.local)
        return packet
