"""FULLY_CONNECTED and BATCH_MATMUL: gradients over ranks, transpositions, broadcasts and fused activations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from signatures.builder import NO_ACTIVATION, RELU, RELU6, GraphBuilder
from signatures.graph import Options
from tests.oracles.gradient_check import Case, check_differences, check_gradients, relative_error, run_cases
from tests.oracles.other_runtime import LITERT, TFLITE214, Results, Runtimes

INPUTS = ((6, 8), (1, 8), (2, 5, 8), (2, 3, 2, 8), (3, 16))
"""The last one is longer than the weights are deep: a row of it counts as two."""


def fully_connected(
    shape: tuple[int, ...], units: int, biased: bool, frozen: bool, activation: int = NO_ACTIVATION, keep: bool = False
) -> Case:
    name = f"dense-{shape}-{units}{'-bias' * biased}{'-frozen' * frozen}-{activation}{'-keep' * keep}".replace(" ", "")
    b = GraphBuilder(name)
    x = b.input("x", shape)
    if frozen:
        random = np.random.default_rng(units)
        w = b.const(random.normal(size=(units, 8)).astype(np.float32))
        bias = b.const(random.normal(size=units).astype(np.float32)) if biased else None
    else:
        w, bias = b.input("w", (units, 8)), b.input("bias", (units,)) if biased else None
    fields = {"FusedActivationFunction": activation, "KeepNumDims": keep}
    inputs = (x, w) if bias is None else (x, w, bias)
    y = b.emit("FULLY_CONNECTED", inputs, Options("FullyConnectedOptions", fields))
    return Case(name, b.graph([y]), (x,) if frozen else inputs)


def dense() -> Iterator[Case]:
    activations = itertools.cycle((NO_ACTIVATION, RELU, RELU6))
    for shape, units, biased, frozen in itertools.product(INPUTS, (3, 12), (True, False), (True, False)):
        yield fully_connected(shape, units, biased, frozen, next(activations))
    for frozen in (True, False):
        yield fully_connected((2, 5, 8), 4, True, frozen, RELU, keep=True)


def weights_only() -> Case:
    b = GraphBuilder("dense-weights-only")
    x, w, bias = b.input("x", (4, 5)), b.input("w", (3, 5)), b.input("bias", (3,))
    return Case(b.name, b.graph([b.fully_connected(x, w, bias)]), (w, bias))


def gram() -> Case:
    """The same tensor as input and as weights: its gradient has two parts."""
    b = GraphBuilder("dense-gram")
    x = b.input("x", (4, 7))
    return Case(b.name, b.graph([b.fully_connected(x, x)]), (x,))


def products() -> Iterator[Case]:
    """x · y with every transposition, with batches that are equal, broadcast, or absent on one side."""
    batches: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
        ((), ()),
        ((3,), (3,)),
        ((2, 3), (2, 3)),
        ((3,), (1,)),
        ((1,), (3,)),
        ((2, 1), (1, 3)),
        ((2, 3), ()),
        ((), (3,)),
    )
    for (left, right), adj_x, adj_y in itertools.product(batches, (False, True), (False, True)):
        if adj_x and (left, right) == ((3,), (1,)):
            continue  # broken_product_of_tflite_214
        name = f"matmul-{left}-{right}-{adj_x:d}{adj_y:d}".replace(" ", "")
        b = GraphBuilder(name)
        x = b.input("x", (*left, *((5, 4) if adj_x else (4, 5))))
        y = b.input("y", (*right, *((6, 5) if adj_y else (5, 6))))
        yield Case(name, b.graph([b.matmul(x, y, adj_x, adj_y)]), (x, y))


def broken_product_of_tflite_214() -> Case:
    """Why the gradient of a broadcast product transposes by hand."""
    b = GraphBuilder("matmul-broken-214")
    x, y = b.input("x", (3, 5, 4)), b.input("y", (1, 5, 6))
    return Case(b.name, b.graph([b.matmul(x, y, adj_x=True)]), ())


def product_with_constant() -> Iterator[Case]:
    for adj_x, adj_y in itertools.product((False, True), (False, True)):
        b = GraphBuilder(f"matmul-constant-{adj_x:d}{adj_y:d}")
        x = b.input("x", (2, 5, 4) if adj_x else (2, 4, 5))
        y = b.const(np.random.default_rng(0).normal(size=(6, 5) if adj_y else (5, 6)).astype(np.float32))
        yield Case(b.name, b.graph([b.matmul(x, y, adj_x, adj_y)]), (x,))


CASES = (*dense(), weights_only(), gram(), *products(), *product_with_constant())


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
