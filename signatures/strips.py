"""Strips: a few rows of every value of a graph at a time, so that none is ever whole.

Rows are those of the second axis: of pixels [1, height, width, channels] or of tokens [1, tokens, features]. Where
every op works on rows near one another, the rows of a result follow from as many of the input and a few around, the
halo. A strip is the graph for some rows of all that is wanted: an ordinary graph for one image of that height, with the
zeros of a padding only where the image ends. Every wanted row belongs to one strip.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from signatures.builder import GraphBuilder
from signatures.graph import Graph, Op, Tensor
from signatures.shapes import (
    ARITHMETIC,
    ELEMENTWISE,
    LAST_AXIS,
    VALID,
    constant_ints,
    infer,
    reduced_axes,
    window_padding,
)

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_POOLS = ("AVERAGE_POOL_2D", "MAX_POOL_2D")
Rows = tuple[int, int]
"""First row and the one behind the last."""
Steps = Mapping[Tensor, int]
"""Of every value that has rows of pixels: over how many rows of the graph's input its rows step."""


@dataclass(frozen=True, eq=False)
class Strip:
    """Some rows of everything that a graph makes."""

    own: Mapping[Tensor, Rows]
    """Rows of each wanted value that belong to this strip."""
    needed: Mapping[Tensor, Rows]
    """Rows of each value that they take, the wanted ones included; inputs without rows are left out: all of them."""

    def shape(self, graph: Graph) -> tuple[object, ...]:
        """What two strips of `graph` have in common that `strip_graph` makes the same graph for."""
        key: list[object] = []
        for op in graph.ops:
            first, end = self.needed[op.output]
            own = self.own.get(op.output, (first, first))
            key.append((end - first, own[0] - first, own[1] - first))
            for tensor in op.inputs:
                if tensor is not None and tensor in self.needed:
                    (low, high), pads = _reach(op, tensor, (first, end))
                    begin, stop = self.needed[tensor]
                    key.append((low - begin, high - begin, stop - begin, pads))
        return tuple(key)


def row_steps(graph: Graph) -> Steps | None:
    """The steps of a graph whose ops all work on rows near one another; None for any other graph.

    Inputs of three or four axes with more than one row have rows, all the same number; others are used whole.
    """
    steps: dict[Tensor, int] = {t: 1 for t in graph.inputs if len(t.shape) in (3, 4) and t.shape[1] > 1}
    if len({t.shape[1] for t in steps}) != 1 or any(t.shape[0] != 1 for t in steps):
        return None
    for op in graph.ops:
        striped = [t for t in op.inputs if t is not None and t in steps]
        if not striped or len(op.outputs) != 1 or len({steps[t] for t in striped}) > 1 or not _is_local(op, steps):
            return None
        steps[op.output] = steps[striped[0]] * _stride(op)
    return steps


def _stride(op: Op) -> int:
    return op.options.integer("StrideH", 1) if op.kind in (*_CONVOLUTIONS, *_POOLS) else 1


def _is_local(op: Op, steps: Steps) -> bool:
    x, y = op.input(0), op.output
    rank = len(y.shape)
    if rank not in (3, 4) or y.shape[0] != 1:
        return False
    if op.kind in _CONVOLUTIONS:
        return x in steps and op.input(1).data is not None
    if op.kind in _POOLS:  # what lies outside the image is no zero to them
        return not any(_padding(op, 1)) and not any(_padding(op, 2))
    if op.kind == "FULLY_CONNECTED":
        return x in steps and op.input(1).data is not None and op.options.flag("KeepNumDims")
    if op.kind == "PAD":
        return op.input(1).data is not None and not any(constant_ints(op.input(1))[:2])
    if op.kind in ("MEAN", "SUM"):
        return op.options.flag("KeepDims") and reduced_axes(rank, op.input(1)) == (rank - 1,)
    if op.kind in ARITHMETIC:
        return all(
            tensor.shape[:2] == y.shape[:2] if tensor in steps else _is_same_for_all_rows(tensor, rank)
            for tensor in (op.input(0), op.input(1))
        )
    if op.kind == "CONCATENATION":
        return op.options.integer("Axis") % rank == rank - 1 and all(tensor in steps for tensor in op.inputs)
    return op.kind in ELEMENTWISE or op.kind in LAST_AXIS


def _is_same_for_all_rows(tensor: Tensor, rank: int) -> bool:
    """Whether broadcasting gives every row of a result of `rank` axes the same."""
    axis = 1 - rank + len(tensor.shape)
    return axis < 0 or tensor.shape[axis] == 1


def _window(op: Op, axis: int) -> tuple[int, int, int]:
    """Window, stride and dilation along rows (axis 1) or columns (axis 2)."""
    letter, name = ("H", "Height") if axis == 1 else ("W", "Width")
    window = op.options.integer(f"Filter{name}", 1) if op.kind in _POOLS else op.input(1).shape[axis]
    return window, op.options.integer(f"Stride{letter}", 1), op.options.integer(f"Dilation{letter}Factor", 1)


def _padding(op: Op, axis: int) -> tuple[int, int]:
    window, stride, dilation = _window(op, axis)
    return window_padding(op.input(0).shape[axis], window, stride, dilation, op.options.integer("Padding"))


def _reach(op: Op, tensor: Tensor, rows: Rows) -> tuple[Rows, tuple[int, int]]:
    """Rows of the input `tensor` that some rows of the result take, and how many rows of padding above and below."""
    first, end = rows
    if op.kind in (*_CONVOLUTIONS, *_POOLS):
        window, stride, dilation = _window(op, 1)
        low = first * stride - _padding(op, 1)[0]
        high = low + (end - first - 1) * stride + (window - 1) * dilation + 1
    elif op.kind == "PAD":
        above = constant_ints(op.input(1))[2]
        low, high = first - above, end - above
    else:
        low, high = rows
    height = tensor.shape[1]
    inside = max(0, low), min(height, high)
    return inside, (max(0, -low), max(0, high - height))


def strip(graph: Graph, steps: Steps, own: Mapping[Tensor, Rows]) -> Strip:
    """What the rows `own` of the wanted values take; all of `graph` has a bearing on them."""
    needed = dict(own)
    for op in reversed(graph.ops):
        if op.kind == "PAD":  # whose result cannot be padding alone
            above, height = constant_ints(op.input(1))[2], op.input(0).shape[1]
            first, end = needed[op.output]
            needed[op.output] = min(first, above + height - 1), max(end, above + 1)
        for tensor in op.inputs:
            if tensor is not None and tensor in steps:
                (low, high), _ = _reach(op, tensor, needed[op.output])
                begin, stop = needed.get(tensor, (low, high))
                needed[tensor] = min(begin, low), max(stop, high)
    return Strip(own, needed)


def strips(graph: Graph, steps: Steps, wanted: Sequence[Tensor], height: int) -> tuple[Strip, ...]:
    """All strips of `height` rows of the coarsest value (the last may have fewer), from top to bottom.

    `wanted`: results of ops, on which all of `graph` has a bearing.
    """
    return tuple(
        strip(graph, steps, own_rows(steps, wanted, height, k)) for k in range(strip_count(steps, wanted, height))
    )


def own_rows(steps: Steps, wanted: Sequence[Tensor], height: int, k: int) -> dict[Tensor, Rows]:
    """Rows of the wanted values that belong to strip `k`."""
    own = {}
    last = strip_count(steps, wanted, height) - 1
    for tensor in wanted:
        rows = height * coarsest(steps) // steps[tensor]
        own[tensor] = k * rows, tensor.shape[1] if k == last else (k + 1) * rows
    return own


def coarsest(steps: Steps) -> int:
    """Rows of the input that one row of the coarsest value stands for."""
    return math.lcm(*steps.values())


def strip_count(steps: Steps, wanted: Sequence[Tensor], height: int) -> int:
    """How many strips of `height` rows there are."""
    span = height * coarsest(steps)
    return max(1, min(-(-tensor.shape[1] // (span // steps[tensor])) for tensor in wanted))


def strip_graph(graph: Graph, steps: Steps, one: Strip, wanted: Sequence[Tensor]) -> Graph:
    """The graph of a strip: the inputs of `graph`, of the rows that are needed; outputs: the own rows of `wanted`."""
    b = GraphBuilder(graph.name)
    made: dict[Tensor, Tensor] = {}
    for source in graph.inputs:
        first, end = one.needed.get(source, (0, 1))
        shape = (1, end - first, *source.shape[2:]) if source in steps else source.shape
        made[source] = b.input(source.name, shape, source.dtype)
    for op in graph.ops:
        inputs: list[Tensor | None] = []
        pads = 0, 0
        for tensor in op.inputs:
            if tensor is None or tensor not in steps:
                inputs.append(None if tensor is None else made.get(tensor, tensor))
                continue
            (low, high), pads = _reach(op, tensor, one.needed[op.output])
            inputs.append(_rows(b, made[tensor], one.needed[tensor], (low, high)))
        made[op.output] = _emit(b, op, inputs, pads)
    outputs = [_rows(b, made[tensor], one.needed[tensor], one.own[tensor]) for tensor in wanted]
    return b.graph(outputs)


def _rows(b: GraphBuilder, x: Tensor, have: Rows, want: Rows) -> Tensor:
    return b.slice(x, 1, want[0] - have[0], want[1] - have[0])


def _emit(b: GraphBuilder, op: Op, inputs: list[Tensor | None], pads: tuple[int, int]) -> Tensor:
    options, x = op.options, inputs[0]
    assert x is not None
    if op.kind == "PAD":
        pairs = np.array(constant_ints(op.input(1))).reshape(-1, 2)
        pairs[1] = pads
        inputs[1] = b.ints([(int(a), int(c)) for a, c in pairs], "paddings")
    elif op.kind in _CONVOLUTIONS and (any(pads) or any(_padding(op, 2))):
        inputs[0] = b.pad(x, [(0, 0), pads, _padding(op, 2), (0, 0)])
        options = options.replace(Padding=VALID)
    elif op.kind in (*_CONVOLUTIONS, *_POOLS):
        options = options.replace(Padding=VALID)
    shape, dtype = infer(op.kind, inputs, options)
    output = Tensor(b.unique(op.output.name), shape, dtype)
    b.ops.append(Op(op.kind, tuple(inputs), (output,), options, op.version))
    return output
