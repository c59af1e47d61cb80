"""ondevice.show: the table of runs, and reports that are not what they claim."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ondevice.show import main, read_run


def report(criterion: str = "betti", accuracy: float = 0.9612, **settings: object) -> dict[str, Any]:
    """A report with what `show` reads."""
    return {
        "format": "adabet-report",
        "version": 1,
        "settings": {
            "criterion": criterion,
            "rho": 0.1,
            "epochs": 3,
            "batch": 32,
            "learning_rate": 0.01,
            "optimizer": "sgd",
            "seed": 0,
            **settings,
        },
        "network": "mobilenetv2",
        "weights": "random",
        "dataset_fingerprint": "ab" * 32,
        "selection": {"table": [{"picked": True}, {"picked": False}, {"picked": True}]},
        "trained_parameters": 191402,
        "before": {"accuracy": 0.0987},
        "after": {"accuracy": accuracy},
        "phases": [{"seconds": 1.25}, {"seconds": 61.5}],
        "peak_bytes": 697 << 20,
    }


@pytest.fixture
def run_folder(tmp_path: Path) -> Callable[[str, object], Path]:
    def write(name: str, document: object) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        text = document if isinstance(document, str) else json.dumps(document)
        (folder / "report.json").write_text(text)
        return folder

    return write


def test_one_line_each(run_folder: Callable[[str, object], Path], capsys: pytest.CaptureFixture[str]) -> None:
    folders = [run_folder("a", report()), run_folder("b", report("head", 0.9046))]
    assert main([str(folder) for folder in folders]) == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["run", "criterion", "ρ", "layers"]
    assert re.split(" +", first)[1:] == ["betti", "0.1", "2", "191,402", "9.9%", "→", "96.1%", "697", "62.8"]
    assert re.split(" +", second)[1:3] == ["head", "–"]


def test_runs_under_other_conditions_are_told_apart(
    run_folder: Callable[[str, object], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [run_folder("a", report()), run_folder("b", report("head", epochs=5, learning_rate=0.02))]
    assert main([str(folder) for folder in folders]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "These runs also differ in epochs, learning rate."


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("{", "damaged"),
        ("[" * 100_000, "damaged"),
        ([], "no document of format"),
        ({"format": "adabet-bundle"}, "no document of format"),
        ({**report(), "version": 2}, "this program reads version 1"),
        ({**report(), "before": None}, "damaged: TypeError"),
        ({key: value for key, value in report().items() if key != "phases"}, "damaged: KeyError: 'phases'"),
    ],
)
def test_bad_reports(
    document: object,
    complaint: str,
    run_folder: Callable[[str, object], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([str(run_folder("a", document))]) == 3
    said = capsys.readouterr()
    assert complaint in said.err
    assert said.err.startswith("error: ")
    assert not said.out


def test_no_run_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 3
    assert "is no finished run" in capsys.readouterr().err


def test_reads_only_what_it_needs(run_folder: Callable[[str, object], Path]) -> None:
    run = read_run(run_folder("a", {**report(), "later": {"version": "adds fields"}}))
    assert (run.layers, run.seconds) == (2, 62.75)
