"""Run models on both runtimes, ai-edge-litert and tflite-runtime 2.14, each in a process that serves many jobs.

The second is the last runtime with wheels for armv7. It needs numpy < 2 and Python < 3.12, so it lives in another
virtual environment: ADABET_TFLITE214_PYTHON names its interpreter, else `.venv-tflite214` of this repository is it.
A kernel that crashes takes its process with it, not the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pytest

from signatures.graph import Array, Model
from signatures.tflite_io import model_bytes
from tests.oracles import run_signatures

LITERT, TFLITE214 = "ai-edge-litert", "tflite-runtime-2.14"
RUNTIMES = (LITERT, TFLITE214)
TIMEOUT_S = 600

Results = list[dict[str, Array]]
"""What the calls of one job returned, in order."""


@dataclass(frozen=True)
class Call:
    """One invocation of a signature."""

    signature: str
    inputs: Mapping[str, Array]


@dataclass(frozen=True)
class Job:
    """A model and the calls to make on one interpreter of it."""

    name: str
    model: Model
    calls: tuple[Call, ...]


Runner = Callable[[Sequence[Job]], list[Results]]


class Runtimes:
    """The processes that run jobs, one a runtime, started when first used. A context manager that ends them."""

    def __init__(self) -> None:
        self._workers: dict[str, _Worker] = {}

    def __enter__(self) -> Runtimes:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for worker in self._workers.values():
            worker.close()

    def runner_of(self, runtime: str) -> Runner:
        """The function that runs jobs on `runtime`. Skips the test where tflite-runtime is missing, fails it in CI."""
        if runtime not in self._workers:
            python = Path(sys.executable) if runtime == LITERT else tflite214_python()
            self._workers[runtime] = _Worker(runtime, python)
        worker = self._workers[runtime]
        return lambda jobs: [worker.run(job) for job in jobs]


class _Worker:
    """One process of run_signatures.py; started anew where a job has ended it."""

    def __init__(self, runtime: str, python: Path) -> None:
        self.runtime = runtime
        self.command = [str(python), run_signatures.__file__]
        self.folder = tempfile.TemporaryDirectory()
        self.errors = Path(self.folder.name, "stderr")
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, job: Job) -> Results:
        path = Path(self.folder.name, "model.tflite")
        path.unlink(missing_ok=True)  # the interpreter of the job before may still map it
        path.write_bytes(model_bytes(job.model))
        calls = [{"signature": call.signature, "inputs": list(call.inputs)} for call in job.calls]
        inputs = {f"{c}_{k}": v for c, call in enumerate(job.calls) for k, v in enumerate(call.inputs.values())}
        got = self.ask({"plan": json.dumps({"model": str(path), "calls": calls}), **inputs}, job.name)
        assert "error" not in got, f"{self.runtime} refuses {job.name}: {got['error']}"
        names = json.loads(str(got["names"]))
        return [{name: got[f"{c}_{k}"] for k, name in enumerate(row)} for c, row in enumerate(names)]

    def ask(self, message: Mapping[str, object], name: str) -> dict[str, Array]:
        if self.process is None:
            with self.errors.open("wb") as errors:
                self.process = subprocess.Popen(
                    self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
                )
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        watchdog = threading.Timer(TIMEOUT_S, process.kill)
        watchdog.start()
        try:
            run_signatures.send(process.stdin, message)
            got = run_signatures.receive(process.stdout)
        except BrokenPipeError:
            got = None
        finally:
            watchdog.cancel()
        if got is None:
            self.process = None
            code = process.wait()
            last = self.errors.read_text(errors="replace")[-2000:]
            raise AssertionError(f"{self.runtime} ended with {code} at {name}: {last}")
        return got

    def close(self) -> None:
        if self.process is not None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait(TIMEOUT_S)
        self.folder.cleanup()


def tflite214_python() -> Path:
    """The Python with tflite-runtime 2.14. Skips the test where there is none, fails it in CI."""
    named = os.environ.get("ADABET_TFLITE214_PYTHON")
    python = Path(named) if named else Path(__file__).parents[2] / ".venv-tflite214" / "bin" / "python"
    if not python.exists():
        missing = f"no tflite-runtime 2.14: {python} does not exist (ADABET_TFLITE214_PYTHON names its Python)"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return python
