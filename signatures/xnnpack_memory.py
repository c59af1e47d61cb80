"""What XNNPACK keeps for the ops that it took: packed weights, tables, and the workspace of all its parts.

Sources: XNNPACK src/runtime.c (xnn_plan_memory, operations in place), src/subgraph.c (what is fused), src/operators.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from signatures.arenas import Lifetime, arena_bytes, sharing
from signatures.graph import Graph, Op, Tensor
from signatures.shapes import VALID, reduced_axes
from signatures.xnnpack import VARIABLE_OPS, Part

CHANNEL_TILE = 32
"""XNNPACK pads the output channels of packed weights to its kernels' tile: 8 to 32."""
POINTER_BYTES = 8
"""Of an address, on a 64-bit machine."""
EXTRA_BYTES = 16
"""XNNPACK reads beyond a value's end, so every value has this more (XNN_EXTRA_BYTES)."""

Readers = Mapping[Tensor, AbstractSet[Op]]
"""Which ops read a tensor; `_OUTSIDE` stands for the caller, who reads the outputs."""


def kept_bytes(op: Op) -> int:
    """Bytes that XNNPACK keeps for one delegated op: packed weights, tables of pointers to pixels, and zeros."""
    if op.kind in ("CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"):
        filter_ = op.input(1)
        weights = _tiled(filter_.shape[0]) * (math.prod(filter_.shape[1:]) + 1) * 4
        return weights + _pointers(op)
    if op.kind == "DEPTHWISE_CONV_2D":
        filter_ = op.input(1)
        return _tiled(filter_.shape[3]) * (math.prod(filter_.shape[1:3]) + 1) * 4 + _pointers(op)
    if op.kind == "MAX_POOL_2D":
        return _pointers(op)
    if op.kind == "BATCH_MATMUL" and op.input(1).data is not None:
        return _product_operand(op)
    if op.kind in ("SUM", "MEAN"):  # zeros in the place of rows that a tile lacks, where the last axis stays
        x = op.input(0)
        axes = reduced_axes(len(x.shape), op.input(1))
        if axes and axes[-1] != len(x.shape) - 1:
            return 4 * math.prod(x.shape[axes[-1] + 1 :]) + EXTRA_BYTES
    return 0


def _pointers(op: Op) -> int:
    """Bytes of the table of pointers to the pixels under a window: for one image, however many there are."""
    if op.kind == "FULLY_CONNECTED":
        return 0
    options, (_, height, width, _) = op.options, op.output.shape
    if op.kind == "MAX_POOL_2D":
        rows, columns = options.integer("FilterHeight", 1), options.integer("FilterWidth", 1)
    else:
        rows, columns = op.input(1).shape[1:3]
    if op.kind in ("CONV_2D", "TRANSPOSE_CONV"):
        strides = options.integer("StrideH", 1), options.integer("StrideW", 1)
        return 0 if (rows, columns, *strides) == (1, 1, 1, 1) else height * width * rows * columns * POINTER_BYTES
    spread = options.integer("DilationWFactor", 1) > 1
    step = columns if spread else min(options.integer("StrideW", 1), columns)  # windows side by side share pointers
    return height * (rows * columns + (width - 1) * step * rows) * POINTER_BYTES


def _product_operand(op: Op) -> int:
    """The right side of a BATCH_MATMUL, packed: in tiles of columns, with a bias."""
    y = op.input(1)
    inner, columns = y.shape[-2:][:: -1 if op.options.flag("AdjY") else 1]
    return math.prod(y.shape[:-2]) * _tiled(columns) * (inner + 1) * 4


def _tiled(channels: int) -> int:
    return -(-channels // CHANNEL_TILE) * CHANNEL_TILE


_IN_PLACE = frozenset(
    {
        "ABS", "ADD", "CEIL", "COS", "DIV", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOG",
        "LOGISTIC", "MAXIMUM", "MINIMUM", "MUL", "NEG", "PRELU", "RELU", "RELU6", "RELU_N1_TO_1", "RESHAPE",
        "EXPAND_DIMS", "ROUND", "RSQRT", "SIN", "SOFTMAX", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "SUB", "TANH",
    }
)  # fmt: skip
"""Ops of which XNNPACK writes the result over an operand that no other op reads."""


def workspace_bytes(delegated: Sequence[Part], readers: Readers, gap_at_start: bool) -> tuple[int, int]:
    """Bytes of the shared workspace, and of the one that it took the place of: it grows part by part."""
    sizes = [_planned_bytes(part_values(part, readers), gap_at_start) for part in delegated]
    size = outgrown = 0
    for wanted in sizes:
        if wanted > size:
            size, outgrown = wanted, size
    return size, outgrown


def _planned_bytes(values: Sequence[Lifetime], gap_at_start: bool) -> int:
    """Bytes of one part's workspace.

    The planner of 2023 leaves gaps, and how many depends on how values of one size are ordered, which we do not know:
    the worse of first to last and last to first.
    """
    planned = arena_bytes(values, gap_at_start)
    if gap_at_start:
        return planned
    backwards = [Lifetime(value.n_bytes, -value.last, -value.first) for value in values]
    return max(planned, arena_bytes(backwards, gap_at_start))


def readers_of(graphs: Sequence[Graph]) -> Readers:
    """Which ops of `graphs` read each tensor."""
    readers: dict[Tensor, set[Op]] = {}
    for graph in graphs:
        for op in graph.ops:
            for tensor in op.inputs:
                if tensor is not None:
                    readers.setdefault(tensor, set()).add(op)
        for tensor in graph.outputs:
            readers.setdefault(tensor, set()).add(_OUTSIDE)
    return readers


_OUTSIDE = Op("OUTSIDE", (), ())


def part_values(part: Part, readers: Readers) -> list[Lifetime]:
    """What lies in the workspace while a delegated part runs; steps are positions among its ops."""
    inside = set(part.ops)
    step = {op: i for i, op in enumerate(part.ops)}
    made = (t for op in part.ops for t in op.outputs if t.dtype != "resource" and op.kind not in VARIABLE_OPS)
    internal = {t for t in made if readers.get(t, {_OUTSIDE}) <= inside}
    home: dict[Tensor, Tensor] = {}
    first: dict[Tensor, int] = {}
    last: dict[Tensor, int] = {}
    extra: list[Lifetime] = []
    for i, op in enumerate(part.ops):
        if op.kind == "BATCH_MATMUL" and op.input(1).data is None:
            extra.append(Lifetime(_product_operand(op), i, i))
        for output in op.outputs:
            if output not in internal:
                continue
            end = max(step[reader] for reader in readers[output])
            if is_fused(op, readers):  # its reader reads its operand
                source, made_here = op.inputs[0], False
            else:
                source, made_here = _overwritten(op, output, internal, readers), True
            if source is not None and source in home:
                root = home[source]
                home[output], last[root] = root, max(last[root], end)
            elif made_here:
                home[output], first[output], last[output] = output, i, end
    held = sharing(first, home)
    return [Lifetime(t.n_bytes + EXTRA_BYTES, i, last[t], tensors=held[t]) for t, i in first.items()] + extra


def _overwritten(op: Op, output: Tensor, internal: set[Tensor], readers: Readers) -> Tensor | None:
    if op.kind not in _IN_PLACE or len(readers[output]) != 1:
        return None
    for tensor in op.inputs:
        if tensor is not None and tensor in internal and len(readers[tensor]) == 1 and tensor.n_bytes == output.n_bytes:
            return tensor
    return None


def is_fused(op: Op, readers: Readers) -> bool:
    """Whether the only reader of what a delegated op makes does the op's work: a padding, or a transposed factor."""
    if op.kind not in ("PAD", "TRANSPOSE") or len(readers.get(op.output, ())) != 1:
        return False
    (reader,) = readers[op.output]
    parameter = op.input(1).data
    assert parameter is not None
    if op.kind == "PAD":
        before_after = parameter.reshape(-1, 2)
        spatial = len(before_after) == 4 and not before_after[[0, 3]].any()
        return spatial and reader.kind in _CONVOLUTIONS and reader.options.integer("Padding") == VALID
    *others, row, column = (int(axis) for axis in parameter.reshape(-1))
    swapped = others == list(range(len(others))) and row == column + 1
    return swapped and reader.kind == "BATCH_MATMUL" and reader.inputs[1] is op.output


_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
