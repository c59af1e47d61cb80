"""Options that say what a run may take, and the dry run that says beforehand what it would."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from ondevice.outline import RHO_GRID
from tests.end_to_end import tiny
from tests.end_to_end.commands import Commands, Finished
from tests.end_to_end.conftest import read_report

SETTINGS = ("--rho", tiny.RHOS[0], "--batch", tiny.BATCH, "--epochs", 2, "--threads", 1)
MIB = 1 << 20


def adapt(commands: Commands, bundle: Path, data: Path, *more: object) -> Finished:
    return commands.adapt(bundle, "--data", data, "--out", commands.folder / "run", *SETTINGS, *more)


def refused(commands: Commands, bundle: Path, data: Path, *more: object) -> str:
    """The one line that says why a run does not fit its budget."""
    finished = adapt(commands, bundle, data, *more)
    assert finished.code == 4, finished.stderr
    assert finished.stdout == ""
    (line,) = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert not (commands.folder / "run" / "report.json").exists()
    return line


# The dry run ----------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_a_run_then_does(commands: Commands, tiny_bundle: Path, tiny_pictures: Path) -> None:
    said = adapt(commands, tiny_bundle, tiny_pictures, "--dry-run", "--json").succeeded()
    assert said.stdout.count("\n") == 1
    outline = json.loads(said.stdout)
    assert list(commands.folder.iterdir()) == [], "a dry run leaves something"
    adapt(commands, tiny_bundle, tiny_pictures).succeeded()
    report = read_report(commands.folder / "run")
    assert outline["selection"] == report["selection"]
    assert outline["images"] == 48
    sizes = {"prefix_bytes", "train_bytes", "evaluate_bytes"}  # with what the process holds already, which varies
    for key in report["plan"].keys() - sizes:
        assert outline["plan"][key] == report["plan"][key], key
    for key in sizes:
        assert abs(outline["plan"][key] - report["plan"][key]) < 16 * MIB, key
    assert [rho for rho, _ in outline["grid"]] == list(RHO_GRID)
    counts = [len(cost["layers"]) for _, cost in outline["grid"]]
    assert counts == sorted(counts)
    assert counts[-1] == len(tiny.LAYERS)


def test_a_dry_run_in_words(commands: Commands, tiny_bundle: Path, tiny_pictures: Path) -> None:
    """It leaves an older result alone."""
    adapt(commands, tiny_bundle, tiny_pictures).succeeded()
    report = read_report(commands.folder / "run")
    said = adapt(commands, tiny_bundle, tiny_pictures, "--dry-run").succeeded().stdout
    assert read_report(commands.folder / "run") == report
    assert said.splitlines()[-1] == "the pick: " + ", ".join(report["plan"]["layers"])
    assert sum(line.startswith("ρ ") for line in said.splitlines()) == len(RHO_GRID)


# Memory and time ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["betti", "head"])
def test_too_little_memory_is_told_with_how_much_would_do(
    commands: Commands, tiny_bundle: Path, tiny_pictures: Path, criterion: str
) -> None:
    """Before anything trains; and that much does, give or take what a process of Python weighs."""
    line = refused(commands, tiny_bundle, tiny_pictures, "--criterion", criterion, "--budget-mib", 20)
    enough = re.search(r"give at least --budget-mib (\d+)", line)
    assert enough is not None, line
    budget = int(enough[1]) + 8
    adapt(commands, tiny_bundle, tiny_pictures, "--criterion", criterion, "--budget-mib", budget).succeeded()
    report = read_report(commands.folder / "run")
    assert report["settings"]["budget_bytes"] == budget * MIB
    assert report["plan"]["train_bytes"] <= budget * MIB
    assert report["epochs"][-1]["loss"] < report["epochs"][0]["loss"]


def test_too_little_time_is_told(commands: Commands, tiny_bundle: Path, tiny_pictures: Path) -> None:
    line = refused(commands, tiny_bundle, tiny_pictures, "--time-budget", "1e-9")
    assert "even the head alone would train for" in line
    assert "--time-budget" in line


def test_a_generous_budget_changes_nothing(commands: Commands, tiny_bundle: Path, tiny_pictures: Path) -> None:
    reports = []
    for more in ((), ("--budget-mib", 4096, "--time-budget", 36000)):
        adapt(commands, tiny_bundle, tiny_pictures, "--force", *more).succeeded()
        reports.append(read_report(commands.folder / "run"))
    free, limited = reports
    assert limited["settings"]["budget_s"] == 36000
    assert limited["selection"] == free["selection"]
    assert limited["adapted_sha256"] == free["adapted_sha256"]


# The disk -------------------------------------------------------------------------------------------------------------

NO_ROOM = """
import sys
from ondevice import pipeline
from ondevice.adapt import main
pipeline.room_bytes = lambda folder: 0
sys.exit(main(sys.argv[1:]))
"""


def test_where_the_disk_is_full_the_prefix_runs_again(
    commands: Commands, tiny_bundle: Path, tiny_pictures: Path
) -> None:
    """In each epoch, and to the same end."""
    more = ("--criterion", "head", "--mirror", "--force")
    adapt(commands, tiny_bundle, tiny_pictures, *more).succeeded()
    kept = read_report(commands.folder / "run")
    assert kept["plan"]["kept_bytes"] == 48 * 2 * 24 * 4  # images, mirrored too, features, float32
    arguments = (tiny_bundle, "--data", tiny_pictures, "--out", commands.folder / "run", *SETTINGS, *more)
    commands.run("-c", NO_ROOM, *arguments).succeeded()
    again = read_report(commands.folder / "run")
    assert again["plan"]["kept_bytes"] == 0
    np.testing.assert_allclose(again["step_losses"], kept["step_losses"], rtol=1e-6)


def test_half_precision_on_the_disk_is_near(commands: Commands, tiny_bundle: Path, tiny_pictures: Path) -> None:
    losses = {}
    for dtype, n_bytes in (("float32", 4), ("float16", 2)):
        more = ("--criterion", "head", "--replay", dtype, "--force")
        adapt(commands, tiny_bundle, tiny_pictures, *more).succeeded()
        report = read_report(commands.folder / "run")
        assert report["plan"]["kept_bytes"] == 48 * 24 * n_bytes
        losses[dtype] = report["step_losses"]
    assert losses["float16"] != losses["float32"]
    np.testing.assert_allclose(losses["float16"], losses["float32"], rtol=1e-3)


def test_mirrored_images_are_others(commands: Commands, tiny_bundle: Path, tiny_pictures: Path) -> None:
    """The first step is the same: of a head of zeros. Later ones see other images."""
    losses = []
    for more in ((), ("--mirror",)):
        adapt(commands, tiny_bundle, tiny_pictures, "--force", *more).succeeded()
        losses.append(read_report(commands.folder / "run")["step_losses"])
    plain, mirrored = losses
    assert mirrored[0] == pytest.approx(plain[0], rel=1e-6)
    assert mirrored[1:] != plain[1:]
