"""Whatever the shapes and options, the gradient on either runtime is GradientTape's, and that is the slope."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from signatures.gradients import RULES
from tests.oracles.gradient_check import check_differences, check_gradients
from tests.oracles.memory_planner import overwritten
from tests.oracles.other_runtime import Runner
from tests.properties.strategies import STRATEGIES

REWRITTEN = ("SPLIT", "SPLIT_V", "UNPACK")
"""Ops with several results: a pass replaces them before differentiation."""
TESTED = [kind for kind in STRATEGIES if kind in {*RULES, *REWRITTEN}]
a_few = settings(max_examples=settings().max_examples // 5)
"""A model is built, and run or differentiated twice, for each example: 20 by default, 200 in the profile `thorough`."""


@pytest.mark.parametrize("kind", [*RULES, *REWRITTEN])
def test_rule_has_a_strategy(kind: str) -> None:
    assert kind in STRATEGIES


@pytest.mark.parametrize("kind", TESTED)
@a_few
@given(data=st.data())
def test_gradients(kind: str, run: Runner, data: st.DataObject) -> None:
    case = data.draw(STRATEGIES[kind], label="case")
    job = case.job
    assert not overwritten(job.model.graphs[0]), "the runtime's own kernels may write over what is read again"
    (results,) = run([job])
    check_gradients(case, results)


@pytest.mark.parametrize("kind", TESTED)
@a_few
@given(data=st.data())
def test_oracle(kind: str, data: st.DataObject) -> None:
    case = data.draw(STRATEGIES[kind], label="case")
    assume(any(np.any(gradient) for gradient in case.expected[1]))
    check_differences(case)
