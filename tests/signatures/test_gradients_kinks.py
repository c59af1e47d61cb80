"""On a kink there is no slope: our gradient is the one that TensorFlow takes.

It matters: behind a ReLU whole windows of a pool are equal.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from signatures.builder import NO_ACTIVATION, RELU, RELU6, GraphBuilder
from signatures.graph import Options, Tensor
from signatures.shapes import SAME, VALID
from tests.oracles.gradient_check import Case, check_gradients, whole
from tests.oracles.other_runtime import Results


def case(b: GraphBuilder, y: Tensor) -> Case:
    return Case(b.name, b.graph([y]), tuple(b.inputs), dict.fromkeys(b.inputs, whole), on_kinks=True)


def rectifiers() -> Iterator[Case]:
    for kind in ("RELU", "RELU6", "ABS", "ELU", "HARD_SWISH"):
        b = GraphBuilder(kind.lower())
        yield case(b, b.unary(kind, b.input("x", (4, 6))))
    for activation in (RELU, RELU6):
        b = GraphBuilder(f"fused-{activation}")
        yield case(b, b.add(b.input("x", (4, 6)), b.scalar(0.0), activation))
    b = GraphBuilder("leaky-relu")
    yield case(b, b.emit("LEAKY_RELU", (b.input("x", (4, 6)),), Options("LeakyReluOptions", {"Alpha": 0.25})))
    b = GraphBuilder("prelu")
    yield case(b, b.emit("PRELU", (b.input("x", (4, 6)), b.input("alpha", (6,)))))


def comparisons() -> Iterator[Case]:
    for kind in ("MAXIMUM", "MINIMUM"):
        b = GraphBuilder(kind.lower())
        yield case(b, b.emit(kind, (b.input("x", (4, 6)), b.input("y", (6,))), Options("MaximumMinimumOptions")))


def extremes() -> Iterator[Case]:
    for kind, axes in itertools.product(("REDUCE_MAX", "REDUCE_MIN"), ([0], [1, 2], [-1])):
        b = GraphBuilder(f"{kind.lower()}-{axes}")
        yield case(b, b.emit(kind, (b.input("x", (3, 4, 5)), b.ints(axes)), Options("ReducerOptions")))


def pools() -> Iterator[Case]:
    for size, stride, padding, activation in itertools.product((2, 3), (1, 2), (SAME, VALID), (NO_ACTIVATION, RELU)):
        b = GraphBuilder(f"max-pool-{size}-{stride}-{padding}-{activation}")
        fields = {
            "Padding": padding,
            "StrideH": stride,
            "StrideW": stride,
            "FilterHeight": size,
            "FilterWidth": size,
            "FusedActivationFunction": activation,
        }
        yield case(b, b.emit("MAX_POOL_2D", (b.input("x", (2, 7, 6, 2)),), Options("Pool2DOptions", fields)))


CASES = (*rectifiers(), *comparisons(), *extremes(), *pools())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradients(case: Case, results: dict[Case, Results]) -> None:
    check_gradients(case, results[case])
