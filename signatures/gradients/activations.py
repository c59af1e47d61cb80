"""Gradients of activation functions that stand alone. Fused ones: `elementwise.through_activation`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from signatures.builder import RELU, RELU6, RELU_N1_TO_1, GraphBuilder
from signatures.gradients.elementwise import passing, unbroadcast
from signatures.gradients.registry import Gradients, gradient
from signatures.graph import Op, Tensor

_TANH_GELU_SCALE, _TANH_GELU_CUBE = math.sqrt(2 / math.pi), 0.044715
_NEAR_ZERO = 0.1


@gradient("RELU", "RELU6", "RELU_N1_TO_1")
def _relu(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy between the bounds, 0 on them and outside"""
    activation = {"RELU": RELU, "RELU6": RELU6, "RELU_N1_TO_1": RELU_N1_TO_1}[op.kind]
    return [b.mul(dy, passing(b, op.output, activation))]


@gradient("RELU_0_TO_1")
def _relu_0_to_1(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy between the bounds, 0 on them and outside"""
    y = op.output
    return [b.mul(dy, b.mul(b.unary("SIGN", y), b.unary("SIGN", b.complement(y))))]


@gradient("LEAKY_RELU")
def _leaky_relu(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy above 0, α·dy elsewhere"""
    alpha = op.options.number("Alpha")
    return [b.mul(dy, b.shift(b.scale(b.positive(op.input(0)), 1.0 - alpha), alpha))]


@gradient("PRELU")
def _prelu(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Gradients:
    """dx: dy above 0, α·dy elsewhere; dα: Σ dy·min(x, 0)"""
    x, alpha = op.input(0), op.input(1)
    dx = dalpha = None
    if wanted[0]:
        above = b.positive(x)
        dx = b.mul(dy, b.add(above, b.mul(b.complement(above), alpha)))
    if wanted[1]:
        dalpha = unbroadcast(b, b.mul(dy, b.minimum(x, b.scalar(0.0))), alpha.shape)
    return dx, dalpha


@gradient("ELU")
def _elu(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy · (1 + min(y, 0))"""
    return [b.mul(dy, b.shift(b.minimum(op.output, b.scalar(0.0)), 1.0))]


@gradient("LOGISTIC")
def _logistic(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy · y(1 − y)"""
    return [b.mul(dy, b.mul(op.output, b.complement(op.output)))]


@gradient("TANH")
def _tanh(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy · (1 − y²)"""
    return [b.mul(dy, b.complement(b.mul(op.output, op.output)))]


@gradient("HARD_SWISH")
def _hard_swish(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy · (relu6(x + 3) + x where −3 < x < 3) / 6"""
    x = op.input(0)
    gate = b.unary("RELU6", b.shift(x, 3.0))
    slope = b.add(gate, b.mul(x, passing(b, gate, RELU6)))
    return [b.mul(dy, b.scale(slope, 1.0 / 6.0))]


@gradient("GELU")
def _gelu(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy · (Φ(x) + x·Φ′(x)) with Φ exact or by tanh (arXiv 1606.08415)"""
    slope = _tanh_gelu_slope if op.options.flag("Approximate") else _gelu_slope
    return [b.mul(dy, slope(b, op))]


def _gelu_slope(b: GraphBuilder, op: Op) -> Tensor:
    """Φ + x·φ. There is no erf among the builtin ops, but Φ(x) = GELU(x)/x.

    Where |x| < ε, the quotient is taken at ±ε and moved to x by the Taylor series of Φ around 0,
    Φ(x) = ½ + (x − x³/6 + x⁵/40)/√2π, whose next term is below 2·10⁻¹⁰.
    """
    x = op.input(0)
    root = 1 / math.sqrt(2 * math.pi)
    density = b.scale(b.unary("EXP", b.scale(b.mul(x, x), -0.5)), root)
    size = b.maximum(b.unary("ABS", x), b.scalar(_NEAR_ZERO))
    sign = b.unary("SIGN", b.shift(b.unary("SIGN", x), 0.5))  # 0 counts as positive
    away = b.mul(sign, size)
    quotient = b.div(b.emit("GELU", (away,), op.options), away)
    series = b.sub(_odd_series(b, x, root), _odd_series(b, away, root))
    near = b.positive(b.sub(b.scalar(_NEAR_ZERO), b.unary("ABS", x)))
    distribution = b.add(quotient, b.mul(near, series))
    return b.add(distribution, b.mul(x, density))


def _odd_series(b: GraphBuilder, x: Tensor, root: float) -> Tensor:
    """Φ(x) − ½ near 0: (x − x³/6 + x⁵/40) · root."""
    square = b.mul(x, x)
    inner = b.shift(b.mul(square, b.shift(b.scale(square, root / 40), -root / 6)), root)
    return b.mul(x, inner)


def _tanh_gelu_slope(b: GraphBuilder, op: Op) -> Tensor:
    """y = ½x(1 + t), t = tanh u, u = k(x + c·x³): the slope is ½(1 + t) + ½x(1 − t²)·k(1 + 3c·x²)."""
    x = op.input(0)
    square = b.mul(x, x)
    inner = b.mul(x, b.shift(b.scale(square, _TANH_GELU_SCALE * _TANH_GELU_CUBE), _TANH_GELU_SCALE))
    t = b.unary("TANH", inner)
    rate = b.shift(b.scale(square, 3 * _TANH_GELU_SCALE * _TANH_GELU_CUBE), _TANH_GELU_SCALE)
    second = b.mul(b.mul(x, b.complement(b.mul(t, t))), rate)
    return b.scale(b.add(b.shift(t, 1.0), second), 0.5)
