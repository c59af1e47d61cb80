"""Gradients of ops that take parts of a tensor or put tensors together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from signatures.builder import GraphBuilder
from signatures.gradients.registry import Gradients, gradient
from signatures.gradients.resampling import along_axis
from signatures.graph import Op, Tensor
from signatures.shapes import constant_ints, slice_plan


@gradient("SLICE")
def _slice(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Gradients:
    """zeros with dy in its place"""
    begins = constant_ints(op.input(1))
    ranges = [range(begin, begin + side) for begin, side in zip(begins, op.output.shape, strict=True)]
    return [scattered(b, dy, ranges, op.input(0).shape)] + [None] * (len(wanted) - 1)


@gradient("STRIDED_SLICE")
def _strided_slice(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Gradients:
    """zeros with dy in its places"""
    ranges = slice_plan(op.inputs, op.options).ranges
    dx = scattered(b, b.reshape(dy, [len(r) for r in ranges]), ranges, op.input(0).shape)
    return [dx] + [None] * (len(wanted) - 1)


def scattered(b: GraphBuilder, dy: Tensor, ranges: Sequence[range], shape: tuple[int, ...]) -> Tensor:
    """Zeros of `shape` with dy where `ranges`, one an axis, point: the adjoint of a strided slice.

    RESHAPE and PAD put the zeros of a step between the values, one axis at a time.
    """
    for axis, positions in enumerate(ranges):
        if positions.step < 0 and len(positions) > 1:
            dy = b.reverse(dy, axis)
        step = abs(positions.step)
        if step > 1 and len(positions) > 1:
            before, after = dy.shape[:axis], dy.shape[axis + 1 :]
            outer, inner = int(np.prod(before)), int(np.prod(after))
            apart = b.pad(b.reshape(dy, (outer * len(positions), 1, inner)), [(0, 0), (0, step - 1), (0, 0)])
            apart = b.reshape(apart, (outer, len(positions) * step, inner))
            length = (len(positions) - 1) * step + 1
            dy = b.reshape(b.slice(apart, 1, 0, length), (*before, length, *after))
    borders = [(min(r[0], r[-1]), side - 1 - max(r[0], r[-1])) for r, side in zip(ranges, shape, strict=True)]
    return b.pad(dy, borders)


@gradient("GATHER", limits="constant positions, no batch dimensions")
def _gather(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """Σ dy at each position"""
    x, positions = op.input(0), constant_ints(op.input(1))
    axis = op.options.integer("Axis") % len(x.shape)
    dy = b.reshape(dy, (*x.shape[:axis], len(positions), *x.shape[axis + 1 :]))
    step = positions[1] - positions[0] if len(positions) > 1 else 1
    taken = range(positions[0], positions[0] + step * len(positions), step or 1)
    if positions == tuple(taken):  # a slice
        ranges = [taken if i == axis else range(side) for i, side in enumerate(x.shape)]
        return scattered(b, dy, ranges, x.shape), None
    hits = np.arange(x.shape[axis])[:, None] == np.array(positions)
    return along_axis(b, dy, axis, hits.astype(np.float32)), None


@gradient("CONCATENATION", kernels="tflite-runtime 2.14.0 refuses a fused activation")
def _concatenation(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Gradients:
    """each operand's part of dy"""
    axis = op.options.integer("Axis") % len(dy.shape)
    gradients: list[Tensor | None] = []
    begin = 0
    for i, want in enumerate(wanted):
        side = op.input(i).shape[axis]
        gradients.append(b.slice(dy, axis, begin, begin + side) if want else None)
        begin += side
    return gradients


@gradient("PACK")
def _pack(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Gradients:
    """each operand's part of dy"""
    axis = op.options.integer("Axis") % len(dy.shape)
    shape = op.input(0).shape
    return [b.reshape(b.slice(dy, axis, i, i + 1), shape) if want else None for i, want in enumerate(wanted)]
