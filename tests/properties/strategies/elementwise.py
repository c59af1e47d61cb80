"""Ops that work element by element, with and without broadcasting."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from hypothesis import strategies as st
from tflite import TensorType

from signatures.graph import Options, Tensor
from tests.oracles.gradient_check import Case, Draw, nonzero, normal, positive, wide, zero_or_one
from tests.properties.strategies.sketch import INPUT, LEAST_FOR_ACTIVATION, Sketch

UNARY: Mapping[str, Draw] = {
    **dict.fromkeys(("ABS", "COS", "EXP", "NEG", "SIN", "SQUARE"), normal),
    **dict.fromkeys(("ELU", "HARD_SWISH", "LOGISTIC", "TANH"), wide),
    **dict.fromkeys(("LOG", "RSQRT", "SQRT"), positive),
}
RECTIFIERS = ("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1")
ARITHMETIC = {"ADD": normal, "SUB": normal, "MUL": normal, "DIV": nonzero}
"""How the second operand is drawn."""
FIVE_AXES = ("ADD", "DIV", "SUB")
"""What broadcasts over five axes. tflite-runtime 2.14.0 ends the process at MUL, SQUARED_DIFFERENCE and POW."""
STEPS = ("CEIL", "FLOOR", "ROUND", "SIGN")
COMPARISONS = ("MAXIMUM", "MINIMUM")


@st.composite
def unary(draw: st.DrawFn, kind: str) -> Case:
    s = Sketch(draw, kind)
    return s.op(kind, [s.x(s.shape(0, 5), UNARY[kind])])


@st.composite
def rectifier(draw: st.DrawFn, kind: str) -> Case:
    s = Sketch(draw, kind)
    return s.op(kind, [s.x((*s.shape(0, 4), s.integer(LEAST_FOR_ACTIVATION, 12)))])


@st.composite
def step(draw: st.DrawFn, kind: str) -> Case:
    """x times its steps: the steps themselves have no gradient, so something else has to have one."""
    s = Sketch(draw, kind)
    x = s.x(s.shape(0, 5))
    return s.case(s.b.mul(s.b.unary(kind, x), s.b.shift(x, 4.0)))


@st.composite
def leaky_relu(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "LEAKY_RELU")
    alpha = s.pick(0.125, 0.5, 0.0, -0.25, 2.0)
    return s.op("LEAKY_RELU", [s.x(s.shape(0, 5))], "LeakyReluOptions", Alpha=alpha)


@st.composite
def prelu(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "PRELU")
    shape = s.shape(1, 4)
    ones = s.draw(st.sets(st.integers(0, len(shape) - 1)))
    lead = s.integer(0, len(shape) - 1)
    alpha = tuple(1 if i in ones else side for i, side in enumerate(shape))[lead:]
    return s.op("PRELU", s.operands([shape, alpha]))


@st.composite
def gelu(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "GELU")
    return s.op("GELU", [s.x(s.shape(0, 5), wide)], "GeluOptions", Approximate=s.flag())


@st.composite
def arithmetic(draw: st.DrawFn, kind: str) -> Case:
    s = Sketch(draw, kind)
    inputs = s.operands(s.broadcast_shapes(5 if kind in FIVE_AXES else 4), [normal, ARITHMETIC[kind]])
    return s.case(s.fused(kind, inputs, f"{kind.title()}Options"))


@st.composite
def comparison(draw: st.DrawFn, kind: str) -> Case:
    s = Sketch(draw, kind)
    return s.op(kind, s.operands(s.broadcast_shapes(5)), "MaximumMinimumOptions")


@st.composite
def squared_difference(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "SQUARED_DIFFERENCE")
    return s.op("SQUARED_DIFFERENCE", s.operands(s.broadcast_shapes(4)), "SquaredDifferenceOptions")


@st.composite
def power(draw: st.DrawFn) -> Case:
    """Constant exponents as networks have them, any others, and variable ones."""
    s = Sketch(draw, "POW")
    if s.flag():
        exponent = s.pick(2.0, 0.5, -0.5, 3.0, -1.0, 1.0)
        x = s.x(s.shape(0, 4), positive)
        return s.op("POW", [x, s.b.const(np.full(s.pick((), (1,)), exponent, np.float32))], "PowOptions")
    return s.op("POW", s.operands(s.broadcast_shapes(4), [positive, normal]), "PowOptions")


def _condition(s: Sketch, shape: tuple[int, ...]) -> Tensor:
    """Where SELECT takes its first operand: a constant, or computed from an input."""
    if s.flag():
        return s.b.const(np.random.default_rng(s.integer(0, 99)).integers(0, 2, shape).astype(np.bool_), "condition")
    mask = s.operand(INPUT, "mask", shape, zero_or_one)
    return s.b.emit("GREATER", [mask, s.b.scalar(0.5)], Options("GreaterOptions"))


@st.composite
def select(draw: st.DrawFn) -> Case:
    """The condition has the shape of the operands, or one element."""
    s = Sketch(draw, "SELECT")
    shape = s.shape(1, 4)
    condition = _condition(s, s.pick(shape, ()))
    return s.op("SELECT", [condition, *s.operands([shape, shape])], "SelectOptions")


@st.composite
def select_v2(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "SELECT_V2")
    left, right = s.broadcast_shapes(4)
    whole = np.broadcast_shapes(left, right)
    ones = s.draw(st.sets(st.integers(0, max(len(whole) - 1, 0))))
    shape = tuple(1 if i in ones else side for i, side in enumerate(whole))[s.integer(0, len(whole)) :]
    return s.op("SELECT_V2", [_condition(s, shape), *s.operands([left, right])], "SelectV2Options")


@st.composite
def cast(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "CAST")
    kept = {"InDataType": TensorType.FLOAT32, "OutDataType": TensorType.FLOAT32}
    return s.op("CAST", [s.x(s.shape(0, 5))], "CastOptions", **kept)


STRATEGIES = {
    **{kind: unary(kind) for kind in UNARY},
    **{kind: rectifier(kind) for kind in RECTIFIERS},
    **{kind: step(kind) for kind in STEPS},
    **{kind: arithmetic(kind) for kind in ARITHMETIC},
    **{kind: comparison(kind) for kind in COMPARISONS},
    "LEAKY_RELU": leaky_relu(),
    "PRELU": prelu(),
    "GELU": gelu(),
    "SQUARED_DIFFERENCE": squared_difference(),
    "POW": power(),
    "SELECT": select(),
    "SELECT_V2": select_v2(),
    "CAST": cast(),
}
