"""Fixtures that more than one folder of tests uses, and Hypothesis' profiles."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.oracles.other_runtime import RUNTIMES, Runner, Runtimes

# `make test` meets the same examples every time; --hypothesis-profile=thorough looks for new ones, and for more.
settings.register_profile("default", derandomize=True, database=None, deadline=None)
settings.register_profile("thorough", max_examples=1000, deadline=None)


@pytest.fixture(scope="session")
def runtimes() -> Iterator[Runtimes]:
    """Both runtimes, each in a process of its own that lives until the last test."""
    with Runtimes() as every:
        yield every


@pytest.fixture(scope="module", params=RUNTIMES)
def run(request: pytest.FixtureRequest, runtimes: Runtimes) -> Runner:
    """Runs jobs on ai-edge-litert; the same test again on tflite-runtime 2.14.

    A wider scope would make pytest go through all modules once a runtime, and compute every oracle twice.
    """
    return runtimes.runner_of(request.param)
