"""Gradients of means and sums over axes and of average pooling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from signatures.builder import GraphBuilder
from signatures.gradients.convolution import spread, window_of
from signatures.gradients.registry import gradient
from signatures.graph import Op, Tensor
from signatures.shapes import reduced_axes


@gradient("MEAN", "SUM")
def _reduce(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Sequence[Tensor | None]:
    x = op.input(0)
    axes = reduced_axes(len(x.shape), op.input(1))
    kept = b.reshape(dy, [1 if i in axes else side for i, side in enumerate(x.shape)])
    share = 1.0 if op.kind == "SUM" else kept.size / x.size
    # Broadcasting by a product keeps the op inside XNNPACK; BROADCAST_TO is not.
    stretch = [side if i in axes else 1 for i, side in enumerate(x.shape)]
    return b.mul(kept, b.const(np.full(stretch, share, np.float32), "share")), None


@gradient("AVERAGE_POOL_2D")
def _average_pool(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Sequence[Tensor | None]:
    x = op.input(0)
    size = op.options.integer("FilterHeight", 1), op.options.integer("FilterWidth", 1)
    window = window_of(op, size)
    inside = np.ones(x.shape[1:3], np.float32)  # padding does not count in a SAME window's mean
    padded = np.pad(inside, list(zip(window.before, window.after, strict=True)))
    views = np.lib.stride_tricks.sliding_window_view(padded, size)[:: window.stride[0], :: window.stride[1]]
    counts = views.sum(axis=(2, 3))[: dy.shape[1], : dy.shape[2]]
    shares = b.mul(dy, b.const((1 / counts)[None, :, :, None].astype(np.float32), "shares"))
    ones = b.const(np.ones((1, *size, x.shape[3]), np.float32), "ones")
    return [b.depthwise_conv_2d(spread(b, shares, window, x.shape), ones, None)]
