"""Gradients of means, sums and extremes over axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from signatures.builder import GraphBuilder
from signatures.gradients.registry import Gradients, gradient
from signatures.graph import Op, Options, Tensor
from signatures.shapes import reduced_axes

_BROADCAST_AXES = 4
"""tflite-runtime 2.14.0 aborts on a MUL that broadcasts more axes."""


@gradient("MEAN", "SUM")
def _mean(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy for every element; of a mean, its share"""
    x = op.input(0)
    kept = b.reshape(dy, _kept(op))
    share = 1.0 if op.kind == "SUM" else kept.size / x.size
    return _stretched(b, kept, x.shape, share), None


@gradient("REDUCE_MAX", "REDUCE_MIN")
def _extreme(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy to the extreme; equal ones share it, as in TensorFlow"""
    x, kept = op.input(0), _kept(op)
    y = b.reshape(op.output, kept)
    beyond = b.sub(y, x) if op.kind == "REDUCE_MAX" else b.sub(x, y)  # 0 at the extreme, else positive
    hits = b.complement(b.unary("SIGN", beyond))
    count = b.sum(hits, reduced_axes(len(x.shape), op.input(1)), keep=True)
    return b.mul(hits, _stretched(b, b.div(b.reshape(dy, kept), count), x.shape)), None


def _stretched(b: GraphBuilder, kept: Tensor, shape: tuple[int, ...], factor: float = 1.0) -> Tensor:
    """factor · kept, broadcast to `shape`."""
    if len(shape) > _BROADCAST_AXES:
        return b.emit("BROADCAST_TO", (b.scale(kept, factor), b.ints(shape, "shape")), Options("BroadcastToOptions"))
    # Broadcasting by a product keeps the op inside XNNPACK; BROADCAST_TO is not.
    stretch = [side if old == 1 else 1 for old, side in zip(kept.shape, shape, strict=True)]
    return b.mul(kept, b.const(np.full(stretch, factor, np.float32), "share"))


def _kept(op: Op) -> list[int]:
    """The shape of the result with the reduced axes kept as 1."""
    shape = op.input(0).shape
    axes = reduced_axes(len(shape), op.input(1))
    return [1 if i in axes else side for i, side in enumerate(shape)]
