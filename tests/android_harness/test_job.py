"""A run on the device, by the script that keeps it: followed, left alone, stopped, killed, under every sh here."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from android_harness import job as job_module
from android_harness.errors import (
    ConnectionLostError,
    DeviceFullError,
    KilledError,
    MissingPackageError,
    TimedOutError,
    WrongAbiError,
)
from android_harness.job import Job, RunFailedError
from android_harness.link import Link
from android_harness.places import AdbPlace
from tests.android_harness.device import until

SCRIPTS = Path(job_module.__file__).parent
EVENTS = """
mkdir -p "$1/run"
for i in 1 2 3; do
  printf '{"event": "epoch", ' >> "$1/run/events.jsonl"
  sleep 0.4
  echo "\\"number\\": $i}" >> "$1/run/events.jsonl"
done
exit $2
"""
SHELLS = [name for name in ("dash", "bash", "mksh", "busybox") if shutil.which(name)]


@pytest.fixture
def job(link: Link, tmp_path: Path) -> Iterator[Job]:
    place = AdbPlace(link)
    job = Job(place, place, str(SCRIPTS), str(tmp_path / "a job's folder"))
    yield job
    job.stop()


def words(script: str, *arguments: object) -> list[str]:
    return ["sh", "-c", script, "a run", *map(str, arguments)]


def pid(job: Job) -> int:
    return int((Path(job.folder) / "state" / "pid").read_text().split()[0])


def test_events_come_once_and_whole(job: Job) -> None:
    job.start(words(EVENTS, job.folder, 0), 60)
    job.start(words("exit 9"), 60)  # the answer to the first was lost, say
    seen = []
    ended = job.follow(lambda event, sample: seen.append((event["number"], sample is not None)))
    assert [number for number, _ in seen] == [1, 2, 3]
    assert (ended.code, ended.stopped) == (0, None)
    assert job.failure(ended) is None
    assert not job.is_running()
    assert ended.samples
    assert all(sample.status.resident_bytes and sample.rollup.resident_bytes for sample in ended.samples)
    job.remove()
    assert not Path(job.folder).exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell(shell: str, tmp_path: Path) -> None:
    """The script as it is, without a connection."""

    def script(*arguments: object) -> subprocess.CompletedProcess[str]:
        sh = [shell, "sh"] if shell == "busybox" else [shell]
        return subprocess.run(
            [*sh, str(SCRIPTS / "job.sh"), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    folder = tmp_path / "job"
    become = (*([shell, "sh"] if shell == "busybox" else [shell]), SCRIPTS / "job.sh", "become", folder)
    assert script("start", folder, 60, 60, *become, *words(EVENTS, folder, 5)).returncode == 0
    assert script("running", folder).returncode == 0
    told = script("tick", folder, 1, 0).stdout
    assert "running: yes\n" in told
    assert "VmHWM:" in told
    until(lambda: script("running", folder).returncode != 0)
    told = script("tick", folder, 2, 0).stdout
    assert "running: no\nexit: 5\n" in told
    assert told.count('"number"') == 3
    assert script("start", folder, 60, 60, *become, "sleep", 60).returncode == 0
    assert script("running", folder).returncode != 0
    shutil.rmtree(folder)
    assert script("start", folder, 60, 60, *become, "sleep", 60).returncode == 0
    assert script("stop", folder).returncode == 0
    assert script("running", folder).returncode != 0
    assert "stopped: asked" in script("tick", folder, 3, 0).stdout


def test_its_own_errors_are_handed_on(job: Job) -> None:
    job.start(words("echo 'error: 1 MiB are too little' >&2; exit 4"), 60)
    failure = job.failure(job.follow(lambda *_: None))
    assert isinstance(failure, RunFailedError)
    assert failure.exit_code == 4
    assert str(failure).endswith("1 MiB are too little")


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ("echo 'error: cannot write: No space left on device' >&2; exit 7", DeviceFullError),
        ("kill -ILL $$", WrongAbiError),
        ("exec /nowhere/python", MissingPackageError),
        ("kill -KILL $$", KilledError),
    ],
)
def test_what_ended_it(job: Job, script: str, kind: type[Exception]) -> None:
    job.start(words(script), 60)
    assert isinstance(job.failure(job.follow(lambda *_: None)), kind)


def test_killed_together_with_its_keeper(job: Job) -> None:
    """As Android's phantom process killer does."""
    job.start(["sleep", "60"], 60)
    keeper = int((Path(job.folder) / "state" / "keeper").read_text().split()[0])
    until(lambda: (Path(job.folder) / "state" / "pid").exists())
    os.kill(keeper, signal.SIGKILL)
    os.kill(pid(job), signal.SIGKILL)
    ended = job.follow(lambda *_: None)
    assert ended.code is None
    assert isinstance(job.failure(ended), KilledError)


def test_its_keeper_alone_is_killed(job: Job) -> None:
    job.start(["sleep", "60"], 60)
    until(lambda: (Path(job.folder) / "state" / "pid").exists())
    os.kill(int((Path(job.folder) / "state" / "keeper").read_text().split()[0]), signal.SIGKILL)
    assert job.is_running()
    job.stop()
    assert not job.is_running()


def test_it_takes_too_long(job: Job) -> None:
    job.start(["sleep", "60"], 2)
    failure = job.failure(job.follow(lambda *_: None))
    assert isinstance(failure, TimedOutError)


def test_nobody_asks_after_it(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "LEASE_S", 2)
    job.start(["sleep", "60"], 60)
    time.sleep(1)
    process = pid(job)
    until(lambda: not Path(f"/proc/{process}").exists())
    failure = job.failure(job.follow(lambda *_: None))
    assert isinstance(failure, ConnectionLostError)
    assert "ended itself" in str(failure)


def test_it_does_not_listen_to_term(job: Job) -> None:
    job.start(words("trap '' TERM; sleep 60 & wait; sleep 60"), 60)
    time.sleep(0.5)
    job.stop()
    assert not Path(f"/proc/{pid(job)}").exists()


def test_a_number_that_went_to_another_process_is_not_ours(job: Job) -> None:
    job.start(["true"], 60)
    job.follow(lambda *_: None)
    state = Path(job.folder) / "state" / "pid"
    state.write_text(f"{os.getpid()} {state.read_text().split()[1]}\n")
    job.stop()  # would end this test
    assert not job.is_running()
