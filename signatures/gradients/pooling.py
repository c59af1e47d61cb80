"""Gradients of average and max pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from signatures.builder import GraphBuilder
from signatures.gradients.convolution import Window, spread, taps, window_of
from signatures.gradients.registry import Gradients, gradient
from signatures.graph import Op, Options, Tensor

_LOWEST = float(np.finfo(np.float32).min)


def _window(op: Op) -> Window:
    return window_of(op, (op.options.integer("FilterHeight", 1), op.options.integer("FilterWidth", 1)))


@gradient("AVERAGE_POOL_2D")
def _average_pool(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """each pixel's share of dy"""
    x, window = op.input(0), _window(op)
    inside = np.ones(x.shape[1:3], np.float32)  # padding does not count in a SAME window's mean
    padded = np.pad(inside, list(zip(window.before, window.after, strict=True)))
    views = np.lib.stride_tricks.sliding_window_view(padded, window.size)[:: window.stride[0], :: window.stride[1]]
    counts = views.sum(axis=(2, 3))[: dy.shape[1], : dy.shape[2]]
    shares = b.mul(dy, b.const((1 / counts)[None, :, :, None].astype(np.float32), "shares"))
    ones = b.const(np.ones((1, *window.size, x.shape[3]), np.float32), "ones")
    apart, padding = spread(b, shares, window, x.shape)
    return [b.depthwise_conv_2d(apart, ones, None, Padding=padding)]


@gradient("MAX_POOL_2D")
def _max_pool(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy to the window's maximum; of equal ones to the first, as in TensorFlow"""
    x, window = op.input(0), _window(op)
    pairs = [(0, 0), *zip(window.before, window.after, strict=True), (0, 0)]
    if any(before or after for before, after in pairs):
        padded = b.emit("PADV2", (x, b.ints(pairs, "paddings"), b.scalar(_LOWEST)), Options("PadV2Options"))
    else:
        padded = x
    y = op.output  # where a fused ReLU changed it, dy is zero already
    left = dy  # what no earlier tap of the window has taken
    parts = []
    for tap in taps(b, padded, replace(window, before=(0, 0), after=(0, 0)), y.shape[1], y.shape[2]):
        passed_on = b.mul(left, b.unary("SIGN", b.sub(y, tap)))
        parts.append(b.sub(left, passed_on))
        left = passed_on
    whole = untapped(b, parts, window, (padded.shape[1], padded.shape[2]))
    begins = (0, *window.before, 0)
    ends = (x.shape[0], window.before[0] + x.shape[1], window.before[1] + x.shape[2], x.shape[3])
    return [b.strided_slice(whole, begins, ends, (1, 1, 1, 1))]


def untapped(b: GraphBuilder, parts: Sequence[Tensor], window: Window, size: tuple[int, int]) -> Tensor:
    """The adjoint of `taps`, without dilation: each part added at the pixels that its tap met, [n, *size, channels].

    Taps a whole number of strides apart meet the same grid of pixels: each of the stride² grids is summed small, and
    then they are interleaved by CONCATENATION and RESHAPE.
    """
    n, _, _, channels = parts[0].shape
    down, across = window.stride
    rows, columns = -(-size[0] // down), -(-size[1] // across)

    def grid(top: int, left: int) -> Tensor:
        total: Tensor | None = None
        for i in range(top, window.size[0], down):
            for j in range(left, window.size[1], across):
                part = parts[i * window.size[1] + j]
                above, before = i // down, j // across
                part = b.slice(b.slice(part, 1, 0, rows - above), 2, 0, columns - before)
                below, after = rows - above - part.shape[1], columns - before - part.shape[2]
                part = b.pad(part, [(0, 0), (above, below), (before, after), (0, 0)])
                total = part if total is None else b.add(total, part)
        if total is None:  # a window smaller than its stride leaves pixels unmet
            return b.emit("FILL", (b.ints((n, rows, columns, channels), "shape"), b.scalar(0.0)))
        return total

    bands = []
    for top in range(down):
        grids = [b.reshape(grid(top, left), (n, rows * columns, 1, channels)) for left in range(across)]
        band = grids[0] if across == 1 else b.concat(grids, axis=2)
        bands.append(b.reshape(band, (n * rows, 1, columns * across, channels)))
    whole = bands[0] if down == 1 else b.concat(bands, axis=1)
    whole = b.reshape(whole, (n, rows * down, columns * across, channels))
    return b.strided_slice(whole, (0, 0, 0, 0), (n, *size, channels), (1, 1, 1, 1))
