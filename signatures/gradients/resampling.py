"""Gradients of padding and of resizing: linear maps along single axes.

Where pixels are repeated or mixed, the map along an axis is a small constant matrix, and its adjoint a product with
the transposed matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from signatures.builder import GraphBuilder
from signatures.gradients.registry import Gradients, gradient
from signatures.graph import Array, Op, Options, Tensor
from signatures.shapes import constant_ints

_REFLECT = 0
"""The schema's MirrorPadMode; the other is SYMMETRIC."""


def along_axis(b: GraphBuilder, x: Tensor, axis: int, matrix: Array) -> Tensor:
    """Σ_j matrix[i, j] · x[…, j, …] along `axis`; matrix float32 [new side, old side]."""
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    flat = b.reshape(x, (math.prod(before), x.shape[axis], math.prod(after)))
    # Both operands with the same batch of 1 or more: a constant left side is broadcast over x's leading axes.
    product = b.matmul(b.const(matrix[None], "map"), flat)
    return b.reshape(product, (*before, matrix.shape[0], *after))


@gradient("PAD", "PADV2")
def _pad(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Gradients:
    """dy without the border"""
    before = constant_ints(op.input(1))[0::2]
    ends = [begin + side for begin, side in zip(before, op.input(0).shape, strict=True)]
    return [b.strided_slice(dy, before, ends, [1] * len(before))] + [None] * (len(wanted) - 1)


@gradient("MIRROR_PAD")
def _mirror_pad(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy, with the border folded back"""
    mode = "reflect" if op.options.integer("Mode") == _REFLECT else "symmetric"
    for axis, (before, after) in enumerate(np.reshape(constant_ints(op.input(1)), (-1, 2))):
        if before or after:
            side = op.input(0).shape[axis]
            sources = np.pad(np.arange(side), (int(before), int(after)), mode=mode)  # type: ignore[call-overload]
            dy = along_axis(b, dy, axis, (np.arange(side)[:, None] == sources).astype(np.float32))
    return dy, None


@gradient("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
def _resize(b: GraphBuilder, op: Op, dy: Tensor, _wanted: Sequence[bool]) -> Gradients:
    """dy by the transposed interpolation, height and width apart"""
    x = op.input(0)
    weights = _bilinear if op.kind == "RESIZE_BILINEAR" else _nearest
    for axis in (2, 1):
        dy = along_axis(b, dy, axis, np.ascontiguousarray(weights(x.shape[axis], dy.shape[axis], op.options).T))
    return dy, None


def _scale(old: int, new: int, options: Options) -> np.float32:
    if options.flag("AlignCorners") and new > 1:
        return np.float32(old - 1) / np.float32(new - 1)
    return np.float32(old) / np.float32(new)


def _bilinear(old: int, new: int, options: Options) -> Array:
    """Interpolation along one axis as float32 [new, old]: TFLite's reference kernel, in float32 as there."""
    scale, half = _scale(old, new, options), np.float32(0.5 if options.flag("HalfPixelCenters") else 0.0)
    places = (np.arange(new, dtype=np.float32) + half) * scale - half
    lower = np.maximum(np.floor(places), 0).astype(int)
    upper = np.minimum(np.ceil(places), old - 1).astype(int)
    matrix = np.zeros((new, old), np.float32)
    for i, place in enumerate(places):
        matrix[i, lower[i]] += 1 - (place - lower[i])
        matrix[i, upper[i]] += place - lower[i]
    return matrix


def _nearest(old: int, new: int, options: Options) -> Array:
    """The same for the nearest neighbour."""
    offset = np.float32(0.5 if options.flag("HalfPixelCenters") else 0.0)
    places = (np.arange(new, dtype=np.float32) + offset) * _scale(old, new, options)
    rounded = np.floor(places + np.float32(0.5)) if options.flag("AlignCorners") else np.floor(places)
    nearest = np.clip(rounded.astype(int), 0, old - 1)
    matrix: Array = (nearest[:, None] == np.arange(old)).astype(np.float32)
    return matrix
