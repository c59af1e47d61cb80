"""A device of this machine's own, and a small network with pictures to adapt on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from android_harness.link import Link
from tests.android_harness.device import Connected, Device
from tests.device.adb_daemon.process import make_keys
from tests.end_to_end import tiny


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the adbkey that devices of tests know."""
    folder = tmp_path_factory.mktemp("keys")
    make_keys(folder)
    return folder


@pytest.fixture
def device(tmp_path: Path, keys: Path) -> Device:
    """A device that is off."""
    return Device(tmp_path / "device", keys)


@pytest.fixture(scope="module")
def connected(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Connected]:
    """A device that is on, for all tests of a file."""
    with Device(tmp_path_factory.mktemp("device"), keys).on() as on:
        yield on


@pytest.fixture(scope="module")
def link(connected: Connected) -> Iterator[Link]:
    """A connection to it."""
    with Link(connected.serial, connected.device.keys, 5, 30) as link:
        yield link


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network."""
    return tiny.write_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that it can learn."""
    return tiny.write_pictures(tmp_path_factory.mktemp("data") / "pictures")
