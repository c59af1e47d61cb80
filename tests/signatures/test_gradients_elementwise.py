"""ADD, SUB, MUL with every kind of broadcast and fused activation; RELU, RELU6, RELU_N1_TO_1."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from signatures.builder import NO_ACTIVATION, RELU, RELU6, RELU_N1_TO_1, GraphBuilder
from signatures.graph import Options
from tests.oracles.gradient_check import Case, check_differences, check_gradients
from tests.oracles.other_runtime import Results

KINDS = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions"}
SHAPES: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((2, 3, 4, 5), (2, 3, 4, 5)),
    ((2, 3, 4, 5), (5,)),
    ((2, 3, 4, 5), (1, 1, 1, 5)),
    ((2, 3, 4, 5), (2, 1, 1, 5)),
    ((2, 3, 4, 5), (2, 3, 4, 1)),
    ((2, 3, 4, 5), (4, 1)),
    ((2, 3, 4, 5), ()),
    ((2, 3, 4, 5), (1,)),
    ((1, 1, 1, 1), (2, 3)),
    ((2, 1, 4), (3, 1)),
    ((7,), (1,)),
    ((1,), (1, 1)),
    ((), ()),
)
"""Pairs of operands; each is tried in both orders."""


def elementwise() -> Iterator[Case]:
    activations = itertools.cycle((NO_ACTIVATION, RELU, RELU6, RELU_N1_TO_1, NO_ACTIVATION))
    for kind, shapes in itertools.product(KINDS, SHAPES):
        for left, right in dict.fromkeys((shapes, shapes[::-1])):
            size = int(np.prod(np.broadcast_shapes(left, right)))
            activation = next(activations) if size > 5 else NO_ACTIVATION
            name = f"{kind.lower()}-{left}-{right}-{activation}".replace(" ", "")
            b = GraphBuilder(name)
            x, y = b.input("x", left), b.input("y", right)
            z = b.emit(kind, (x, y), Options(KINDS[kind], {"FusedActivationFunction": activation}))
            yield Case(name, b.graph([z]), (x, y))


def with_constants() -> Iterator[Case]:
    """A constant on either side: only the other side has a gradient."""
    for kind, left in itertools.product(KINDS, (True, False)):
        b = GraphBuilder(f"{kind.lower()}-constant-{'left' if left else 'right'}")
        x = b.input("x", (2, 1, 4))
        c = b.const(np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32))
        z = b.emit(kind, (c, x) if left else (x, c), Options(KINDS[kind]))
        yield Case(b.name, b.graph([z]), (x,))


def twice() -> Iterator[Case]:
    """The same tensor on both sides, and a tensor that several ops read: gradients add up."""
    for kind in ("ADD", "MUL"):
        b = GraphBuilder(f"{kind.lower()}-twice")
        x = b.input("x", (3, 4))
        yield Case(b.name, b.graph([b.emit(kind, (x, x), Options(KINDS[kind]))]), (x,))
    b = GraphBuilder("fork")
    x, y = b.input("x", (3, 4)), b.input("y", (4,))
    s = b.add(x, y, RELU)
    yield Case(b.name, b.graph([b.mul(b.sub(s, x), b.add(s, y))]), (x, y))


def activations() -> Iterator[Case]:
    for kind in ("RELU", "RELU6", "RELU_N1_TO_1"):
        b = GraphBuilder(kind.lower())
        x = b.input("x", (3, 20))
        yield Case(b.name, b.graph([b.unary(kind, x)]), (x,))


CASES = (*elementwise(), *with_constants(), *twice(), *activations())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradients(case: Case, results: dict[Case, Results]) -> None:
    check_gradients(case, results[case])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_oracle(case: Case) -> None:
    check_differences(case)
