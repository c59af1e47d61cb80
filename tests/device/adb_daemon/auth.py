"""Who may connect: Android's format of RSA public keys, and signatures of the tokens that we send."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA1

TOKEN_BYTES = 20
_MODULUS_BYTES = 256
# Words of the modulus, -1/n mod 2**32, the modulus, R**2 mod n (both little-endian), the exponent.
_KEY = struct.Struct(f"<II{_MODULUS_BYTES}s{_MODULUS_BYTES}sI")


def parse_public_key(line: str) -> RSAPublicKey:
    """A line of adbkey.pub: the key in base64, then whose it is. Raises ValueError where it is none."""
    try:
        words, _, modulus, _, exponent = _KEY.unpack(base64.b64decode(line.split()[0], validate=True))
    except (binascii.Error, struct.error) as error:
        raise ValueError(f"not an adb public key ({error}): {line[:40]}…") from error
    if words * 4 != _MODULUS_BYTES:
        raise ValueError(f"an adb public key of {words * 32} bits; adb knows 2048: {line[:40]}…")
    return RSAPublicNumbers(exponent, int.from_bytes(modulus, "little")).public_key()


def read_keys(path: Path) -> tuple[RSAPublicKey, ...]:
    """All keys of a file that holds one a line; blank lines are skipped. Raises OSError, ValueError."""
    return tuple(parse_public_key(line) for line in path.read_text().splitlines() if line.strip())


def is_signed(token: bytes, signature: bytes, keys: Iterable[RSAPublicKey]) -> bool:
    """Whether one of the keys signed the token, which stands where a SHA-1 digest would."""
    for key in keys:
        try:
            key.verify(signature, token, PKCS1v15(), Prehashed(SHA1()))
        except InvalidSignature:
            continue
        return True
    return False
