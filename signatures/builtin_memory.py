"""Arenas of TFLite: what crosses between delegated parts, and what builtin kernels need beside their operands.

Sources: tensorflow/lite/arena_planner.cc (PlanAllocations, IdentifyInPlaceTensors), tensorflow/lite/kernels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from signatures.arenas import ALIGNMENT, Lifetime, arena_bytes, sharing
from signatures.graph import Graph, Op, Tensor
from signatures.xnnpack import Part

_SHARING = ("BITCAST", "EXPAND_DIMS", "RESHAPE", "SQUEEZE")
_ARITHMETIC = ("ADD", "DIV", "MUL", "SUB")


def graph_arena_bytes(graph: Graph, plan: Sequence[Part]) -> int:
    """Bytes of a graph's arena: values that a builtin op touches or that cross between delegated parts."""
    kept = sum(_kept_bytes(op) for part in plan if not part.delegated for op in part.ops)
    return arena_bytes(graph_values(graph, plan), gap_at_start=True) + ALIGNMENT + kept


def nodes_of(plan: Sequence[Part]) -> list[Part]:
    """What TFLite runs one after the other: delegated parts whole, builtin ops one by one."""
    return [
        node
        for part in plan
        for node in ([part] if part.delegated else [Part((op,), delegated=False) for op in part.ops])
    ]


def graph_values(graph: Graph, plan: Sequence[Part]) -> list[Lifetime]:
    """What lies in a graph's arena, but for what kernels keep; steps are positions in `nodes_of(plan)`, and arguments
    and results stay until after the last.
    """
    planned = nodes_of(plan)
    nodes = [node.ops for node in planned]
    kinds = [node.delegated for node in planned]
    reads = [dict.fromkeys(t for op in node for t in op.inputs if t is not None and t.data is None) for node in nodes]
    makes = [[t for op in node for t in op.outputs] for node in nodes]
    last = {t: i for i, tensors in enumerate(reads) for t in tensors}
    last.update(dict.fromkeys([*graph.outputs, *graph.inputs], len(nodes)))
    uses: dict[Tensor, int] = {}
    occurrences = [inputs if taken else node[0].inputs for node, inputs, taken in zip(nodes, reads, kinds, strict=True)]
    for tensors in [*occurrences, graph.outputs, graph.inputs]:
        for tensor in tensors:
            if tensor is not None:
                uses[tensor] = uses.get(tensor, 0) + 1
    home: dict[Tensor, Tensor] = {}
    first = dict.fromkeys(graph.inputs, 0)
    extra: list[Lifetime] = []
    for i, node in enumerate(nodes):
        source = None
        if not kinds[i]:
            (op,) = node
            extra += [Lifetime(n_bytes, i, i) for n_bytes in _temporaries(op)]
            source = _shared(op, graph, uses, home)
        for tensor in makes[i]:
            if tensor.dtype == "resource" or (kinds[i] and last.get(tensor, -1) <= i):
                continue
            if source is not None:
                root = home.get(source, source)
                home[tensor] = root
                last[root] = max(last.get(root, i), last.get(tensor, i))
            else:
                first[tensor] = i
                last.setdefault(tensor, i)
    pinned = set(graph.inputs)
    held = sharing(first, home)
    return [*(Lifetime(t.n_bytes, i, last[t], t in pinned, held[t]) for t, i in first.items()), *extra]


def _shared(op: Op, graph: Graph, uses: dict[Tensor, int], home: dict[Tensor, Tensor]) -> Tensor | None:
    """The operand whose buffer the result of a builtin op gets."""
    if op.kind not in (*_SHARING, *_ARITHMETIC) or op.output in graph.outputs:
        return None
    for tensor in op.inputs[: 1 if op.kind in _SHARING else 2]:
        if tensor is None or tensor.data is not None or tensor in graph.inputs:
            continue
        if op.kind in _SHARING:
            return tensor
        if tensor.n_bytes == op.output.n_bytes > 4 and uses[tensor] == 1 and uses[home.get(tensor, tensor)] == 1:
            return tensor
    return None


def _temporaries(op: Op) -> list[int]:
    """Bytes of what a builtin kernel needs in the arena while it runs."""
    if op.kind == "CONV_2D" and not _is_pointwise(op):
        return [_im2col_bytes(op)]
    if op.kind == "BATCH_MATMUL":  # both operands transposed; that of a constant is kept
        return [t.n_bytes for t in (op.input(0), op.input(1)) if t.data is None]
    return []


def _kept_bytes(op: Op) -> int:
    """Bytes of what a builtin kernel makes of a constant, once."""
    return op.input(1).n_bytes if op.kind == "BATCH_MATMUL" and op.input(1).data is not None else 0


def ruy_bytes(ops: Iterable[Op]) -> int:
    """Bytes that ruy keeps after builtin kernels have run products in this order: it packs both operands.

    What does not fit behind what is there already is allocated apart, and its bytes are added to the block for the next
    product (ruy/allocator.cc).
    """
    block = 0
    for op in ops:
        used = apart = 0
        for n_bytes in _operand_bytes(op):
            if used + n_bytes <= block:
                used += n_bytes
            else:
                apart += n_bytes
        block += apart
    return block


def _operand_bytes(op: Op) -> tuple[int, ...]:
    """Bytes of both operands of a builtin kernel's product, the weights first; of a stack, those of one product."""
    if op.kind == "CONV_2D":
        return op.input(1).n_bytes, op.input(0).n_bytes if _is_pointwise(op) else _im2col_bytes(op)
    if op.kind == "FULLY_CONNECTED":
        return op.input(1).n_bytes, op.input(0).n_bytes
    if op.kind == "BATCH_MATMUL":
        x, y = (4 * math.prod(op.input(i).shape[-2:]) for i in range(2))
        return y, x
    return ()


def _is_pointwise(op: Op) -> bool:
    strides = op.options.integer("StrideH", 1), op.options.integer("StrideW", 1)
    return (*op.input(1).shape[1:3], *strides) == (1, 1, 1, 1)


def _im2col_bytes(op: Op) -> int:
    return op.output.size // op.output.shape[-1] * math.prod(op.input(1).shape[1:]) * 4
