"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import pytest

from tests.oracles.other_runtime import RUNTIMES, Runner, runner_of


@pytest.fixture(scope="session", params=RUNTIMES)
def run(request: pytest.FixtureRequest) -> Runner:
    """Runs jobs on ai-edge-litert in this process; the same test again on tflite-runtime 2.14 in another."""
    return runner_of(request.param)
