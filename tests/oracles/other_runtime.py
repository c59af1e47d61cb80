"""Run models on both runtimes: ai-edge-litert in this process, tflite-runtime 2.14 in an environment of its own.

The second is the last runtime with wheels for armv7. It needs numpy < 2 and Python < 3.12, so it lives in another
virtual environment: ADABET_TFLITE214_PYTHON names its interpreter, else `.venv-tflite214` of this repository is it.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from signatures.graph import Array, Model
from signatures.tflite_io import write_model
from tests.oracles import run_signatures

LITERT, TFLITE214 = "ai-edge-litert", "tflite-runtime-2.14"
RUNTIMES = (LITERT, TFLITE214)

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


def runner_of(runtime: str) -> Runner:
    """The function that runs jobs on `runtime`. Skips the test where tflite-runtime is missing, fails it in CI."""
    if runtime == LITERT:
        return on_litert
    python = tflite214_python()
    return lambda jobs: on_tflite214(jobs, python)


def on_litert(jobs: Sequence[Job]) -> list[Results]:
    from ai_edge_litert.interpreter import Interpreter

    results = []
    with tempfile.TemporaryDirectory() as folder:
        for job in jobs:
            path = Path(folder, "model.tflite")
            write_model(job.model, path)
            interpreter = Interpreter(model_path=str(path), num_threads=2)
            try:
                results.append(run_signatures.run_calls(interpreter, _calls(job)))
            except (ValueError, RuntimeError) as error:
                raise AssertionError(f"{LITERT} refuses {job.name}: {error}") from error
    return results


def on_tflite214(jobs: Sequence[Job], python: Path) -> list[Results]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = []
        for i, job in enumerate(jobs):
            path = folder / f"{i}.tflite"
            write_model(job.model, path)
            calls = [{"signature": call.signature, "inputs": list(call.inputs)} for call in job.calls]
            plan.append({"name": job.name, "model": path.name, "calls": calls})
            arrays = {
                f"{c}_{k}": value for c, call in enumerate(job.calls) for k, value in enumerate(call.inputs.values())
            }
            np.savez(f"{path}.inputs.npz", **arrays)
        (folder / "plan.json").write_text(json.dumps(plan))
        command = [str(python), run_signatures.__file__, name]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, f"{TFLITE214} ended with {done.returncode}: {done.stderr[-2000:]}"
        return [_outputs(folder / f"{i}.tflite") for i in range(len(jobs))]


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


def _calls(job: Job) -> list[tuple[str, dict[str, Array]]]:
    return [(call.signature, dict(call.inputs)) for call in job.calls]


def _outputs(path: Path) -> Results:
    names = json.loads(Path(f"{path}.outputs.json").read_text())
    with np.load(f"{path}.outputs.npz") as arrays:
        return [{name: arrays[f"{c}_{i}"] for i, name in enumerate(row)} for c, row in enumerate(names)]
