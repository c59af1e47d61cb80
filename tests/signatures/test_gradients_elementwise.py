"""Elementwise ops where several gradients of one tensor add up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from signatures.builder import RELU, GraphBuilder
from signatures.graph import Options
from tests.oracles.gradient_check import Case, check_differences, check_gradients
from tests.oracles.other_runtime import Results

KINDS = {"ADD": "AddOptions", "MUL": "MulOptions"}


def twice() -> Iterator[Case]:
    """The same tensor on both sides, and a tensor that several ops read: gradients add up."""
    for kind in KINDS:
        b = GraphBuilder(f"{kind.lower()}-twice")
        x = b.input("x", (3, 4))
        yield Case(b.name, b.graph([b.emit(kind, (x, x), Options(KINDS[kind]))]), (x,))
    b = GraphBuilder("fork")
    x, y = b.input("x", (3, 4)), b.input("y", (4,))
    s = b.add(x, y, RELU)
    yield Case(b.name, b.graph([b.mul(b.sub(s, x), b.add(s, y))]), (x, y))


CASES = tuple(twice())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradients(case: Case, results: dict[Case, Results]) -> None:
    check_gradients(case, results[case])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_oracle(case: Case) -> None:
    check_differences(case)
