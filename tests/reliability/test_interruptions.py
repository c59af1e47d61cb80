"""Runs that are killed, interrupted or short of disk end like undisturbed ones; `make reliability` tries more."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from random import Random

import pytest

from tests.reliability.lab import KINDS, RESULTS, STEPS, Fault, Lab, Trial, comparable, ended, wait_for
from tests.reliability.trials import FAULTS, fail_and_go_on, interrupt, kill_and_go_on, kill_at_random, operations

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture(scope="module", params=KINDS)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"), request.param)


@pytest.fixture(scope="module")
def names(lab: Lab) -> list[str]:
    """File operations of a whole run."""
    found = operations(lab)
    assert len(found) > 100
    return found


@pytest.fixture(scope="module")
def some(lab: Lab, names: list[str]) -> list[int]:
    """Numbers of some file operations, from the first to the last."""
    return list(range(1 + list(KINDS).index(lab.kind), len(names) + 1, 47))


def test_a_run_that_is_killed_at_a_file_operation(lab: Lab, some: list[int]) -> None:
    for at in some:
        kill_and_go_on(lab, at)


def test_a_run_that_is_killed_at_any_moment(lab: Lab) -> None:
    for number in range(2):
        kill_at_random(lab, Random(f"{lab.kind} {number}"))


def test_a_file_operation_that_fails(lab: Lab, some: list[int]) -> None:
    for number, at in enumerate(some):
        fail_and_go_on(lab, FAULTS[number % len(FAULTS)](at))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda signum: signum.name)
@pytest.mark.parametrize("phase", ["open", "train"])
def test_a_signal_ends_a_run_that_can_go_on(lab: Lab, signum: signal.Signals, phase: str) -> None:
    interrupt(lab, signum, phase)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda signum: signum.name)
def test_a_signal_ends_a_dry_run_without_traces(
    lab: Lab, signum: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    trial = lab.fresh()
    with trial.process([*trial.arguments, "--dry-run"]) as process:
        wait_for(tmp_path, "adabet-*/events.jsonl", "open")
        process.send_signal(signum)
        stopped = ended(process)
    assert (stopped.code, stopped.stderr.splitlines()[-1]) == (130, "error: interrupted")
    assert list(tmp_path.iterdir()) == []
    assert not trial.run.exists()


@pytest.fixture
def killed(lab: Lab, names: list[str]) -> Trial:
    """A trial whose process was killed in the middle of training."""
    trial = lab.fresh()
    checkpoints = [i for i, name in enumerate(names, 1) if "safetensors" in name]
    assert trial.start(Fault(checkpoints[len(checkpoints) // 2])).code == -signal.SIGKILL
    assert 0 < trial.steps_made() < STEPS
    return trial


def test_a_training_that_was_interrupted_is_not_lost_by_starting_anew(killed: Trial) -> None:
    refused = killed.start()
    assert refused.code == 2
    assert f"go on with `--resume {killed.run}`, or --force" in refused.stderr
    assert killed.finish() <= 1


def test_force_starts_anew(killed: Trial) -> None:
    before = killed.steps_made()
    assert killed.start(more=["--force"]).code == 0
    assert killed.steps_made() == before + STEPS
    assert killed.results() == killed.lab.expected


def test_force_that_is_killed_leaves_the_old_run_or_the_new_one(killed: Trial, names: list[str]) -> None:
    """Killed before each operation until the new run has begun: what goes on is whole, and of one of the two."""
    arguments = ["--force", "--seed", "3"]
    first = next(i for i, name in enumerate(names, 1) if "probe" in name or "compile" in name or "train-" in name)
    for at in range(1, first + 8, 7):
        copy = killed.lab.fresh()
        shutil.copytree(killed.run, copy.run)
        assert copy.start(Fault(at), more=arguments).code == -signal.SIGKILL
        done = copy.resume()
        assert done.code == 0, done.stderr
        seed = json.loads((copy.run / "report.json").read_bytes())["settings"]["seed"]
        assert (seed, copy.results() == killed.lab.expected) in ((0, True), (3, False))
        assert {path.name for path in copy.run.iterdir()} == RESULTS | {"events.jsonl"}


def test_resume_of_a_finished_run_changes_nothing(killed: Trial) -> None:
    assert killed.resume().code == 0
    before = {path: path.read_bytes() for path in killed.run.rglob("*") if path.is_file()}
    assert killed.resume().code == 0
    assert {path: path.read_bytes() for path in killed.run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("spoilt", ["checkpoint.safetensors", "latest-0.safetensors", "latest-1.safetensors"])
def test_a_checkpoint_that_a_power_cut_spoilt_is_passed_over(killed: Trial, spoilt: str) -> None:
    """The other one is older; the weights at the end are the same."""
    path = killed.run / "work" / spoilt
    path.write_bytes(path.read_bytes()[:-100] if path.exists() else b"")
    assert killed.finish() >= 0


@pytest.mark.parametrize("name", ["request.json", "decision.json"])
def test_what_a_run_kept_is_checked(killed: Trial, name: str) -> None:
    path = killed.run / "work" / name
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1', 1).replace('"batch": 8', '"batch": "8"', 1))
    refused = killed.resume()
    assert refused.code == 3, refused.stderr
    assert name in refused.stderr


@pytest.mark.parametrize("name", ["classes.json", "train/images.npy"])
def test_other_images_than_at_the_beginning_are_refused(killed: Trial, name: str) -> None:
    """Another name of a class; one pixel."""
    path = killed.lab.pictures / name
    before = path.read_bytes()
    try:
        path.write_bytes(before.replace(b"red", b"rouge") if b"red" in before else before[:-1] + b"\x07")
        refused = killed.resume()
    finally:
        path.write_bytes(before)
    assert refused.code == 3
    assert "holds other images than when the run was begun" in refused.stderr
    assert killed.finish() <= 1


def test_two_processes_do_not_share_a_run_folder(lab: Lab) -> None:
    trial = lab.fresh()
    with trial.process(trial.arguments) as first:
        wait_for(trial.run, "events.jsonl", "open")
        first.send_signal(signal.SIGSTOP)
        refused = [trial.start(), trial.start(more=["--force"]), trial.resume()]
        first.send_signal(signal.SIGCONT)
        assert ended(first).code == 0
    assert [(each.code, "another process works in" in each.stderr) for each in refused] == [(2, True)] * 3
    assert trial.results() == lab.expected


def test_the_same_seed_gives_the_same_report_and_another_does_not(lab: Lab) -> None:
    """That of an undisturbed run is compared wherever a trial is finished."""
    trial = lab.fresh()
    assert trial.start(more=["--seed", "3"]).code == 0
    assert comparable(json.loads((trial.run / "report.json").read_bytes())) != lab.expected_report
    assert trial.results() != lab.expected


@pytest.mark.parametrize("more", [["--epochs", "2"], ["--out", "elsewhere"], ["--force"]])
def test_resume_takes_no_other_options(lab: Lab, more: list[str]) -> None:
    trial = lab.fresh()
    with trial.process(["--resume", str(trial.run), *more]) as process:
        refused = ended(process)
    assert refused.code == 2
    assert "leave away" in refused.stderr
