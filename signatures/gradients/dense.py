"""Gradients of matrix products: FULLY_CONNECTED and BATCH_MATMUL."""

from __future__ import annotations

from collections.abc import Sequence

from signatures.builder import GraphBuilder
from signatures.gradients.elementwise import unbroadcast
from signatures.gradients.registry import Gradients, gradient
from signatures.graph import Op, Tensor


def weight_gradient(b: GraphBuilder, x: Tensor, dy: Tensor, samples: int = 1) -> Tensor:
    """Σ_p dy[p, o] · x[p, i] as [o, i], for x [p, i] and dy [p, o].

    `samples` says that the p rows are that many images. Where the product of one image is no larger than its
    operands, the images are multiplied apart and then added: short sums are faster under XNNPACK and 10 times more
    exact than one float32 sum over 10⁵ pixels. The smaller operand is the one that gets transposed.
    """
    (rows, inner), outer = x.shape, dy.shape[1]
    pixels = rows // samples
    groups = samples if min(inner, outer) <= pixels else 1
    x = b.reshape(x, (groups, rows // groups, inner))
    dy = b.reshape(dy, (groups, rows // groups, outer))
    if outer <= inner:
        return b.sum(b.matmul(b.transpose(dy, (0, 2, 1)), x), [0])
    return b.transpose(b.sum(b.matmul(b.transpose(x, (0, 2, 1)), dy), [0]), (1, 0))


@gradient("FULLY_CONNECTED")
def _fully_connected(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Gradients:
    """dx = dy·W, dW = dyᵀ·x, db = Σ dy"""
    x, w = op.input(0), op.input(1)
    units, depth = w.shape
    dy = b.reshape(dy, (dy.size // units, units))
    gradients: list[Tensor | None] = [None] * len(wanted)
    if wanted[0]:
        gradients[0] = b.reshape(b.matmul(dy, w), x.shape)  # as fast as a transposed copy, and no copy
    if wanted[1]:
        gradients[1] = weight_gradient(b, b.reshape(x, (x.size // depth, depth)), dy)
    if len(wanted) > 2 and wanted[2]:
        gradients[2] = b.sum(dy, [0])
    return gradients


@gradient("BATCH_MATMUL", kernels="tflite-runtime 2.14.0 is wrong on AdjX where y repeats along a batch side of x")
def _batch_matmul(b: GraphBuilder, op: Op, dy: Tensor, wanted: Sequence[bool]) -> Gradients:
    """dy·yᵀ and xᵀ·dy, summed over a broadcast batch"""
    x, y = op.input(0), op.input(1)
    adj_x, adj_y = op.options.flag("AdjX"), op.options.flag("AdjY")
    dx = dw = None
    if wanted[0]:  # z = x·y: dx = dz·yᵀ; z = xᵀ·y: dx = y·dzᵀ
        dx = _matmul(b, y, dy, adj_y, True) if adj_x else _matmul(b, dy, y, False, not adj_y)
        dx = unbroadcast(b, dx, x.shape)
    if wanted[1]:  # z = x·y: dy = xᵀ·dz; z = x·yᵀ: dy = dzᵀ·x
        dw = _matmul(b, dy, x, True, adj_x) if adj_y else _matmul(b, x, dy, not adj_x, False)
        dw = unbroadcast(b, dw, y.shape)
    return dx, dw


def _matmul(b: GraphBuilder, x: Tensor, y: Tensor, adj_x: bool, adj_y: bool) -> Tensor:
    """As `b.matmul`. tflite-runtime 2.14.0 is wrong on AdjX where y is broadcast along the batch: transpose first."""
    if adj_x and x.shape[:-2] != y.shape[:-2]:
        rank = len(x.shape)
        return b.matmul(b.transpose(x, [*range(rank - 2), rank - 1, rank - 2]), y, adj_y=adj_y)
    return b.matmul(x, y, adj_x, adj_y)
