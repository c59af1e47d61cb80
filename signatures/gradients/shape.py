"""Gradients of ops that only move values: reshape, transpose, squeeze, pad, concatenation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from signatures.builder import GraphBuilder
from signatures.gradients.registry import gradient
from signatures.graph import Op, Tensor
from signatures.shapes import constant_ints


@gradient("RESHAPE", "SQUEEZE")
def _reshape(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Sequence[Tensor | None]:
    return [b.reshape(dy, op.input(0).shape)] + [None] * (len(wanted) - 1)


@gradient("TRANSPOSE")
def _transpose(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Sequence[Tensor | None]:
    axes = constant_ints(op.input(1))
    return b.transpose(dy, [int(axis) for axis in np.argsort(axes)]), None


@gradient("PAD")
def _pad(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Sequence[Tensor | None]:
    before = constant_ints(op.input(1))[0::2]
    ends = [begin + side for begin, side in zip(before, op.input(0).shape, strict=True)]
    return b.strided_slice(dy, before, ends, [1] * len(before)), None


@gradient("CONCATENATION")
def _concatenation(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Sequence[Tensor | None]:
    axis = op.options.integer("Axis") % len(dy.shape)
    gradients: list[Tensor | None] = []
    begin = 0
    for i, want in enumerate(wanted):
        end = begin + op.input(i).shape[axis]
        if want:
            begins = [begin if k == axis else 0 for k in range(len(dy.shape))]
            ends = [end if k == axis else side for k, side in enumerate(dy.shape)]
            gradients.append(b.strided_slice(dy, begins, ends, [1] * len(ends)))
        else:
            gradients.append(None)
        begin = end
    return gradients
