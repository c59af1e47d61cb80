"""Fixtures of the compiler's tests. They import TensorFlow, which the other folders should not have to."""

from __future__ import annotations

import pytest

from tests.oracles.gradient_check import Case, run_cases
from tests.oracles.other_runtime import Results, Runner


@pytest.fixture(scope="module")
def results(run: Runner, request: pytest.FixtureRequest) -> dict[Case, Results]:
    """What every one of the module's CASES returns on a runtime."""
    return run_cases(run, request.module.CASES)
