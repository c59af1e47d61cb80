"""Convolutions and matrix products."""

from __future__ import annotations

from hypothesis import strategies as st

from signatures.shapes import SAME, VALID, window_output
from tests.oracles.gradient_check import Case
from tests.properties.strategies.sketch import Shape, Sketch

Fields = dict[str, int]


def window(s: Sketch, filters: tuple[int, int], dilated: bool = True) -> tuple[tuple[int, int], Fields]:
    """Size of an image that the window fits into, and the options that say how it moves."""
    stride = s.pair(1, 3)
    dilation = s.pair(1, 3) if dilated else (1, 1)
    padding = s.pick(SAME, VALID)
    span = [(filters[i] - 1) * dilation[i] + 1 for i in (0, 1)]
    least = [side if padding == VALID else 1 for side in span]
    size = s.integer(least[0], span[0] + 4), s.integer(least[1], span[1] + 4)
    fields = {"Padding": padding, "StrideH": stride[0], "StrideW": stride[1]}
    return size, {**fields, **({"DilationHFactor": dilation[0], "DilationWFactor": dilation[1]} if dilated else {})}


@st.composite
def conv_2d(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "CONV_2D")
    filters = s.pair(1, 4)
    size, fields = window(s, filters)
    groups = s.pick(1, 1, 2, 3)
    depth, units = s.integer(1, 4), groups * s.integer(1, 4)
    shapes: list[Shape] = [(s.integer(1, 3), *size, groups * depth), (units, *filters, depth), (units,)]
    return s.case(s.fused("CONV_2D", s.operands(shapes), "Conv2DOptions", **fields))


@st.composite
def depthwise_conv_2d(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "DEPTHWISE_CONV_2D")
    filters = s.pair(1, 4)
    size, fields = window(s, filters)
    depth, multiplier = s.integer(1, 4), s.integer(1, 3)
    units = depth * multiplier
    shapes: list[Shape] = [(s.integer(1, 3), *size, depth), (1, *filters, units), (units,)]
    fields["DepthMultiplier"] = multiplier
    return s.case(s.fused("DEPTHWISE_CONV_2D", s.operands(shapes), "DepthwiseConv2DOptions", **fields))


@st.composite
def transpose_conv(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "TRANSPOSE_CONV")
    filters = s.pair(1, 4)
    size, fields = window(s, filters, dilated=False)
    batch, depth, units = s.integer(1, 3), s.integer(1, 4), s.integer(1, 4)
    strides = fields["StrideH"], fields["StrideW"]
    small = tuple(window_output(size[i], filters[i], strides[i], 1, fields["Padding"]) for i in (0, 1))
    shapes: list[Shape] = [(batch, *small, depth), (units, *filters, depth), (units,)][: s.pick(2, 3)]
    x, w, *bias = s.operands(shapes)
    inputs = [s.b.ints([batch, *size, units], "output_shape"), w, x, *bias]
    if not bias:  # between the stamps of a small filter the image is 0, a kink of every activation
        return s.op("TRANSPOSE_CONV", inputs, "TransposeConvOptions", **fields)
    return s.case(s.fused("TRANSPOSE_CONV", inputs, "TransposeConvOptions", **fields))


@st.composite
def fully_connected(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "FULLY_CONNECTED")
    units, depth, keep = s.integer(1, 6), s.integer(1, 6), s.flag()
    # Without KeepNumDims, rows may be cut elsewhere than they end.
    lead = s.shape(1, 3)
    shape = (*lead, depth) if keep or s.flag() else (*lead, depth * s.integer(1, 3))
    shapes: list[Shape] = [shape, (units, depth), (units,)][: s.pick(2, 3)]
    return s.case(s.fused("FULLY_CONNECTED", s.operands(shapes), "FullyConnectedOptions", KeepNumDims=keep))


@st.composite
def batch_matmul(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "BATCH_MATMUL")
    adj_x, adj_y = s.flag(), s.flag()
    rows, inner, columns = (s.integer(1, 5) for _ in range(3))
    left, right = s.broadcast_shapes(3)
    stretched = any(b == 1 < a for a, b in zip(left[::-1], right[::-1], strict=False))
    if adj_x and stretched:  # tflite-runtime 2.14.0 is wrong then
        right = ()
    shapes = [
        (*left, *((inner, rows) if adj_x else (rows, inner))),
        (*right, *((columns, inner) if adj_y else (inner, columns))),
    ]
    return s.op("BATCH_MATMUL", s.operands(shapes), "BatchMatMulOptions", AdjX=adj_x, AdjY=adj_y)


STRATEGIES = {
    "CONV_2D": conv_2d(),
    "DEPTHWISE_CONV_2D": depthwise_conv_2d(),
    "TRANSPOSE_CONV": transpose_conv(),
    "FULLY_CONNECTED": fully_connected(),
    "BATCH_MATMUL": batch_matmul(),
}
