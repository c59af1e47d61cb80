"""Which values the runtimes' memory planner lets an op overwrite although they are read again.

Both runtimes plan alike (tensorflow/lite/arena_planner.cc, IdentifyInPlaceTensors): RESHAPE and its like share the
buffer of their input, and arithmetic works in place where its input has no other reader. Whether the buffer has one
is asked of the tensor that it was first made for alone, not of those that came to share it in between.
"""

from __future__ import annotations

from collections import Counter

from signatures.graph import Graph, Op, Tensor

SHARING = ("BITCAST", "EXPAND_DIMS", "RESHAPE", "SQUEEZE")
IN_PLACE = ("ADD", "DIV", "MUL", "SUB")


def overwritten(graph: Graph) -> list[Tensor]:
    """Values that are read after an op has written over them; the builtin kernels are, XNNPACK's are not concerned."""
    uses = Counter(tensor for op in graph.ops for tensor in dict.fromkeys(op.inputs) if tensor is not None)
    uses.update([*graph.inputs, *graph.outputs])
    last = {tensor: i for i, op in enumerate(graph.ops) for tensor in op.inputs if tensor is not None}
    last.update(dict.fromkeys(graph.outputs, len(graph.ops)))
    home: dict[Tensor, Tensor] = {}  # for what tensor the buffer was made
    lost: list[Tensor] = []
    for i, op in enumerate(graph.ops):
        source = _shared(op, graph, uses)
        if source is None:
            continue
        first = home.get(source, source)
        if op.kind in IN_PLACE:
            if uses[first] > 1:
                continue
            others = [first, *(tensor for tensor, owner in home.items() if owner is first)]
            lost += [tensor for tensor in others if last.get(tensor, -1) > i]
        home[op.output] = first
    return lost


def _shared(op: Op, graph: Graph, uses: Counter[Tensor]) -> Tensor | None:
    """The input whose buffer the op's result gets."""
    if op.kind not in (*SHARING, *IN_PLACE) or op.output in graph.outputs:
        return None
    for tensor in op.inputs[: 1 if op.kind in SHARING else 2]:
        if tensor is None or tensor.data is not None or tensor in graph.inputs:
            continue
        if op.kind in SHARING or (tensor.n_bytes == op.output.n_bytes > 4 and uses[tensor] == 1):
            return tensor
    return None
