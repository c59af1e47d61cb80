"""Gradients of ops that give the same values another shape or order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from signatures.builder import GraphBuilder
from signatures.gradients.elementwise import unbroadcast
from signatures.gradients.registry import Gradients, gradient
from signatures.graph import Op, Options, Tensor
from signatures.shapes import constant_ints


@gradient("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
def _reshape(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Gradients:
    """dy in the shape of x"""
    return [b.reshape(dy, op.input(0).shape)] + [None] * (len(wanted) - 1)


@gradient("TRANSPOSE")
def _transpose(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy with the axes put back"""
    axes = constant_ints(op.input(1))
    return b.transpose(dy, [int(axis) for axis in np.argsort(axes)]), None


@gradient("REVERSE_V2")
def _reverse(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy reversed along the same axes, one at a time (FACTS §1)"""
    for axis in constant_ints(op.input(1)):
        dy = b.reverse(dy, axis)
    return dy, None


@gradient("TILE")
def _tile(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """Σ dy over the copies"""
    for axis, (side, copies) in enumerate(zip(op.input(0).shape, constant_ints(op.input(1)), strict=True)):
        before, after = dy.shape[:axis], dy.shape[axis + 1 :]
        if copies > 1:
            flat = (int(np.prod(before)), copies, side * int(np.prod(after)))
            dy = b.reshape(b.sum(b.reshape(dy, flat), [1]), (*before, side, *after))
    return dy, None


@gradient("BROADCAST_TO")
def _broadcast_to(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """Σ dy over the copies"""
    return unbroadcast(b, dy, op.input(0).shape), None


@gradient("SPACE_TO_DEPTH", "DEPTH_TO_SPACE")
def _space_and_depth(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy by the opposite op"""
    opposite = {"SPACE_TO_DEPTH": "DEPTH_TO_SPACE", "DEPTH_TO_SPACE": "SPACE_TO_DEPTH"}[op.kind]
    table = {"SPACE_TO_DEPTH": "SpaceToDepthOptions", "DEPTH_TO_SPACE": "DepthToSpaceOptions"}[opposite]
    return [b.emit(opposite, (dy,), Options(table, {"BlockSize": op.options.integer("BlockSize", 1)}))]
