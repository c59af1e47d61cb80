"""A folder of the owner's photographs, as a camera leaves them: no train/, no test/, no common size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.end_to_end import tiny
from tests.end_to_end.commands import Commands
from tests.end_to_end.conftest import read_report

PER_CLASS = 20


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """20 JPEG files a class, of the class's colour, upright and lying."""
    random = np.random.default_rng(4)
    folder = tmp_path / "my photos"
    for channel, name in enumerate(tiny.CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(PER_CLASS):
            shape = (40 + number, 60) if number % 2 else (33, 50 + number)
            pixels = random.integers(0, 130, (*shape, 3))
            pixels[..., channel] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"IMG_{number:04}.JPG", "JPEG")
    (folder / "notes.txt").write_text("not a photograph")
    return folder


def test_a_plain_folder_of_photographs_works(commands: Commands, tiny_bundle: Path, photographs: Path) -> None:
    before = sorted(photographs.rglob("*"))
    run = commands.folder / "run"
    said = commands.adapt(
        tiny_bundle, "--data", photographs, "--batch", 8, "--rho", 0.3, "--epochs", 8, "--out", run, "--json"
    ).succeeded()
    report = read_report(run)
    assert json.loads(said.stdout) == report
    assert report["classes"] == sorted(tiny.CLASSES)
    assert report["dataset"].startswith("my photos: 48 training and 12 test images of 16×16, 3 classes")
    assert len(report["step_losses"]) == 8 * (48 // 8)
    assert report["after"]["images"] == 12
    assert report["after"]["accuracy"] >= report["before"]["accuracy"] + 0.3
    assert sorted(photographs.rglob("*")) == before
    assert not (run / "work").exists()
