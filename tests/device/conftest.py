"""The device in a box: our ADB daemon before an emulated arm64 Debian, and what is adapted there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.device.adb_daemon.process import make_keys
from tests.end_to_end import tiny


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the adbkey that the device knows."""
    folder = tmp_path_factory.mktemp("keys")
    make_keys(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network."""
    return tiny.write_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def tiny_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that it can learn."""
    return tiny.write_pictures(tmp_path_factory.mktemp("data") / "pictures")
