"""What XNNPACK takes of a graph, and how TFLite cuts the graph by it.

Sources: tensorflow/lite/delegates/xnnpack/xnnpack_delegate.cc (the Visit functions), tensorflow/lite/graph_info.cc
(PartitionGraphIntoIndependentNodeSubsets). What each wheel takes was asked of the wheel itself, op by op.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from signatures.graph import Graph, Op, Tensor

LITERT, TFLITE214 = "litert", "tflite 2.14"
"""ai-edge-litert 2.3 and its like; tflite-runtime 2.14."""

VARIABLE_OPS = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE")
_ALWAYS = frozenset(
    {
        "ABS", "ADD", "AVERAGE_POOL_2D", "CEIL", "DIV", "ELU", "FLOOR", "HARD_SWISH", "LEAKY_RELU",
        "LOGISTIC", "MAXIMUM", "MAX_POOL_2D", "MINIMUM", "MUL", "NEG", "PRELU", "RELU", "RELU6", "RELU_N1_TO_1",
        "ROUND", "SOFTMAX", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "SUB", "TANH",
    }
)  # fmt: skip
"""Taken by both wheels, of float32."""
_NEW = frozenset({"COS", "EXP", "GELU", "LOG", "RSQRT", "SIN", "EXPAND_DIMS", "REDUCE_MAX", "REDUCE_MIN"})
"""Taken by ai-edge-litert alone."""
_MAX_RANK = 6  # XNN_MAX_TENSOR_DIMS


@dataclass(frozen=True, eq=False)
class Part:
    """Ops that run one after the other: in one XNNPACK runtime, or by the builtin kernels."""

    ops: tuple[Op, ...]
    delegated: bool


def kind_of(runtime: str) -> str:
    """`LITERT` or `TFLITE214`, of either or of what `ondevice.runtime.interpreter_module` calls a runtime."""
    return TFLITE214 if runtime.startswith("tflite") else LITERT


def takes(op: Op, runtime: str) -> bool:
    """Whether XNNPACK takes `op`, as far as the ops that we write are concerned."""
    new = runtime == LITERT
    if op.kind in VARIABLE_OPS:
        return new and all(t is None or t.dtype in ("float32", "resource") for t in (*op.inputs, *op.outputs))
    if not op.inputs or any(t.dtype != "float32" or len(t.shape) > _MAX_RANK for t in op.outputs):
        return False
    if op.kind in _ALWAYS or (new and op.kind in _NEW):
        return all(t is None or t.dtype == "float32" for t in op.inputs[:1])
    rule = _RULES.get(op.kind)
    return rule is not None and rule(op, new)


def _rest_is_constant(op: Op) -> bool:
    return all(t is None or t.data is not None for t in op.inputs[1:])


def _takes_slice(op: Op, _new: bool) -> bool:
    masks = any(op.options.integer(f"{name}Mask") for name in ("Ellipsis", "NewAxis", "ShrinkAxis"))
    strides = op.input(3).data
    return _rest_is_constant(op) and not masks and strides is not None and bool((strides == 1).all())


def _takes_reduction(op: Op, new: bool) -> bool:
    if new or op.inputs[1] is None or op.inputs[1].data is None:
        return new and _rest_is_constant(op)
    rank = len(op.input(0).shape)
    return rank == 4 and {int(axis) % rank for axis in op.inputs[1].data.reshape(-1)} == {1, 2}


_RULES: dict[str, Callable[[Op, bool], bool]] = {
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), lambda op, new: _rest_is_constant(op)),
    **dict.fromkeys(("PAD", "RESHAPE", "SLICE", "TRANSPOSE"), lambda op, new: _rest_is_constant(op)),
    "BATCH_MATMUL": lambda op, new: new,
    "CONCATENATION": lambda op, new: 2 <= len(op.inputs) <= (5 if new else 4),
    "MEAN": _takes_reduction,
    "STRIDED_SLICE": _takes_slice,
    "SUM": _takes_reduction,
    "TRANSPOSE_CONV": lambda op, new: all(t is None or t.data is not None for t in (*op.inputs[:2], *op.inputs[3:])),
}
"""By kind: whether XNNPACK takes the op; the second argument says whether it is ai-edge-litert's."""


def parts(graph: Graph, runtime: str) -> tuple[Part, ...]:
    """The parts of `graph` in the order in which TFLite runs them.

    Of the ops that can run, the first decides the kind of a part; then every op of that kind goes in that can run by
    then, in passes over the execution order. Ops with a side effect (variables, CALL_ONCE) keep their order.
    """
    kinds = _taken(graph, runtime)
    waits: list[int] = []
    wanted_by: dict[Tensor, list[int]] = {}
    followed_by: dict[int, int] = {}
    made = {tensor for op in graph.ops for tensor in op.outputs}
    effect: int | None = None
    for i, op in enumerate(graph.ops):
        reads = {tensor for tensor in op.inputs if tensor is not None and tensor in made}
        for tensor in reads:
            wanted_by.setdefault(tensor, []).append(i)
        waits.append(len(reads))
        if has_side_effect(op):
            if effect is not None:
                followed_by[effect] = i
                waits[i] += 1
            effect = i
    return tuple(_parts(graph.ops, kinds, waits, wanted_by, followed_by))


def _parts(
    ops: Sequence[Op],
    kinds: Sequence[bool],
    waits: list[int],
    wanted_by: dict[Tensor, list[int]],
    followed_by: dict[int, int],
) -> list[Part]:
    ready: dict[bool, list[int]] = {False: [], True: []}  # positions, smallest first: heaps
    for i, kind in enumerate(kinds):
        if not waits[i]:
            ready[kind].append(i)
    found: list[Part] = []
    while ready[False] or ready[True]:
        kind = min((k for k in ready if ready[k]), key=lambda k: ready[k][0])
        chosen: list[int] = []
        while this_pass := ready[kind]:
            ready[kind] = []
            while this_pass:
                i = heapq.heappop(this_pass)
                chosen.append(i)
                freed = [k for tensor in ops[i].outputs for k in wanted_by.get(tensor, ())]
                freed += [followed_by[i]] if i in followed_by else []
                for k in freed:
                    waits[k] -= 1
                    if not waits[k]:  # behind this op: still in this pass
                        heapq.heappush(this_pass if kinds[k] == kind and k > i else ready[kinds[k]], k)
        found.append(Part(tuple(ops[i] for i in chosen), kind))
    return found


def _taken(graph: Graph, runtime: str) -> list[bool]:
    """Of each op, whether XNNPACK takes it.

    TFLite cannot tell a scalar variable from one of unknown shape (kernels/read_variable.cc). The older delegate takes
    nothing of a graph that reads one, the newer one all but the reading.
    """
    unknown = [op.kind == "READ_VARIABLE" and not op.output.shape for op in graph.ops]
    if any(unknown) and runtime == TFLITE214:
        return [False] * len(graph.ops)
    return [takes(op, runtime) and not unset for op, unset in zip(graph.ops, unknown, strict=True)]


def has_side_effect(op: Op) -> bool:
    """Whether TFLite keeps `op` in order among its like: it touches a resource, or calls another graph."""
    touches = any(t is not None and t.dtype == "resource" for t in (*op.inputs, *op.outputs))
    return touches or op.kind in ("CALL_ONCE", "IF", "WHILE")
