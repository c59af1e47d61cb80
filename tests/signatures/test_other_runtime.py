"""The second runtime must not go missing unnoticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from signatures.build import inference_model
from tests.oracles.other_runtime import TFLITE214, Call, Job, runner_of, tflite214_python
from tests.signatures.example_model import network


def test_missing_environment_skips_at_home_and_fails_in_ci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADABET_TFLITE214_PYTHON", str(tmp_path / "python"))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="ADABET_TFLITE214_PYTHON"):
        tflite214_python()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="ADABET_TFLITE214_PYTHON"):
        tflite214_python()


def test_a_failing_call_is_reported() -> None:
    """The other process's exit code and last words reach the test."""
    wrong = Call("infer", {"image": np.zeros((1, 8, 8, 3), np.float32)})
    with pytest.raises(AssertionError, match="ended with 1: misnamed: "):
        runner_of(TFLITE214)([Job("misnamed", inference_model(network()), (wrong,))])
