"""Gradients of elementwise functions of one input."""

from __future__ import annotations

from collections.abc import Sequence

from signatures.builder import GraphBuilder
from signatures.gradients.registry import Gradients, gradient
from signatures.graph import Op, Tensor


@gradient("NEG")
def _neg(b: GraphBuilder, _op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """−dy"""
    return [b.unary("NEG", dy)]


@gradient("ABS")
def _abs(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy · sign x"""
    return [b.mul(dy, b.unary("SIGN", op.input(0)))]


@gradient("SQUARE")
def _square(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy · 2x"""
    return [b.mul(dy, b.scale(op.input(0), 2.0))]


@gradient("EXP")
def _exp(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy · y"""
    return [b.mul(dy, op.output)]


@gradient("LOG")
def _log(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy / x"""
    return [b.div(dy, op.input(0))]


@gradient("SQRT")
def _sqrt(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy / 2y"""
    return [b.div(b.scale(dy, 0.5), op.output)]


@gradient("RSQRT")
def _rsqrt(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """−½ dy · y³"""
    y = op.output
    return [b.mul(b.scale(dy, -0.5), b.mul(y, b.mul(y, y)))]


@gradient("SIN")
def _sin(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy · cos x"""
    return [b.mul(dy, b.unary("COS", op.input(0)))]


@gradient("COS")
def _cos(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """−dy · sin x"""
    return [b.unary("NEG", b.mul(dy, b.unary("SIN", op.input(0))))]


@gradient("SIGN", "FLOOR", "CEIL", "ROUND")
def _flat(_b: GraphBuilder, _op: Op, _dy: Tensor, wanted: Sequence[bool]) -> Gradients:
    """0, as in TensorFlow: steps have no slope"""
    return [None] * len(wanted)


@gradient("CAST", limits="float32 to float32; between other types no gradient passes")
def _cast(_b: GraphBuilder, _op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy"""
    return [dy]
