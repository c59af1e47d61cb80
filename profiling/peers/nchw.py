"""What a translation of a TFLite graph to a framework that puts channels before pixels needs to know of its ops."""

from __future__ import annotations

import numpy as np

from signatures.errors import InputError
from signatures.graph import Array, Op
from signatures.shapes import SAME

FILTER_AXES = {"CONV_2D": (0, 3, 1, 2), "DEPTHWISE_CONV_2D": (3, 0, 1, 2)}
"""Axes of TFLite's filters in the order [out, in, height, width]; for depthwise ones `in` is 1."""
AXES = {0: 0, 1: 2, 2: 3, 3: 1}
"""Axis of NHWC → axis of NCHW."""

Sides = tuple[int, int, int, int]
"""Zeros at left, right, top and bottom."""
NO_ZEROS: Sides = (0, 0, 0, 0)


def constant(op: Op, slot: int) -> Array:
    """A constant input of `op`; filters as [out, in, height, width]."""
    tensor = op.input(slot)
    assert tensor.data is not None
    value = np.reshape(tensor.data, tensor.shape)
    return np.ascontiguousarray(
        value.transpose(FILTER_AXES[op.kind]) if slot == 1 and op.kind in FILTER_AXES else value
    )


def zeros_of_pad(op: Op) -> Sides:
    """Zeros of a PAD of [1, H, W, C]; InputError if it pads anything else."""
    amounts = op.input(1).data
    if amounts is None or amounts.size != 8 or amounts.reshape(4, 2)[[0, 3]].any():
        raise InputError(f"PAD that makes {op.output.name!r} is not one of height and width: not translated")
    (_, (top, bottom), (left, right), _) = amounts.reshape(4, 2).tolist()
    return left, right, top, bottom


def strides_of(op: Op) -> tuple[int, int]:
    """Of height and width. InputError for a convolution that is not translated: dilated, or with a multiplier."""
    multiplied = op.kind == "DEPTHWISE_CONV_2D" and op.input(1).shape[3] != op.input(0).shape[3]
    if multiplied or op.options.integer("DilationWFactor", 1) != 1:
        raise InputError(f"the convolution {op.output.name!r} has a multiplier or dilation: not translated")
    return op.options.integer("StrideH"), op.options.integer("StrideW")


def zeros_of_convolution(op: Op, padded: Sides) -> Sides:
    """Zeros that a convolution sees: those of a PAD before it, which is left to it, and its own."""
    if op.options.integer("Padding") != SAME:
        return padded
    return tuple(a + b for a, b in zip(padded, same(op, NO_ZEROS), strict=True))  # type: ignore[return-value]


def same(op: Op, padded: Sides) -> Sides:
    """TFLite's SAME for a convolution whose input has `padded` zeros too many: the odd one is put behind."""
    _, height, width, _ = op.input(0).shape
    _, reach_y, reach_x, _ = op.input(1).shape
    stride_y, stride_x = strides_of(op)
    left, right, top, bottom = padded
    return *_around(width - left - right, reach_x, stride_x), *_around(height - top - bottom, reach_y, stride_y)


def _around(side: int, reach: int, stride: int) -> tuple[int, int]:
    total = max(0, (-(-side // stride) - 1) * stride + reach - side)
    return total // 2, total - total // 2
