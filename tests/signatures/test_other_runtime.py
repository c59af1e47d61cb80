"""The second runtime must not go missing unnoticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from signatures.build import inference_model
from tests.oracles.other_runtime import TFLITE214, Call, Job, Runtimes, tflite214_python
from tests.signatures.example_model import network


def test_missing_environment_skips_at_home_and_fails_in_ci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADABET_TFLITE214_PYTHON", str(tmp_path / "python"))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="ADABET_TFLITE214_PYTHON"):
        tflite214_python()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="ADABET_TFLITE214_PYTHON"):
        tflite214_python()


def test_a_failing_call_is_reported(runtimes: Runtimes) -> None:
    """The other process's words reach the test, and it goes on with the next job."""
    wrong = Call("infer", {"image": np.zeros((1, 8, 8, 3), np.float32)})
    right = Call("infer", {"x": np.zeros((1, 8, 8, 3), np.float32)})
    run = runtimes.runner_of(TFLITE214)
    with pytest.raises(AssertionError, match=f"{TFLITE214} refuses misnamed: Invalid Input name"):
        run([Job("misnamed", inference_model(network()), (wrong,))])
    ((got,),) = run([Job("named", inference_model(network()), (right,))])
    assert got["logits"].shape == (1, 3)


def test_a_crash_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies says how, and a new one takes the next job."""
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho out of luck >&2; exit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("ADABET_TFLITE214_PYTHON", str(broken))
    with Runtimes() as runtimes:
        run = runtimes.runner_of(TFLITE214)
        for _ in range(2):
            with pytest.raises(AssertionError, match="ended with 3 at doomed: out of luck"):
                run([Job("doomed", inference_model(network()), ())])
