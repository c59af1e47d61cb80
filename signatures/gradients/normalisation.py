"""Gradients of softmax, log-softmax and L2 normalisation, over the last axis."""

from __future__ import annotations

from collections.abc import Sequence

from signatures.builder import GraphBuilder
from signatures.gradients.registry import Gradients, gradient
from signatures.graph import Op, Tensor

_SMALLEST_SQUARE = 1e-12
"""TFLite's kernel divides by max(|x|, 1e-6)."""


@gradient("SOFTMAX")
def _softmax(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """β·y·(dy − Σ dy·y)"""
    y = op.output
    dx = b.mul(y, b.sub(dy, _last_sum(b, b.mul(dy, y))))
    return [b.scale(dx, op.options.number("Beta", 1.0))]


@gradient("LOG_SOFTMAX")
def _log_softmax(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy − softmax(x)·Σ dy"""
    return [b.sub(dy, b.mul(b.unary("EXP", op.output), _last_sum(b, dy)))]


@gradient(
    "L2_NORMALIZATION",
    limits="vectors longer than 1e-6",
    kernels="tflite-runtime 2.14.0: at most 4 axes; neither runtime fuses an activation",
)
def _l2_normalisation(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """(dy − y·Σ dy·y) / |x|"""
    x, y = op.input(0), op.output
    square = b.maximum(_last_sum(b, b.mul(x, x)), b.scalar(_SMALLEST_SQUARE))
    across = b.sub(dy, b.mul(y, _last_sum(b, b.mul(dy, y))))
    return [b.mul(across, b.unary("RSQRT", square))]


def _last_sum(b: GraphBuilder, x: Tensor) -> Tensor:
    return b.sum(x, [len(x.shape) - 1], keep=True)
