"""Runs that are killed, or that meet a failing disk, and what has to be there afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.end_to_end import tiny
from tests.end_to_end.commands import ROOT

RESULTS = {"adapted.tflite", "weights.npz", "report.json"}
EPOCHS = 3
STEPS = 18
"""Of a whole training: 48 images in batches of 8, 3 epochs."""
TIMEOUT_S = 60
KINDS: Mapping[str, tuple[str, ...]] = {
    "from the input on": ("--rho", "0.3"),
    "behind a prefix": ("--layers", "last", "--mirror"),
    "channels, adam": ("--rho", "0.3", "--rho-channels", "0.5", "--optimizer", "adam"),
}
_COUNTING = """
import os, sys
from ondevice import optimizer
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
step = optimizer.Trainee.step
def counted(self, rate):
    step(self, rate)
    os.write(log, b".")
optimizer.Trainee.step = counted
from ondevice.adapt import main
sys.exit(main(sys.argv[2:]))
"""
"""`python -m ondevice.adapt`, which notes every step that it has made."""


@dataclass(frozen=True)
class Fault:
    """What the preloaded library does at the file operation `at`, counted from 1."""

    at: int
    error: int = 0
    """errno; 0: the process is killed."""
    sticky: bool = False
    """Whether everything that needs room fails from there on."""


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    stderr: str


@dataclass
class Lab:
    """A bundle, pictures, and run after run in folders of their own below `folder`."""

    folder: Path
    kind: str
    number: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder = self.folder.resolve()
        self.pictures = tiny.write_pictures(self.folder / "pictures")
        self.bundle = tiny.write_bundle(self.folder / "bundle", own_head=True, probe=self.pictures)
        self.preloaded = build_faults(self.folder)
        reference = self.fresh()
        assert reference.start().code == 0
        self.expected = reference.results()
        self.expected_report = comparable(json.loads((reference.run / "report.json").read_bytes()))

    def fresh(self) -> Trial:
        """A run folder and a cache that nobody used."""
        self.number += 1
        folder = self.folder / f"trial{self.number}"
        folder.mkdir()
        return Trial(self, folder)


@dataclass
class Trial:
    """One adaptation, in as many processes as it takes."""

    lab: Lab
    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def _log(self) -> Path:
        return self.lab.folder / f"{self.folder.name}.steps"  # not below the folder that fails

    @property
    def arguments(self) -> list[str]:
        given = [str(self.lab.bundle), "--data", str(self.lab.pictures), "--out", str(self.run)]
        return [*given, "--batch", "8", "--epochs", str(EPOCHS), "--threads", "1", *KINDS[self.lab.kind]]

    def start(self, fault: Fault | None = None, trace: Path | None = None, more: Sequence[str] = ()) -> Ended:
        """Adapt from the start."""
        with self.process([*self.arguments, *more], fault, trace) as process:
            return ended(process)

    def resume(self, fault: Fault | None = None) -> Ended:
        """Go on."""
        with self.process(["--resume", str(self.run)], fault) as process:
            return ended(process)

    @contextmanager
    def process(
        self, arguments: Sequence[str], fault: Fault | None = None, trace: Path | None = None
    ) -> Iterator[subprocess.Popen[str]]:
        """The command with any arguments, running."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(self.folder / "cache")}
        if fault is not None or trace is not None:
            environment |= {"LD_PRELOAD": str(self.lab.preloaded), "FAULT_UNDER": f"{self.folder}/"}
        if trace is not None:
            environment["FAULT_TRACE"] = str(trace)
        if fault is not None:
            environment |= {"FAULT_AT": str(fault.at), "FAULT_ERRNO": str(fault.error)}
            environment |= {"FAULT_STICKY": "1"} if fault.sticky else {}
        process = subprocess.Popen(
            [sys.executable, "-c", _COUNTING, str(self._log), *arguments],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def results(self) -> dict[str, bytes]:
        """The network and the weights that the run left."""
        return {name: (self.run / name).read_bytes() for name in ("adapted.tflite", "weights.npz")}

    def steps_made(self) -> int:
        """By all its processes together."""
        return self._log.stat().st_size if self._log.exists() else 0

    def finish(self) -> int:
        """Go on to the end, check that it is that of an undisturbed run, and remove it; returns the steps made twice.

        A run that ended before it wrote down what it was asked for is begun once more.
        """
        done = self.resume()
        if done.code == 2:
            assert "holds no run to go on with" in done.stderr, done.stderr
            assert not self.steps_made()
            done = self.start()
        assert done.code == 0, done.stderr
        assert self.results() == self.lab.expected
        report = json.loads((self.run / "report.json").read_bytes())
        assert comparable(report) == self.lab.expected_report
        assert {path.name for path in self.run.iterdir()} == RESULTS | {"events.jsonl"}
        assert not list(self.folder.rglob("*.partial"))
        twice = self.steps_made() - STEPS
        shutil.rmtree(self.folder)
        return twice


def ended(process: subprocess.Popen[str]) -> Ended:
    """Wait for it."""
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    return Ended(process.returncode, stderr)


def kill_after(process: subprocess.Popen[str], seconds: float) -> Ended:
    """SIGKILL, unless it has ended by then."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    return ended(process)


def wait_for(folder: Path, pattern: str, text: str) -> None:
    """Until a file in `folder` holds some text."""
    deadline = time.monotonic() + TIMEOUT_S
    while not any(text in path.read_text() for path in folder.glob(pattern)):
        assert time.monotonic() < deadline, f"{text} never came"
        time.sleep(0.001)


def build_faults(folder: Path) -> Path:
    """Compile the library that lets file operations fail."""
    library = folder / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return library


VOLATILE = {"seconds", "compile_seconds", "train_source", "phases", "peak_bytes", "adapted", "note"}
"""What a report says of time, memory and places."""


def comparable(report: Any) -> Any:
    """A report without what two runs of the same seed may differ in."""
    if isinstance(report, dict):
        return {
            key: comparable(value)
            for key, value in report.items()
            if key not in VOLATILE and not (key.endswith("_bytes") and key != "kept_bytes")
        }
    if isinstance(report, list):
        return [comparable(entry) for entry in report]
    return report
