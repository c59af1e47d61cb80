"""The packets of the ADB transport: 24 bytes of header, then a payload."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

HEADER = struct.Struct("<6I")
"""Command, two arguments, length of the payload, its checksum, and the command with every bit flipped."""

A_CNXN, A_AUTH, A_OPEN, A_OKAY, A_CLSE, A_WRTE = (
    int.from_bytes(name, "little") for name in (b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"CLSE", b"WRTE")
)
AUTH_TOKEN, AUTH_SIGNATURE = 1, 2

VERSION_WITH_CHECKSUMS = 0x01000000
VERSION = 0x01000001
"""Ours. Between two of this version checksums are 0."""

MAX_PAYLOAD_BYTES = 1024 * 1024


class ProtocolError(Exception):
    """The peer sent what the protocol does not allow; the connection ends."""


@dataclass(frozen=True)
class Header:
    """Of a packet that arrives; the magic word was right."""

    command: int
    arg0: int
    arg1: int
    length: int
    checksum: int


def parse_header(data: bytes | bytearray) -> Header:
    """24 bytes as a header. Raises ProtocolError where the magic word is not the command with its bits flipped."""
    command, arg0, arg1, length, check, magic = HEADER.unpack(data)
    if magic != command ^ 0xFFFFFFFF:
        raise ProtocolError(f"packet {command:#010x}: its magic word is {magic:#010x}")
    return Header(command, arg0, arg1, length, check)


def pack_header(command: int, arg0: int, arg1: int, length: int, check: int) -> bytes:
    """24 bytes."""
    return HEADER.pack(command, arg0, arg1, length, check, command ^ 0xFFFFFFFF)


def checksum(payload: bytes | memoryview) -> int:
    """The sum of all bytes, in 32 bits."""
    data = np.frombuffer(payload, np.uint8)
    whole = len(data) & -256  # 256 bytes fit 16 bits, in which NumPy adds fastest
    sums = data[:whole].reshape(256, -1).sum(axis=0, dtype=np.uint16)
    return int(sums.sum(dtype=np.uint32) + data[whole:].sum(dtype=np.uint32))
