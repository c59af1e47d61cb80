"""The run folder: what it holds is never lost, and what a failed run leaves never looks like a result."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.abuse.conftest import RESULTS, Abused, check_refusal, snapshot


@pytest.fixture
def finished(abused: Abused) -> Abused:
    """With a finished run in the run folder."""
    abused.adapt("--seed", 1).succeeded()
    return abused


def seed_of(run: Path) -> int:
    return json.loads((run / "report.json").read_text())["settings"]["seed"]


def test_a_result_is_not_replaced_without_force(finished: Abused) -> None:
    before = snapshot(finished.run)
    finished.refused(2, "holds the result of a run", "--force")
    assert snapshot(finished.run) == before


def test_a_result_is_replaced_with_force(finished: Abused) -> None:
    before = snapshot(finished.run)
    finished.adapt("--seed", 2, "--force").succeeded()
    after = snapshot(finished.run)
    assert seed_of(finished.run) == 2
    assert after.keys() == before.keys()
    assert all(after[path] != before[path] for path in before)


@pytest.mark.parametrize("what", ["bundle", "data"])
def test_a_result_survives_a_forced_run_whose_input_fails(finished: Abused, what: str) -> None:
    shutil.rmtree(finished.bundle if what == "bundle" else finished.data)
    finished.refused(3, by=lambda: finished.adapt("--seed", 2, "--force"))
    assert seed_of(finished.run) == 1


def test_a_result_survives_a_forced_run_that_diverges(finished: Abused) -> None:
    finished.refused(6, by=lambda: finished.adapt("--force", "--lr", "1e38", "--epochs", 4))
    assert seed_of(finished.run) == 1


@pytest.mark.parametrize("more", [(), ("--force",)])
def test_files_of_others_are_never_touched(abused: Abused, more: tuple[str, ...]) -> None:
    abused.run.mkdir()
    for name in ("thesis.tex", "report.json", "adapted.tflite", "events.jsonl"):
        (abused.run / name).write_text("mine")
    (abused.run / "work").mkdir()
    (abused.run / "work" / "photo.jpg").write_text("mine")
    before = snapshot(abused.run)
    abused.refused(2, "holds other files (thesis.tex)", by=lambda: abused.adapt(*more))
    assert snapshot(abused.run) == before


@pytest.mark.parametrize("more", [(), ("--force",)])
@pytest.mark.parametrize("name", ["work", "finished", "begun", "discarded"])
def test_folders_of_others_are_never_touched(abused: Abused, name: str, more: tuple[str, ...]) -> None:
    """Without the events with which each run begins, a folder is not ours, whatever its name."""
    (abused.run / name).mkdir(parents=True)
    (abused.run / name / "report.json").write_text("mine")
    before = snapshot(abused.run)
    abused.refused(2, f"holds other files ({name})", by=lambda: abused.adapt(*more))
    assert snapshot(abused.run) == before


def test_the_bundle_is_no_run_folder(abused: Abused) -> None:
    abused.refused(2, "holds other files", by=lambda: abused.adapt("--force", out=abused.bundle))


def test_a_file_in_place_of_the_run_folder(abused: Abused) -> None:
    abused.run.write_text("mine")
    abused.refused(7, "cannot write the run folder", "choose another --out")


def test_a_run_folder_below_a_file(abused: Abused) -> None:
    abused.refused(7, "cannot write the run folder", by=lambda: abused.adapt(out=abused.data / "classes.json" / "run"))


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc, where nobody may write")
def test_a_run_folder_where_nobody_may_write(abused: Abused) -> None:
    abused.refused(7, "cannot write the run folder", by=lambda: abused.adapt(out=Path("/proc/adabet/run")))


def test_a_failed_run_can_be_repeated_without_force(abused: Abused) -> None:
    hidden = abused.data.rename(abused.data.with_name("hidden"))
    abused.refused(3)
    assert RESULTS.isdisjoint(path.name for path in abused.run.iterdir())
    hidden.rename(abused.data)
    abused.adapt().succeeded()
    assert sorted(path.name for path in abused.run.iterdir()) == sorted([*RESULTS, "events.jsonl"])
    events = [json.loads(line) for line in (abused.run / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events][:: len(events) - 1] == ["start", "done"]
    assert all(event.get("completed", True) for event in events), "events of the failed run among ours"


def test_a_failed_run_tells_how_far_it_got(abused: Abused) -> None:
    (abused.data / "classes.json").unlink()
    abused.refused(3)
    (start, end) = [json.loads(line) for line in (abused.run / "events.jsonl").read_text().splitlines()]
    assert (start["event"], start["phase"]) == ("start", "open")
    assert (end["event"], end["phase"], end["completed"]) == ("end", "open", False)


def test_a_diverged_run_says_so_and_leaves_no_network(abused: Abused) -> None:
    abused.refused(
        6, "the loss became", "Try --lr 1e+37", "--force", by=lambda: abused.adapt("--lr", "1e38", "--epochs", 4)
    )
    assert RESULTS.isdisjoint(path.name for path in abused.run.rglob("*"))


def test_a_network_that_diverges_at_the_last_step_is_no_result(abused: Abused) -> None:
    """One step: its loss was computed before the weights went where float32 ends."""
    one_step = ("--batch", 48, "--optimizer", "adam", "--lr", "1.7e38", "--epochs", 1)
    abused.refused(6, "test loss is nan", "Try --lr 1.7e+37", by=lambda: abused.adapt(*one_step))
    assert RESULTS.isdisjoint(path.name for path in abused.run.iterdir())


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from ondevice.adapt import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of other systems are others")
@pytest.mark.parametrize("limit_bytes", [2_000, 20_000])
def test_a_full_disk_is_no_bug_of_ours(abused: Abused, limit_bytes: int) -> None:
    """A limit on the size of files stands in for the disk: the same error, at the same calls."""
    arguments = (abused.bundle, "--data", abused.data, "--out", abused.run, "--batch", 8, "--rho", 0.9)
    finished = abused.commands.run("-c", LIMITED, limit_bytes, *arguments)
    check_refusal(finished, 7, "File too large", "room")
    assert RESULTS.isdisjoint(path.name for path in abused.run.iterdir())
