"""Gradients of elementwise ops of several inputs, with broadcasting, and of fused activations."""

from __future__ import annotations

from collections.abc import Sequence

from signatures.builder import NO_ACTIVATION, RELU, RELU6, RELU_N1_TO_1, GraphBuilder
from signatures.errors import InputError
from signatures.gradients.registry import Gradients, gradient
from signatures.graph import Op, Options, Tensor

FUSED = (NO_ACTIVATION, RELU, RELU_N1_TO_1, RELU6)
"""Fused activations that a gradient passes. The schema has others, which no kernel of either runtime computes."""
_FLOAT32, _BOOL = 0, 6


def through_activation(b: GraphBuilder, op: Op, dy: Tensor) -> Tensor:
    """Gradient before the fused activation of `op`, from the gradient after it."""
    activation = op.options.integer("FusedActivationFunction", NO_ACTIVATION)
    if activation not in FUSED:
        raise InputError(f"{op.kind} {op.output.name!r} fuses activation {activation}, which has no gradient rule")
    if activation == NO_ACTIVATION:
        return dy
    return b.mul(dy, passing(b, op.output, activation))


def passing(b: GraphBuilder, y: Tensor, activation: int) -> Tensor:
    """1 where a ReLU passes its input on, else 0, from its output y: 0 on a bound, as TensorFlow's ReluGrad has it.

    XNNPACK takes no SIGN and no comparisons, and the step is then cut in two (docs/decisions.md). y is never outside
    the bounds, so its distance from them, or the product of both distances, is 0 on a bound and positive between
    them; what is positive and at most 1 has the ceiling 1.
    """
    if activation == RELU:
        return b.unary("CEIL", b.minimum(y, b.scalar(1.0)))
    low, high = (0.0, 6.0) if activation == RELU6 else (-1.0, 1.0)
    below = b.sub(b.scalar(high), y)
    above = y if low == 0.0 else b.shift(y, -low)
    return b.unary("CEIL", b.mul(above, below, activation=RELU_N1_TO_1))


def unbroadcast(b: GraphBuilder, dy: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum `dy` over the axes along which an operand of `shape` was broadcast."""
    if dy.shape == shape:
        return dy
    lead = len(dy.shape) - len(shape)
    stretched = [lead + i for i, side in enumerate(shape) if side == 1 and dy.shape[lead + i] != 1]
    axes = [*range(lead), *stretched]
    return b.reshape(b.sum(dy, axes) if axes else dy, shape)


@gradient("ADD")
def _add(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Gradients:
    """dy for both operands"""
    return [unbroadcast(b, dy, op.input(i).shape) if wanted[i] else None for i in (0, 1)]


@gradient("SUB")
def _sub(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Gradients:
    """dy and −dy"""
    dx = unbroadcast(b, dy, op.input(0).shape) if wanted[0] else None
    return dx, b.unary("NEG", unbroadcast(b, dy, op.input(1).shape)) if wanted[1] else None


@gradient("MUL", kernels="tflite-runtime 2.14.0 aborts on broadcasts over more than 4 axes")
def _mul(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Gradients:
    """dy times the other operand"""
    x, y = op.input(0), op.input(1)
    dx = unbroadcast(b, b.mul(dy, y), x.shape) if wanted[0] else None
    return dx, unbroadcast(b, b.mul(dy, x), y.shape) if wanted[1] else None


@gradient("DIV")
def _div(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Gradients:
    """dy/y and −dy·x/y²"""
    x, y = op.input(0), op.input(1)
    share = b.div(dy, y)
    dx = unbroadcast(b, share, x.shape) if wanted[0] else None
    if not wanted[1]:
        return dx, None
    return dx, unbroadcast(b, b.unary("NEG", b.mul(share, b.div(x, y))), y.shape)


@gradient("SQUARED_DIFFERENCE", kernels="tflite-runtime 2.14.0 aborts on broadcasts over more than 4 axes")
def _squared_difference(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Gradients:
    """±2 dy·(x − y)"""
    x, y = op.input(0), op.input(1)
    slope = b.mul(b.scale(dy, 2.0), b.sub(x, y))
    dx = unbroadcast(b, slope, x.shape) if wanted[0] else None
    return dx, unbroadcast(b, b.unary("NEG", slope), y.shape) if wanted[1] else None


@gradient(
    "POW",
    limits="the exponent's gradient is 0 where the base is not positive, as in TensorFlow",
    kernels="tflite-runtime 2.14.0 aborts on broadcasts over more than 4 axes",
)
def _pow(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Gradients:
    """dy · p·x^(p−1) and dy · y·ln x"""
    x, p = op.input(0), op.input(1)
    dx = dp = None
    if wanted[0]:
        lower = b.emit("POW", (x, b.shift(p, -1.0)), op.options)
        dx = unbroadcast(b, b.mul(dy, b.mul(p, lower)), x.shape)
    if wanted[1]:
        above = b.positive(x)
        logarithm = b.unary("LOG", b.add(b.mul(above, x), b.complement(above)))  # 0 where x is not positive
        dp = unbroadcast(b, b.mul(dy, b.mul(op.output, logarithm)), p.shape)
    return dx, dp


@gradient("MAXIMUM", "MINIMUM")
def _extremum(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Gradients:
    """dy to the operand that was taken; on a tie to the first, as in TensorFlow"""
    x, y = op.input(0), op.input(1)
    second = b.positive(b.sub(y, x) if op.kind == "MAXIMUM" else b.sub(x, y))
    dx = unbroadcast(b, b.mul(dy, b.complement(second)), x.shape) if wanted[0] else None
    return dx, unbroadcast(b, b.mul(dy, second), y.shape) if wanted[1] else None


@gradient("SELECT", "SELECT_V2")
def _select(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Gradients:
    """dy to the operand that the condition chose"""
    condition = op.input(0)
    if op.kind == "SELECT" and len(condition.shape) == 1 < len(dy.shape):  # one condition for each row
        condition = b.reshape(condition, (*condition.shape, *[1] * (len(dy.shape) - 1)))
    first = b.emit("CAST", (condition,), Options("CastOptions", {"InDataType": _BOOL, "OutDataType": _FLOAT32}))
    dx = unbroadcast(b, b.mul(dy, first), op.input(1).shape) if wanted[1] else None
    return None, dx, unbroadcast(b, b.mul(dy, b.complement(first)), op.input(2).shape) if wanted[2] else None
