"""Gradients of CONV_2D, DEPTHWISE_CONV_2D and TRANSPOSE_CONV with builtin ops.

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
from signatures.gradients.dense import weight_gradient
from signatures.gradients.registry import Gradients, gradient
from signatures.graph import Array, Op, Options, Tensor
from signatures.shapes import SAME, VALID, window_padding


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


def window_of(op: Op, size: tuple[int, int], over: tuple[int, ...] | None = None) -> Window:
    """The window of `op`, whose filter or pool has `size`, over an image of shape `over`: its input 0 unless given."""
    stride = op.options.integer("StrideH", 1), op.options.integer("StrideW", 1)
    dilation = op.options.integer("DilationHFactor", 1), op.options.integer("DilationWFactor", 1)
    sides, padding = (over or op.input(0).shape)[1:3], op.options.integer("Padding")
    pads = [window_padding(sides[i], size[i], stride[i], dilation[i], padding) for i in (0, 1)]
    return Window(size, stride, dilation, (pads[0][0], pads[1][0]), (pads[0][1], pads[1][1]))


def spread(b: GraphBuilder, dy: Tensor, window: Window, target: tuple[int, ...]) -> tuple[Tensor, int]:
    """dy with stride−1 zeros between its pixels and a border of zeros, and the padding with which a convolution at
    stride 1, with a window of the same span, then gives `target`'s height and width.

    The padding is SAME, and there is no border, where that puts the same zeros around: kernels do it at no cost.
    """
    n, rows, columns, channels = dy.shape
    down, across = window.stride
    if window.stride != (1, 1):
        apart = b.reshape(dy, (n * rows, 1, columns, 1, channels))
        apart = b.pad(apart, [(0, 0), (0, down - 1), (0, 0), (0, across - 1), (0, 0)])
        dy = b.reshape(apart, (n, rows * down, columns * across, channels))
    border: list[tuple[int, int]] = []
    keep = [n]
    for i in (0, 1):
        first = window.span[i] - 1 - window.before[i]
        last = target[1 + i] + window.span[i] - 1 - first - dy.shape[1 + i]
        border.append((first, max(0, last)))
        keep.append(dy.shape[1 + i] + min(0, last))
    cropped = b.strided_slice(dy, [0] * 4, [*keep, channels], [1] * 4)
    same = [window_padding(cropped.shape[1 + i], window.span[i], 1, 1, SAME) for i in (0, 1)]
    if border == same:
        return cropped, SAME
    return b.pad(cropped, [(0, 0), *border, (0, 0)]), VALID


def taps(b: GraphBuilder, x: Tensor, window: Window, rows: int, columns: int) -> list[Tensor]:
    """For each filter tap, row by row, the input pixels that it met: [n, rows, columns, channels] each."""
    places = [
        (i * window.dilation[0], j * window.dilation[1]) for i in range(window.size[0]) for j in range(window.size[1])
    ]
    padding = [(0, 0), *zip(window.before, window.after, strict=True), (0, 0)]
    if window.stride[0] == window.stride[1] > 1:
        return _taps_by_phase(b, x, window, padding, places, rows, columns)
    padded = b.pad(x, padding)
    n, channels = x.shape[0], x.shape[3]
    slices = []
    for top, left in places:
        ends = n, top + (rows - 1) * window.stride[0] + 1, left + (columns - 1) * window.stride[1] + 1, channels
        slices.append(b.strided_slice(padded, (0, top, left, 0), ends, (1, *window.stride, 1)))
    return slices


def _taps_by_phase(
    b: GraphBuilder,
    x: Tensor,
    window: Window,
    padding: Sequence[tuple[int, int]],
    places: Sequence[tuple[int, int]],
    rows: int,
    columns: int,
) -> list[Tensor]:
    """Taps of a convolution that steps over pixels. Every s-th pixel is what slices are slow at: the s² phases of the
    pixels become channels, side by side, and each tap is a dense part of one.
    """
    s, channels = window.stride[0], x.shape[3]
    reach = [max(place[i] // s for place in places) + side for i, side in ((0, rows), (1, columns))]
    sides = [max(reach[i], -(-(x.shape[1 + i] + sum(padding[1 + i])) // s)) * s for i in (0, 1)]
    pairs = [(padding[1 + i][0], sides[i] - x.shape[1 + i] - padding[1 + i][0]) for i in (0, 1)]
    padded = b.pad(x, [(0, 0), *pairs, (0, 0)])
    phases = b.emit("SPACE_TO_DEPTH", (padded,), Options("SpaceToDepthOptions", {"BlockSize": s}), "phases")
    slices = []
    for top, left in places:
        phase = (top % s * s + left % s) * channels
        begins = 0, top // s, left // s, phase
        ends = x.shape[0], top // s + rows, left // s + columns, phase + channels
        slices.append(b.strided_slice(phases, begins, ends, (1, 1, 1, 1)))
    return slices


def _dilation(window: Window) -> dict[str, int]:
    """Options of a convolution with the window's dilation; none where it has none."""
    if window.dilation == (1, 1):
        return {}
    return {"DilationHFactor": window.dilation[0], "DilationWFactor": window.dilation[1]}


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
def _conv_2d(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Gradients:
    """dx: convolution of dy with the flipped filter; dW: a product for each tap; db = Σ dy"""
    x, w = op.input(0), op.input(1)
    window = window_of(op, (w.shape[1], w.shape[2]))
    groups = x.shape[3] // w.shape[3]
    units, depth = w.shape[0] // groups, w.shape[3]
    dxs: list[Tensor] = []
    dws: list[Tensor] = []
    for group in range(groups):
        dy_part = b.slice(dy, 3, group * units, (group + 1) * units)
        if wanted[0]:
            dxs.append(_conv_2d_input(b, x.shape, _units(b, w, group * units, units), dy_part, window))
        if wanted[1]:
            x_part = b.slice(x, 3, group * depth, (group + 1) * depth)
            dws.append(_conv_2d_filter(b, x_part, (units, *w.shape[1:]), dy_part, window))
    gradients: list[Tensor | None] = [None] * len(wanted)
    if wanted[0]:
        gradients[0] = dxs[0] if groups == 1 else b.concat(dxs, axis=3)
    if wanted[1]:
        gradients[1] = dws[0] if groups == 1 else b.concat(dws, axis=0)
    if len(wanted) > 2 and wanted[2]:
        gradients[2] = b.sum(dy, [0, 1, 2])
    return gradients


def _units(b: GraphBuilder, w: Tensor, begin: int, count: int) -> Tensor:
    """Some output channels of a filter OHWI; all of them without an op."""
    if count == w.shape[0]:
        return w
    if w.data is not None:
        return b.const(w.data[begin : begin + count], f"{w.name}/group")
    return b.slice(w, 0, begin, begin + count)


def _conv_2d_input(b: GraphBuilder, shape: tuple[int, ...], w: Tensor, dy: Tensor, window: Window) -> Tensor:
    """The gradient of an image of `shape`, whose channels are those of `w` [units, h, w, depth]."""
    units, depth = w.shape[0], w.shape[3]
    shape = (*shape[:3], depth)
    if window.size == (1, 1):  # a product with the weights as they are, on the small grid; then the zeros of a stride
        product = b.matmul(b.reshape(dy, (dy.size // units, units)), b.reshape(w, (units, depth)))
        return spread(b, b.reshape(product, (*dy.shape[:3], depth)), window, shape)[0]
    filters = adjoint_filter(b, w)
    options = _dilation(window)
    apart, padding = spread(b, dy, window, shape)
    return b.conv_2d(apart, filters, None, Padding=padding, **options)


def _conv_2d_filter(b: GraphBuilder, x: Tensor, shape: tuple[int, ...], dy: Tensor, window: Window) -> Tensor:
    """The gradient of a filter of `shape`, OHWI."""
    n, rows, columns, units = dy.shape
    depth = x.shape[3]
    flat = b.reshape(dy, (n * rows * columns, units))
    parts = [
        weight_gradient(b, b.reshape(tap, (n * rows * columns, depth)), flat, samples=n)
        for tap in taps(b, x, window, rows, columns)
    ]
    if len(parts) == 1:
        return b.reshape(parts[0], shape)
    return b.reshape(b.concat([b.reshape(part, (units, 1, depth)) for part in parts], axis=1), shape)


@gradient("DEPTHWISE_CONV_2D")
def _depthwise(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Gradients:
    """dx: depthwise convolution of dy with the flipped filter; dW: Σ tap·dy for each tap; db = Σ dy"""
    x, w = op.input(0), op.input(1)
    window = window_of(op, (w.shape[1], w.shape[2]))
    gradients: list[Tensor | None] = [None] * len(wanted)
    if wanted[0]:
        gradients[0] = _depthwise_input(b, x, w, dy, window)
    if wanted[1]:
        gradients[1] = _depthwise_filter(b, x, w, dy, window)
    if len(wanted) > 2 and wanted[2]:
        gradients[2] = b.sum(dy, [0, 1, 2])
    return gradients


def _depthwise_input(b: GraphBuilder, x: Tensor, w: Tensor, dy: Tensor, window: Window) -> Tensor:
    channels, multiplier = x.shape[3], w.shape[3] // x.shape[3]
    options = _dilation(window)
    apart, options["Padding"] = spread(b, dy, window, x.shape)
    if multiplier == 1:
        filters = _now_or_in_graph(b, w, lambda data: data[:, ::-1, ::-1, :], lambda tensor: _flipped(b, tensor))
        return b.depthwise_conv_2d(apart, filters, None, **options)
    # The channels that one input channel fed come back together: a convolution with a group for each of them.
    split = (*window.size, channels, multiplier)
    filters = _now_or_in_graph(
        b,
        w,
        lambda data: data[0, ::-1, ::-1, :].reshape(split).transpose(2, 0, 1, 3),
        lambda tensor: b.transpose(b.reshape(_flipped(b, tensor), split), (2, 0, 1, 3)),
    )
    return b.conv_2d(apart, filters, None, **options)


def _depthwise_filter(b: GraphBuilder, x: Tensor, w: Tensor, dy: Tensor, window: Window) -> Tensor:
    n, rows, columns, _ = dy.shape
    channels, multiplier = x.shape[3], w.shape[3] // x.shape[3]
    products = []
    for tap in taps(b, x, window, rows, columns):
        if multiplier == 1:
            products.append(b.sum(b.mul(tap, dy), [0, 1, 2]))
        else:
            fed = b.reshape(dy, (n * rows * columns, channels, multiplier))
            products.append(b.sum(b.mul(b.reshape(tap, (n * rows * columns, channels, 1)), fed), [0]))
    return b.reshape(products[0] if len(products) == 1 else b.concat(products, axis=0), w.shape)


@gradient("TRANSPOSE_CONV")
def _transpose_conv(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Gradients:
    """dx: convolution of dy with the filter; dW: a product for each tap of dy; db = Σ dy"""
    w, x = op.input(1), op.input(2)
    window = window_of(op, (w.shape[1], w.shape[2]), over=dy.shape)
    gradients: list[Tensor | None] = [None] * len(wanted)
    if wanted[1]:  # x and dy change places: w is IHWO for the convolution that this op is the adjoint of
        swapped = (w.shape[3], *window.size, w.shape[0])
        gradients[1] = b.transpose(_conv_2d_filter(b, dy, swapped, x, window), (3, 1, 2, 0))
    if wanted[2]:
        filters = _now_or_in_graph(
            b, w, lambda data: data.transpose(3, 1, 2, 0), lambda tensor: b.transpose(tensor, (3, 1, 2, 0))
        )
        fields = {name: op.options.integer(name, 1) for name in ("StrideH", "StrideW")}
        gradients[2] = b.conv_2d(dy, filters, None, Padding=op.options.integer("Padding"), **fields)
    if len(wanted) > 3 and wanted[3]:
        gradients[3] = b.sum(dy, [0, 1, 2])
    return gradients
