"""CONV_2D and DEPTHWISE_CONV_2D: gradients over strides, paddings, dilations, odd sizes and fused activations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from signatures.builder import NO_ACTIVATION, RELU, RELU6, RELU_N1_TO_1, GraphBuilder
from signatures.shapes import SAME, VALID
from tests.oracles.gradient_check import Case, check_differences, check_gradients
from tests.oracles.other_runtime import Results

Pair = tuple[int, int]
FILTERS = ((1, 1), (2, 2), (3, 3), (5, 5), (1, 3), (3, 2))
STRIDES = ((1, 1), (2, 2), (3, 3), (1, 2), (3, 1))
DILATIONS = ((1, 1), (2, 2), (2, 1))
ACTIVATIONS = {NO_ACTIVATION: "", RELU: "-relu", RELU6: "-relu6", RELU_N1_TO_1: "-relu1"}
ROLES = ("trained", "frozen", "weights-only")
"""The filter is an input and differentiated with x; a constant; an input and the only thing differentiated."""


def convolution(
    kind: str,
    size: Pair,
    filters: Pair,
    stride: Pair = (1, 1),
    dilation: Pair = (1, 1),
    padding: int = VALID,
    activation: int = NO_ACTIVATION,
    role: str = "trained",
    border: tuple[Pair, Pair] = ((0, 0), (0, 0)),
    channels: Pair = (3, 4),
    batch: int = 2,
) -> Case:
    """One convolution of `size` pixels, behind an explicit PAD where `border` is not zero."""
    depth, units = channels
    shape = (units, *filters, depth) if kind == "CONV_2D" else (1, *filters, depth)
    length = units if kind == "CONV_2D" else depth
    name = "-".join(
        [
            kind.split("_")[0].lower(),
            "x".join(map(str, (batch, *size, *channels))),
            "filter" + "x".join(map(str, filters)),
            "stride" + "x".join(map(str, stride)),
            "dilation" + "x".join(map(str, dilation)),
            ("same", "valid")[padding] + ACTIVATIONS[activation],
            role,
            *(["pad" + "".join(map(str, sum(border, ())))] if any(sum(border, ())) else []),
        ]
    )
    b = GraphBuilder(name)
    x = b.input("x", (batch, *size, depth))
    if role == "frozen":
        random = np.random.default_rng([*filters, *stride, *dilation])
        w = b.const(random.normal(size=shape).astype(np.float32))
        bias = b.const(random.normal(size=length).astype(np.float32))
    else:
        w, bias = b.input("w", shape), b.input("bias", (length,))
    fields = {
        "Padding": padding,
        "StrideH": stride[0],
        "StrideW": stride[1],
        "DilationHFactor": dilation[0],
        "DilationWFactor": dilation[1],
        "FusedActivationFunction": activation,
    }
    emit = b.conv_2d if kind == "CONV_2D" else b.depthwise_conv_2d
    y = emit(b.pad(x, [(0, 0), *border, (0, 0)]), w, bias, **fields)
    wanted = {"trained": (x, w, bias), "frozen": (x,), "weights-only": (w, bias)}[role]
    return Case(name, b.graph([y]), wanted)


def geometries() -> Iterator[Case]:
    """Every filter × stride × dilation × padding, at seeded sizes from the smallest that is possible."""
    for kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        random = np.random.default_rng(len(kind))
        roles = itertools.cycle(ROLES)
        activations = itertools.cycle(ACTIVATIONS)
        for filters, stride, dilation, padding in itertools.product(FILTERS, STRIDES, DILATIONS, (SAME, VALID)):
            if filters == (1, 1) and dilation != (1, 1):
                continue
            span = [(filters[i] - 1) * dilation[i] + 1 for i in (0, 1)]
            least = [s if padding == VALID else 1 for s in span]
            size = (int(random.integers(least[0], span[0] + 5)), int(random.integers(least[1], span[1] + 5)))
            yield convolution(kind, size, filters, stride, dilation, padding, next(activations), next(roles))


def explicit_padding() -> Iterator[Case]:
    """PAD and VALID, as Keras and PyTorch pad before a stride."""
    for kind, (border, size), role in itertools.product(
        ("CONV_2D", "DEPTHWISE_CONV_2D"),
        ((((0, 1), (0, 1)), (8, 8)), (((1, 1), (1, 1)), (9, 8)), (((2, 0), (0, 3)), (5, 7))),
        ("trained", "frozen"),
    ):
        yield convolution(kind, size, (3, 3), (2, 2), border=border, role=role, activation=RELU6)


def products() -> Iterator[Case]:
    """Pointwise convolutions with more and with fewer pixels than channels: both forms of the weight gradient."""
    for size, channels, role in itertools.product(((1, 1), (2, 3), (8, 8)), ((24, 6), (6, 24), (1, 5), (5, 1)), ROLES):
        yield convolution("CONV_2D", size, (1, 1), channels=channels, role=role, batch=3)


def one_image() -> Iterator[Case]:
    """Batch 1, which some kernels treat apart."""
    for kind, role in itertools.product(("CONV_2D", "DEPTHWISE_CONV_2D"), ("trained", "frozen")):
        yield convolution(kind, (6, 5), (3, 3), (2, 2), padding=SAME, role=role, batch=1)


CASES = (*geometries(), *explicit_padding(), *products(), *one_image())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradients(case: Case, results: dict[Case, Results]) -> None:
    check_gradients(case, results[case])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_oracle(case: Case) -> None:
    check_differences(case)
