"""RESHAPE, SQUEEZE, TRANSPOSE, PAD, CONCATENATION: gradients of ops that only move values."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from signatures.builder import GraphBuilder
from signatures.graph import Options, Tensor
from tests.oracles.gradient_check import Case, check_differences, check_gradients
from tests.oracles.other_runtime import Results


def reshapes() -> Iterator[Case]:
    for old, new in (
        ((2, 3, 4), (6, 4)),
        ((2, 3, 4), (24,)),
        ((6,), (1, 2, 3)),
        ((2, 3, 4), (2, -1)),
        ((1,), ()),
        ((), (1,)),
        ((1, 1), ()),
    ):
        b = GraphBuilder(f"reshape-{old}-{new}".replace(" ", ""))
        x = b.input("x", old)
        y = b.emit("RESHAPE", (x, b.ints(new)), Options("ReshapeOptions"))
        yield Case(b.name, b.graph([y]), (x,))


def reshape_by_option() -> Case:
    """The target as an option, without a second input, as old converters wrote it."""
    b = GraphBuilder("reshape-option")
    x = b.input("x", (2, 3, 4))
    y = b.emit("RESHAPE", (x,), Options("ReshapeOptions", {"NewShape": (4, 6)}))
    return Case(b.name, b.graph([y]), (x,))


def squeezes() -> Iterator[Case]:
    for shape, axes in (((2, 1, 1, 3), (1, 2)), ((2, 1, 1, 3), (-2,)), ((1, 2, 1, 3), ()), ((1, 2, 1, 3), (0,))):
        b = GraphBuilder(f"squeeze-{shape}-{axes}".replace(" ", ""))
        x = b.input("x", shape)
        y = b.emit("SQUEEZE", (x,), Options("SqueezeOptions", {"SqueezeDims": axes}))
        yield Case(b.name, b.graph([y]), (x,))


def transposes() -> Iterator[Case]:
    orders = [*itertools.permutations(range(3)), (0, 2, 1, 3), (3, 1, 2, 0), (1, 3, 0, 2), (4, 2, 0, 3, 1)]
    for order in orders:
        b = GraphBuilder("transpose-" + "".join(map(str, order)))
        x = b.input("x", (2, 3, 4, 5, 2)[: len(order)])
        yield Case(b.name, b.graph([b.transpose(x, order)]), (x,))


def pads() -> Iterator[Case]:
    for pairs in (
        [(0, 0), (1, 1), (1, 1), (0, 0)],
        [(0, 0), (0, 1), (2, 0), (0, 0)],
        [(1, 2), (0, 0), (0, 0), (3, 0)],
        [(0, 3)],
        [(1, 0), (0, 2)],
        [(1, 0), (0, 2), (0, 0), (2, 1), (1, 1)],
    ):
        b = GraphBuilder("pad-" + "".join(f"{a}{z}" for a, z in pairs))
        x = b.input("x", (2, 3, 4, 2, 3)[: len(pairs)])
        yield Case(b.name, b.graph([b.pad(x, pairs)]), (x,))


def concatenations() -> Iterator[Case]:
    """All parts wanted, one of them, one beside a constant, the same tensor twice."""
    for axis in (0, 1, 3, -1, -2):
        b = GraphBuilder(f"concat-axis{axis}")
        shapes = [[side if k == axis % 4 else 2 + k for k in range(4)] for side in (1, 3, 2)]
        parts = [b.input(f"part{i}", tuple(shape)) for i, shape in enumerate(shapes)]
        yield _concatenation(b, parts, axis, parts)
    for wanted in range(3):
        b = GraphBuilder(f"concat-only-{wanted}")
        parts = [b.input(f"part{i}", (2, side)) for i, side in enumerate((1, 3, 2))]
        yield _concatenation(b, parts, 1, [parts[wanted]])
    b = GraphBuilder("concat-constant")
    x = b.input("x", (2, 3))
    yield _concatenation(b, [b.const(np.ones((2, 2), np.float32)), x], 1, [x])
    b = GraphBuilder("concat-twice")
    x, y = b.input("x", (2, 3)), b.input("y", (2, 1))
    yield _concatenation(b, [x, y, x], 1, [x, y])


def _concatenation(b: GraphBuilder, parts: Sequence[Tensor], axis: int, wanted: Sequence[Tensor]) -> Case:
    return Case(b.name, b.graph([b.concat(parts, axis)]), tuple(wanted))


CASES = (*reshapes(), reshape_by_option(), *squeezes(), *transposes(), *pads(), *concatenations())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradients(case: Case, results: dict[Case, Results]) -> None:
    check_gradients(case, results[case])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_oracle(case: Case) -> None:
    check_differences(case)
