"""MEAN and SUM over every set of axes, and AVERAGE_POOL_2D over windows, strides and paddings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from signatures.builder import NO_ACTIVATION, RELU, RELU6, GraphBuilder
from signatures.graph import Options
from signatures.shapes import SAME, VALID
from tests.oracles.gradient_check import Case, check_differences, check_gradients
from tests.oracles.other_runtime import Results


def reductions() -> Iterator[Case]:
    """All non-empty sets of the axes of an image batch, the batch axis included; negative axes."""
    every = [axes for n in (1, 2, 3, 4) for axes in itertools.combinations(range(4), n)]
    for kind, axes, keep in itertools.product(("MEAN", "SUM"), [*every, (-1,), (-2, 1)], (False, True)):
        b = GraphBuilder(f"{kind.lower()}-{axes}{'-keep' * keep}".replace(" ", ""))
        x = b.input("x", (2, 3, 4, 5))
        y = b.emit(kind, (x, b.ints(axes)), Options("ReducerOptions", {"KeepDims": keep}))
        yield Case(b.name, b.graph([y]), (x,))
    for kind, shape in itertools.product(("MEAN", "SUM"), ((6,), (3, 4), (2, 3, 4), (2, 3, 2, 2, 2))):
        b = GraphBuilder(f"{kind.lower()}-rank{len(shape)}")
        x = b.input("x", shape)
        y = b.emit(kind, (x, b.ints([len(shape) - 1])), Options("ReducerOptions"))
        yield Case(b.name, b.graph([y]), (x,))


def pools() -> Iterator[Case]:
    """Windows as large as the image, smaller than the stride, overlapping the border, with pixels left over."""
    activations = itertools.cycle((NO_ACTIVATION, RELU, RELU6))
    windows = ((2, 2), (3, 3), (1, 1), (3, 2), (1, 4), (7, 7))
    for window, stride, padding in itertools.product(windows, ((1, 1), (2, 2), (3, 3), (1, 2)), (SAME, VALID)):
        activation = next(activations)
        name = "-".join(f"{a}x{b}" for a, b in (window, stride))
        b = GraphBuilder(f"pool-{name}-{('same', 'valid')[padding]}-{activation}")
        x = b.input("x", (2, 7, 8, 3))
        fields = {
            "Padding": padding,
            "StrideH": stride[0],
            "StrideW": stride[1],
            "FilterHeight": window[0],
            "FilterWidth": window[1],
            "FusedActivationFunction": activation,
        }
        y = b.emit("AVERAGE_POOL_2D", (x,), Options("Pool2DOptions", fields))
        yield Case(b.name, b.graph([y]), (x,))


CASES = (*reductions(), *pools())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradients(case: Case, results: dict[Case, Results]) -> None:
    check_gradients(case, results[case])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_oracle(case: Case) -> None:
    check_differences(case)
