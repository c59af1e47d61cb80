"""Pools, reductions, resizing and normalisation."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from signatures.graph import Array
from tests.oracles.gradient_check import Case, distinct, normal, wide_rows
from tests.properties.strategies.products import window
from tests.properties.strategies.sketch import Shape, Sketch


def _off_centre(random: np.random.Generator, scale: float, shape: Shape) -> Array:
    """Distinct values, mostly negative or positive, as it needs to have maxima on both sides of a kink."""
    return distinct(random, scale, shape) - scale * random.uniform(-0.5, 1.5)


POOLS = {"AVERAGE_POOL_2D": normal, "MAX_POOL_2D": _off_centre}
REDUCTIONS = {"MEAN": normal, "SUM": normal, "REDUCE_MAX": distinct, "REDUCE_MIN": distinct}
RESIZES = {
    "RESIZE_BILINEAR": "ResizeBilinearOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
}


@st.composite
def pool(draw: st.DrawFn, kind: str) -> Case:
    s = Sketch(draw, kind)
    filters = s.pair(1, 4)
    size, fields = window(s, filters, dilated=False)
    x = s.x((s.integer(1, 3), *size, s.integer(1, 4)), POOLS[kind])
    fields |= {"FilterHeight": filters[0], "FilterWidth": filters[1]}
    return s.case(s.fused(kind, [x], "Pool2DOptions", **fields))


@st.composite
def reduction(draw: st.DrawFn, kind: str) -> Case:
    """Over five axes the kernels work, but the gradient is a product that tflite-runtime 2.14.0 ends the process at."""
    s = Sketch(draw, kind)
    shape = s.shape(1, 4)
    x = s.x(shape, REDUCTIONS[kind])
    return s.op(kind, [x, s.b.ints(s.axes(len(shape)), "axes")], "ReducerOptions", KeepDims=s.flag())


@st.composite
def resize(draw: st.DrawFn, kind: str) -> Case:
    """Up, down, or one of each; the two ways to place pixels exclude each other."""
    s = Sketch(draw, kind)
    corners, centers = s.pick((False, False), (True, False), (False, True))
    x = s.x((s.integer(1, 3), *s.pair(1, 6), s.integer(1, 3)))
    size = s.b.ints(s.pair(1, 9), "size")
    return s.op(kind, [x, size], RESIZES[kind], AlignCorners=corners, HalfPixelCenters=centers)


@st.composite
def softmax(draw: st.DrawFn) -> Case:
    """Of one class it is constant, so there are two at least; the same goes for the others here."""
    s = Sketch(draw, "SOFTMAX")
    x = s.x((*s.shape(0, 4), s.integer(2, 6)), wide_rows)
    return s.op("SOFTMAX", [x], "SoftmaxOptions", Beta=s.pick(1.0, 0.5, 2.0))


@st.composite
def log_softmax(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "LOG_SOFTMAX")
    return s.op("LOG_SOFTMAX", [s.x((*s.shape(0, 4), s.integer(2, 6)), wide_rows)])


@st.composite
def l2_normalization(draw: st.DrawFn) -> Case:
    """The kernel takes up to four axes."""
    s = Sketch(draw, "L2_NORMALIZATION")
    return s.op("L2_NORMALIZATION", [s.x((*s.shape(0, 3), s.integer(2, 6)))], "L2NormOptions")


STRATEGIES = {
    **{kind: pool(kind) for kind in POOLS},
    **{kind: reduction(kind) for kind in REDUCTIONS},
    **{kind: resize(kind) for kind in RESIZES},
    "SOFTMAX": softmax(),
    "LOG_SOFTMAX": log_softmax(),
    "L2_NORMALIZATION": l2_normalization(),
}
