"""Gradients of elementwise ops, with broadcasting, and of fused activations."""

from __future__ import annotations

from collections.abc import Sequence

from signatures.builder import NO_ACTIVATION, RELU, RELU6, RELU_N1_TO_1, GraphBuilder
from signatures.errors import InputError
from signatures.gradients.registry import gradient
from signatures.graph import Op, Tensor


def through_activation(b: GraphBuilder, op: Op, dy: Tensor) -> Tensor:
    """Gradient before the fused activation of `op`, from the gradient after it."""
    activation = op.options.integer("FusedActivationFunction", NO_ACTIVATION)
    if activation == NO_ACTIVATION:
        return dy
    if activation not in (RELU, RELU6, RELU_N1_TO_1):
        raise InputError(f"{op.kind} {op.output.name!r} fuses activation {activation}, which has no gradient rule")
    return b.mul(dy, _inside(b, op.output, activation))


def _inside(b: GraphBuilder, y: Tensor, activation: int) -> Tensor:
    """1 where the activation passes its input on, else 0, from its output y.

    SIGN keeps the mask inside XNNPACK, comparisons do not (FACTS §1). y is never outside the bounds, so the
    product is 0 on a bound and 1 between them, as TensorFlow's ReluGrad and Relu6Grad have it.
    """
    if activation == RELU:
        return b.unary("SIGN", y)
    low, high = (0.0, 6.0) if activation == RELU6 else (-1.0, 1.0)
    above = b.unary("SIGN", y if low == 0.0 else b.sub(y, b.scalar(low)))
    return b.mul(above, b.unary("SIGN", b.sub(b.scalar(high), y)))


def unbroadcast(b: GraphBuilder, dy: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum `dy` over the axes along which an operand of `shape` was broadcast."""
    if dy.shape == shape:
        return dy
    lead = len(dy.shape) - len(shape)
    stretched = [lead + i for i, side in enumerate(shape) if side == 1 and dy.shape[lead + i] != 1]
    return b.reshape(b.sum(dy, [*range(lead), *stretched]), shape)


@gradient("ADD")
def _add(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Sequence[Tensor | None]:
    return [unbroadcast(b, dy, op.input(i).shape) if wanted[i] else None for i in (0, 1)]


@gradient("SUB")
def _sub(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Sequence[Tensor | None]:
    dx = unbroadcast(b, dy, op.input(0).shape) if wanted[0] else None
    return dx, b.unary("NEG", unbroadcast(b, dy, op.input(1).shape)) if wanted[1] else None


@gradient("MUL")
def _mul(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Sequence[Tensor | None]:
    x, y = op.input(0), op.input(1)
    dx = unbroadcast(b, b.mul(dy, y), x.shape) if wanted[0] else None
    return dx, unbroadcast(b, b.mul(dy, x), y.shape) if wanted[1] else None


@gradient("RELU", "RELU6", "RELU_N1_TO_1")
def _relu(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Sequence[Tensor | None]:
    activation = {"RELU": RELU, "RELU6": RELU6, "RELU_N1_TO_1": RELU_N1_TO_1}[op.kind]
    return [b.mul(dy, _inside(b, op.output, activation))]
