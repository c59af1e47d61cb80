"""Fixtures of the compiler's tests. They import TensorFlow, which the other folders should not have to."""

from __future__ import annotations

import pytest

from signatures.graph import Graph
from tests.oracles import keras_mobilenet
from tests.oracles.gradient_check import Case, run_cases
from tests.oracles.keras_mobilenet import KerasNetwork
from tests.oracles.other_runtime import Results, Runner
from tests.oracles.variants import rebuilt


@pytest.fixture(scope="module")
def results(run: Runner, request: pytest.FixtureRequest) -> dict[Case, Results]:
    """What every one of the module's CASES returns on a runtime."""
    return run_cases(run, request.module.CASES)


@pytest.fixture(scope="session")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> KerasNetwork:
    """MobileNetV2 for images of 96 pixels, converted by TensorFlow."""
    return keras_mobilenet.build(tmp_path_factory.mktemp("keras"), 96)


@pytest.fixture(scope="session")
def small(mobilenet: KerasNetwork) -> Graph:
    """The same weights for images of 48 pixels, whose last feature maps are 3 and 2 pixels wide."""
    return rebuilt(mobilenet.graph, 48)
