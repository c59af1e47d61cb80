"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import pytest

from tests.oracles.other_runtime import RUNTIMES, Runner, runner_of


@pytest.fixture(scope="module", params=RUNTIMES)
def run(request: pytest.FixtureRequest) -> Runner:
    """Runs jobs on ai-edge-litert in this process; the same test again on tflite-runtime 2.14 in another.

    A wider scope would make pytest go through all modules once a runtime, and compute every oracle twice.
    """
    return runner_of(request.param)
