"""An ADB daemon that is on, and who may connect to it; the network and the pictures of the harness' own tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from adb_shell.auth.sign_cryptography import CryptographySigner

from tests.android_harness.conftest import bundle, keys, pictures
from tests.device.adb_daemon.process import Daemon

__all__ = ["bundle", "keys", "pictures"]


@pytest.fixture(scope="session")
def key(keys: Path) -> Path:
    """The private key that daemons of tests know."""
    return keys / "adbkey"


@pytest.fixture(scope="session")
def signer(key: Path) -> CryptographySigner:
    """What adb-shell signs with."""
    return CryptographySigner(str(key))


@pytest.fixture(scope="module")
def daemon(key: Path) -> Iterator[Daemon]:
    """A daemon that is on, for all tests of a file."""
    with Daemon(keys=key.with_suffix(".pub"), env={"GREETING": "hello there"}) as daemon:
        yield daemon
