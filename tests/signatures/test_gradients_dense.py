"""Products of a tensor with itself, and one that a runtime gets wrong."""

from __future__ import annotations

import pytest

from signatures.builder import GraphBuilder
from tests.oracles.gradient_check import Case, check_differences, check_gradients, relative_error, run_cases
from tests.oracles.other_runtime import LITERT, TFLITE214, Results, Runtimes


def gram() -> Case:
    """The same tensor as input and as weights: its gradient has two parts."""
    b = GraphBuilder("dense-gram")
    x = b.input("x", (4, 7))
    return Case(b.name, b.graph([b.fully_connected(x, x)]), (x,))


def broken_product_of_tflite_214() -> Case:
    """Why the gradient of a broadcast product transposes by hand."""
    b = GraphBuilder("matmul-broken-214")
    x, y = b.input("x", (3, 5, 4)), b.input("y", (1, 5, 6))
    return Case(b.name, b.graph([b.matmul(x, y, adj_x=True)]), ())


CASES = (gram(),)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradients(case: Case, results: dict[Case, Results]) -> None:
    check_gradients(case, results[case])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_oracle(case: Case) -> None:
    check_differences(case)


def test_tflite_214_is_wrong_on_a_broadcast_transposed_product(runtimes: Runtimes) -> None:
    """When this fails, that runtime was replaced: `dense._matmul` can go."""
    case = broken_product_of_tflite_214()
    expected, _ = case.expected
    results = [run_cases(runtimes.runner_of(r), [case])[case][0] for r in (LITERT, TFLITE214)]
    errors = [relative_error(result["out_0"], expected) for result in results]
    assert errors[0] < 1e-6
    assert not errors[1] < 0.1  # or NaN
