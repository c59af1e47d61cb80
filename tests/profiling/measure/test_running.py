"""The command that measures: real scenarios on a small bundle, and processes that fail."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest

from ondevice.dataset import open_dataset
from profiling.environment import Commit, commit, environment, versions, versions_of
from profiling.measure.record import Record, read_records
from profiling.measure.run import FAILED, Turn, main, turns
from profiling.measure.scenarios import SCENARIOS, Reading, Scenario
from signatures.errors import INTERRUPTED, CapabilityError
from tests.end_to_end import tiny

ROOT = Path(__file__).parents[3]
DEADLINE_S = 300


@pytest.fixture(autouse=True)
def _places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Processes find our packages, and keep nothing in the user's cache."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "new" / "records.jsonl"


def measured(out: Path) -> dict[str, Record]:
    """By scenario, the records of a run of one repeat."""
    records = {record.scenario: record for record in read_records(out, pytest.fail)}
    assert [entry.name for entry in out.parent.iterdir()] == [out.name], "a run leaves its records and nothing else"
    return records


# Order ----------------------------------------------------------------------------------------------------------------


def test_scenarios_take_turns() -> None:
    names = ["a", "b", "c", "d"]
    order = list(turns(names, 2, 5))
    assert [turn.warm_up for turn in order] == [True] * 8 + [False] * 20
    assert Counter(order) == Counter(
        Turn(name, repeat, warm)
        for warm, count in ((True, 2), (False, 5))
        for repeat in range(1, count + 1)
        for name in names
    )
    rounds = [tuple(turn.scenario for turn in order[i : i + 4]) for i in range(8, 28, 4)]
    assert [turn.repeat for turn in order[8:]] == sorted(turn.repeat for turn in order[8:])
    assert len(set(rounds)) > 1
    assert order == list(turns(names, 2, 5))


# Real processes -------------------------------------------------------------------------------------------------------


def test_what_processes_tell_is_recorded(
    bundle: Path, data: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["adapt-head", "dry-run", "probe", "infer", "import", "step-ours"]
    given = ["--bundle", bundle, "--data", data, "--threads", 1, "--repeats", 1, "--warm-up", 0, "--out", out]
    assert main([*names, *map(str, given), "--", "--epochs", "2", "--batch", "8"]) == 0
    records = measured(out)
    assert sorted(records) == sorted(names)
    for name, record in records.items():
        expected = {metric.removesuffix(":PHASE") for metric in SCENARIOS[name].metrics} - {"worker_peak_bytes"}
        assert {metric.partition(":")[0] for metric in record.metrics} == expected
        assert record.failure is None
        assert record.settings.threads == 1
        assert 10 << 20 < record.metrics.get("peak_bytes", 20 << 20) < 1 << 30

    adapt = records["adapt-head"]
    assert adapt.settings.arguments == ("--epochs", "2", "--batch", "8")
    assert adapt.outcome["layers"] == "head"
    assert adapt.metrics["trained_parameters"] == 24 * 3 + 3
    assert adapt.metrics["accuracy"] * 30 == pytest.approx(round(adapt.metrics["accuracy"] * 30))
    phases = {name: value for name, value in adapt.metrics.items() if name.startswith("seconds:")}
    assert {"seconds:open", "seconds:train", "seconds:evaluate"} <= set(phases)
    assert 2 * adapt.metrics["epoch_seconds"] <= phases["seconds:train"] < sum(phases.values()) < adapt.seconds
    assert adapt.metrics["seconds"] == adapt.seconds
    assert 0.1 < adapt.metrics["cpu_seconds"] < 2 * environment().cores * adapt.seconds
    assert adapt.metrics["peak_bytes"] == max(
        value for name, value in adapt.metrics.items() if name.startswith("peak_bytes:")
    )
    manifest = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    fingerprint = open_dataset(data, tiny.IMAGE, tmp_path, 0).fingerprint
    assert adapt.inputs == {"bundle": manifest, "data": fingerprint}

    assert "head" in records["dry-run"].outcome["layers"]
    assert records["probe"].outcome["b1"] in ("aot", "numpy", "numba")
    assert records["probe"].settings.arguments == ()
    model = hashlib.sha256((bundle / "model.tflite").read_bytes()).hexdigest()
    assert records["infer"].inputs == {"model": model}
    assert records["infer"].metrics["call_seconds"] < records["infer"].metrics["load_seconds"]
    assert records["import"].metrics["import_seconds"] < records["import"].seconds
    assert len({record.run for record in records.values()}) == 1
    table = capsys.readouterr().out
    assert all(name in table for name in names)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupts_leave_whole_records(sent: signal.Signals, out: Path) -> None:
    command = [sys.executable, "-m", "profiling", "run", "import", "--repeats", "1000", "--out", str(out)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A shell has SIGINT ignored in all that it starts in the background.
    with subprocess.Popen(command, **pipes, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as process:
        ends = time.monotonic() + DEADLINE_S
        while process.poll() is None and time.monotonic() < ends:
            if out.exists() and out.read_bytes().count(b"\n") >= 2:
                break
            time.sleep(0.02)
        process.send_signal(sent)
        _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == INTERRUPTED, said
    assert "interrupted; " in said
    assert "Traceback" not in said
    records = read_records(out, pytest.fail)
    assert [record.warm_up for record in records] == [True, *[False] * (len(records) - 1)]
    assert [entry.name for entry in out.parent.iterdir()] == [out.name]


# Processes that fail --------------------------------------------------------------------------------------------------


def scenario(program: str) -> Scenario:
    return Scenario(
        "nothing", (), ("peak_bytes",), ("-c", program), lambda found: Reading({"peak_bytes": found["peak"]}, {})
    )


@pytest.fixture
def _failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenarios that end in all ways."""
    programs = {
        "fine": "import json; print('chatter'); print(json.dumps(dict(peak=5)))",
        "wrong": "import sys; print(*range(1, 9), sep='\\n', file=sys.stderr); sys.exit(3)",
        "killed": "import os; os.kill(os.getpid(), 9)",
        "silent": "pass",
        "other": "print(7)",
    }
    for name, program in programs.items():
        monkeypatch.setitem(SCENARIOS, name, scenario(program))


@pytest.mark.usefixtures("_failing")
def test_failures_are_recorded_and_the_others_go_on(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["wrong", "killed", "fine", "silent", "other"]
    assert main([*names, "--repeats", "1", "--warm-up", "0", "--out", str(out)]) == FAILED
    records = measured(out)
    assert records["fine"].metrics == {"peak_bytes": 5}
    failures = {name: record.failure for name, record in records.items() if record.failure is not None}
    assert {name: failure.exit_code for name, failure in failures.items()} == {
        "wrong": 3, "killed": -signal.SIGKILL, "silent": 0, "other": 0,
    }  # fmt: skip
    assert failures["wrong"].said == ("4", "5", "6", "7", "8")
    assert all(records[name].metrics == {} for name in failures)
    shown = capsys.readouterr()
    assert "wrong: 1 failed, the last with exit code 3: 8" in shown.out
    assert "repeat 1 of 1: killed failed with exit code -9" in shown.err


@pytest.mark.usefixtures("_failing")
def test_runs_are_appended(out: Path) -> None:
    command = ["fine", "--repeats", "2", "--out", str(out)]
    assert [main(command), main(command)] == [0, 0]
    records = read_records(out, pytest.fail)
    assert [(record.warm_up, record.repeat) for record in records] == [(True, 1), (False, 1), (False, 2)] * 2
    assert len({record.run for record in records}) == 2


# The command line -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "name a scenario"),
        ("adapt-everything", "no scenario is called 'adapt-everything'"),
        ("adapt-head", "adapt-head needs --bundle and --data"),
        ("adapt-head --bundle b", "adapt-head needs --data"),
        ("infer", "infer needs --model"),
        ("import --repeats 0", "--repeats must be at least 1"),
        ("import --warm-up -1", "--warm-up must be at least 0"),
        ("import --threads 0", "--threads must be at least 1"),
        ("import -- --epochs 2", "which none of these runs"),
        ("import --python import", "SCENARIO=PYTHON"),
        ("import --python infer=python3", "infer is not measured"),
        ("import --python import=no-such-python", "no such program"),
        ("adapt-head --bundle b --data d -- --criterion all", "--criterion may not stand behind --"),
        ("adapt-head --bundle b --data d -- --layers stem", "not allowed with"),
        ("adapt --bundle b --data d -- --out run", "--out may not stand behind --"),
        ("adapt --bundle b --data d -- --threads 1", "--threads may not stand behind --"),
        ("adapt --bundle b --data d -- --dry-run", "--dry-run may not stand behind --"),
        ("adapt --bundle b --data d -- --rho 0.2 --epocs 1", "unrecognized arguments: --epocs"),
    ],
)
def test_what_makes_no_sense(words: str, said: str, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["--out", str(out), *words.split()])
    except SystemExit as left:
        code = left.code
    assert code == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_keras_has_one_network_only(bundle: Path, out: Path) -> None:
    assert main(["step-keras", "--bundle", str(bundle), "--out", str(out)]) == 2


def test_inputs_are_checked_before_anything_runs(
    bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = tmp_path / "notes"
    notes.write_text("notes\n")
    for words in (
        ["adapt-head", "--bundle", tmp_path, "--data", data],
        ["adapt-head", "--bundle", bundle, "--data", tmp_path / "none"],
        ["infer", "--model", tmp_path / "none.tflite"],
        ["import", "--out", notes],
    ):
        assert main([*map(str, words), *(() if "--out" in words else ("--out", str(tmp_path / "r.jsonl")))]) == 3
    assert "repeat" not in capsys.readouterr().err
    assert notes.read_text() == "notes\n"


def test_a_place_without_the_right_to_write(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "--out", "/proc/records/records.jsonl"]) == 7
    assert "choose another --out" in capsys.readouterr().err


def test_the_list_has_every_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line}
    assert set(SCENARIOS) <= listed


# Where it was measured ------------------------------------------------------------------------------------------------


def test_the_environment() -> None:
    here = environment()
    assert here.cores == len(os.sched_getaffinity(0))
    assert here.memory_bytes > 64 << 20
    assert here.cpu
    assert versions()["numpy"] == version("numpy")
    assert versions_of(sys.executable) == versions()


def test_a_python_that_tells_no_versions(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    with pytest.raises(CapabilityError, match="does not tell"):
        versions_of(str(program))


def test_commits(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert commit(tmp_path) is None
    try:
        git("init")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "first")
    head = git("rev-parse", "HEAD")
    assert commit(tmp_path) == Commit(head, False)
    (tmp_path / "records.jsonl").write_text("")
    assert commit(tmp_path) == Commit(head, False)
    (tmp_path / "file").write_text("two")
    assert commit(tmp_path) == Commit(head, True)
    (tmp_path / "inner").mkdir()
    assert commit(tmp_path / "inner") is None
