"""Where the train file comes from: compiled once and kept, never used damaged, never for another request."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end import tiny
from tests.end_to_end.commands import Commands
from tests.end_to_end.conftest import read_report

SETTINGS = ("--rho", tiny.RHOS[0], "--batch", tiny.BATCH, "--epochs", 2, "--threads", 1)


def adapt(commands: Commands, bundle: Path, data: Path, run: str, *more: object) -> dict:
    folder = commands.folder / run
    commands.adapt(bundle, "--data", data, "--out", folder, *SETTINGS, *more).succeeded()
    return read_report(folder)


def test_compiled_once_then_from_the_cache_and_damaged_ones_compiled_again(
    commands: Commands, tiny_bundle: Path, tiny_pictures: Path
) -> None:
    first = adapt(commands, tiny_bundle, tiny_pictures, "first")
    assert first["train_source"] == "compiled"
    assert first["compile_seconds"] > 0
    (kept,) = commands.cache.glob("*.tflite")
    intact = kept.read_bytes()
    assert adapt(commands, tiny_bundle, tiny_pictures, "second")["train_source"] == "cache"
    assert kept.read_bytes() == intact

    middle = len(intact) // 2
    for number, damaged in enumerate(
        (intact[:middle], intact[:middle] + bytes([intact[middle] ^ 1]) + intact[middle + 1 :])
    ):
        kept.write_bytes(damaged)
        report = adapt(commands, tiny_bundle, tiny_pictures, f"damaged{number}")
        assert report["train_source"] == "compiled"
        assert kept.read_bytes() == intact
        assert report["adapted_sha256"] == first["adapted_sha256"]
    assert sorted(path.suffix for path in commands.cache.iterdir()) == [".sha256", ".tflite"]


@pytest.mark.parametrize(
    ("more", "source"),
    [
        ((), "cache"),
        (("--optimizer", "adam"), "cache"),
        (("--replay", "float16", "--mirror", "--epochs", 3), "cache"),
        (("--rho", 0.9), "compiled"),
        (("--batch", 12), "compiled"),
        (("--criterion", "head"), "compiled"),
    ],
)
def test_a_kept_file_serves_its_subset_and_batch_only(
    commands: Commands, tiny_bundle_with_head: Path, tiny_pictures: Path, more: tuple[object, ...], source: str
) -> None:
    """The optimizer and what is kept of the prefix are outside of it. The bundle's own train files are for apps."""
    assert adapt(commands, tiny_bundle_with_head, tiny_pictures, "first")["train_source"] == "compiled"
    report = adapt(commands, tiny_bundle_with_head, tiny_pictures, "run", *more)
    assert report["train_source"] == source
    assert report["epochs"][-1]["loss"] < report["epochs"][0]["loss"]
