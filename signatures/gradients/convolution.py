"""Gradients of CONV_2D and DEPTHWISE_CONV_2D with builtin ops.

With respect to the input, a convolution's gradient is a convolution of dy — zeros inserted between its pixels where
the stride is more than 1 — with the filter flipped along both axes and its channels swapped. With respect to the
filter, it is, for each tap, the product of dy with the input pixels that this tap met: no im2col, which would take
k² times the activation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from signatures.builder import GraphBuilder
from signatures.errors import InputError
from signatures.gradients.dense import weight_gradient
from signatures.gradients.registry import gradient
from signatures.graph import Array, Op, Tensor
from signatures.shapes import window_padding


@dataclass(frozen=True)
class Window:
    """Geometry of a convolution or pool along height and width, in pixels."""

    size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    before: tuple[int, int]
    """Zeros that the padding puts before the input."""
    after: tuple[int, int]

    @property
    def span(self) -> tuple[int, int]:
        """Input pixels from the first tap to the last, both included."""
        return (self.size[0] - 1) * self.dilation[0] + 1, (self.size[1] - 1) * self.dilation[1] + 1

    @property
    def is_pointwise(self) -> bool:
        """One tap at every pixel: a plain matrix product."""
        return self.size == (1, 1) and self.stride == (1, 1)


def window_of(op: Op, size: tuple[int, int]) -> Window:
    """The window of `op`, whose filter or pool has `size`."""
    stride = op.options.integer("StrideH", 1), op.options.integer("StrideW", 1)
    dilation = op.options.integer("DilationHFactor", 1), op.options.integer("DilationWFactor", 1)
    sides, padding = op.input(0).shape[1:3], op.options.integer("Padding")
    pads = [window_padding(sides[i], size[i], stride[i], dilation[i], padding) for i in (0, 1)]
    return Window(size, stride, dilation, (pads[0][0], pads[1][0]), (pads[0][1], pads[1][1]))


def spread(b: GraphBuilder, dy: Tensor, window: Window, target: tuple[int, ...]) -> Tensor:
    """dy with stride−1 zeros between its pixels and a border of zeros, so that a VALID convolution with a window of
    the same span gives `target`'s height and width.
    """
    n, rows, columns, channels = dy.shape
    down, across = window.stride
    if window.stride != (1, 1):
        apart = b.reshape(dy, (n * rows, 1, columns, 1, channels))
        apart = b.pad(apart, [(0, 0), (0, down - 1), (0, 0), (0, across - 1), (0, 0)])
        dy = b.reshape(apart, (n, rows * down, columns * across, channels))
    border: list[tuple[int, int]] = [(0, 0)]
    keep = [n]
    for i in (0, 1):
        first = window.span[i] - 1 - window.before[i]
        last = target[1 + i] + window.span[i] - 1 - first - dy.shape[1 + i]
        border.append((first, max(0, last)))
        keep.append(dy.shape[1 + i] + min(0, last))
    cropped = b.strided_slice(dy, [0] * 4, [*keep, channels], [1] * 4)
    return b.pad(cropped, [*border, (0, 0)])


def taps(b: GraphBuilder, x: Tensor, window: Window, rows: int, columns: int) -> list[Tensor]:
    """For each filter tap, row by row, the input pixels that it met: [n, rows, columns, channels] each."""
    n, _, _, channels = x.shape
    padded = b.pad(x, [(0, 0), *zip(window.before, window.after, strict=True), (0, 0)])
    slices = []
    for i in range(window.size[0]):
        for j in range(window.size[1]):
            top, left = i * window.dilation[0], j * window.dilation[1]
            bottom = top + (rows - 1) * window.stride[0] + 1
            right = left + (columns - 1) * window.stride[1] + 1
            ends, steps = (n, bottom, right, channels), (1, *window.stride, 1)
            slices.append(b.strided_slice(padded, (0, top, left, 0), ends, steps))
    return slices


def _now_or_in_graph(
    b: GraphBuilder, w: Tensor, now: Callable[[Array], Array], later: Callable[[Tensor], Tensor]
) -> Tensor:
    """A rearranged filter: of a constant computed now, of a variable in the graph."""
    if w.data is not None:
        return b.const(np.ascontiguousarray(now(w.data)), f"{w.name}/adjoint")
    return later(w)


def _flipped(b: GraphBuilder, w: Tensor) -> Tensor:
    """w reversed along height and width, one axis at a time (FACTS §1)."""
    for axis in (1, 2):
        if w.shape[axis] > 1:
            w = b.reverse(w, axis)
    return w


def adjoint_filter(b: GraphBuilder, w: Tensor) -> Tensor:
    """OHWI filter → flipped IHWO, which makes CONV_2D carry dy back to the input."""
    return _now_or_in_graph(
        b,
        w,
        lambda data: data[:, ::-1, ::-1, :].transpose(3, 1, 2, 0),
        lambda tensor: b.transpose(_flipped(b, tensor), (3, 1, 2, 0)),
    )


@gradient("CONV_2D")
def _conv_2d(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Sequence[Tensor | None]:
    x, w = op.input(0), op.input(1)
    if x.shape[3] != w.shape[3]:
        raise InputError(f"no gradient for the grouped convolution {op.output.name!r}: freeze it and all before it")
    window = window_of(op, (w.shape[1], w.shape[2]))
    gradients: list[Tensor | None] = [None] * len(wanted)
    if wanted[0]:
        gradients[0] = _conv_2d_input(b, x, w, dy, window)
    if wanted[1]:
        gradients[1] = _conv_2d_filter(b, x, w, dy, window)
    if len(wanted) > 2 and wanted[2]:
        gradients[2] = b.sum(dy, [0, 1, 2])
    return gradients


def _conv_2d_input(b: GraphBuilder, x: Tensor, w: Tensor, dy: Tensor, window: Window) -> Tensor:
    units, depth = w.shape[0], w.shape[3]
    if window.is_pointwise and w.data is None:  # a product with the variable as it is, no transpose
        product = b.matmul(b.reshape(dy, (dy.size // units, units)), b.reshape(w, (units, depth)))
        return b.reshape(product, x.shape)
    filters = adjoint_filter(b, w)
    options = {"DilationHFactor": window.dilation[0], "DilationWFactor": window.dilation[1]}
    if window.size == (1, 1):  # the product first, on the small grid; then the zeros
        return spread(b, b.conv_2d(dy, filters, None), window, x.shape)
    return b.conv_2d(spread(b, dy, window, x.shape), filters, None, **options)


def _conv_2d_filter(b: GraphBuilder, x: Tensor, w: Tensor, dy: Tensor, window: Window) -> Tensor:
    n, rows, columns, units = dy.shape
    depth = x.shape[3]
    flat = b.reshape(dy, (n * rows * columns, units))
    parts = [
        weight_gradient(b, b.reshape(tap, (n * rows * columns, depth)), flat, samples=n)
        for tap in taps(b, x, window, rows, columns)
    ]
    if len(parts) == 1:
        return b.reshape(parts[0], w.shape)
    return b.reshape(b.concat([b.reshape(part, (units, 1, depth)) for part in parts], axis=1), w.shape)


@gradient("DEPTHWISE_CONV_2D")
def _depthwise(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Sequence[Tensor | None]:
    x, w = op.input(0), op.input(1)
    if w.shape[3] != x.shape[3]:
        raise InputError(f"no gradient for {op.output.name!r}, a depthwise convolution with a channel multiplier")
    window = window_of(op, (w.shape[1], w.shape[2]))
    gradients: list[Tensor | None] = [None] * len(wanted)
    if wanted[0]:
        filters = _now_or_in_graph(b, w, lambda data: data[:, ::-1, ::-1, :], lambda tensor: _flipped(b, tensor))
        options = {"DilationHFactor": window.dilation[0], "DilationWFactor": window.dilation[1]}
        gradients[0] = b.depthwise_conv_2d(spread(b, dy, window, x.shape), filters, None, **options)
    if wanted[1]:
        products = [b.sum(b.mul(tap, dy), [0, 1, 2]) for tap in taps(b, x, window, dy.shape[1], dy.shape[2])]
        gradients[1] = b.reshape(b.concat(products, axis=0), w.shape)
    if len(wanted) > 2 and wanted[2]:
        gradients[2] = b.sum(dy, [0, 1, 2])
    return gradients
