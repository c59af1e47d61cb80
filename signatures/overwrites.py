"""A mistake of the runtimes' memory planner, and graphs that do not meet it.

RESHAPE and its like share the buffer of their input, and arithmetic works in place where its input has no other reader
(tensorflow/lite/arena_planner.cc, IdentifyInPlaceTensors, in ai-edge-litert 2.3.0 and tflite-runtime 2.14.0). Whether a
buffer has other readers is asked of the tensor that it was first made for alone, not of those that came to share it
since. So where A is made in place, and B is a RESHAPE of A, arithmetic on B writes over A even if A is read again. Ops
that XNNPACK takes are not concerned, but which those are is the runtime's affair.
"""

from __future__ import annotations

from collections import Counter

from signatures.builder import GraphBuilder
from signatures.graph import Graph, Op, Tensor

_SHARING = ("BITCAST", "EXPAND_DIMS", "RESHAPE", "SQUEEZE")
_IN_PLACE = ("ADD", "DIV", "MUL", "SUB")
_SMALLEST_BYTES = 4
"""The planner shares no buffers that are no larger."""


def without_overwrites(graph: Graph) -> Graph:
    """`graph` in which arithmetic that would write over a value that is read again works on a copy."""
    b = GraphBuilder(graph.name)
    uses = Counter(tensor for op in graph.ops for tensor in dict.fromkeys(op.inputs) if tensor is not None)
    uses.update([*graph.inputs, *graph.outputs])
    last = {tensor: i for i, op in enumerate(graph.ops) for tensor in op.inputs if tensor is not None}
    last.update(dict.fromkeys(graph.outputs, len(graph.ops)))
    home: dict[Tensor, Tensor] = {}  # for which tensor a value's buffer was made
    sharers: dict[Tensor, list[Tensor]] = {}  # the other way round
    for i, op in enumerate(graph.ops):
        source = _shared(op, graph, uses)
        if source is not None:
            first = home.get(source, source)
            in_place = op.kind in _IN_PLACE
            if not in_place or uses[first] == 1:
                read_again = any(last.get(t, -1) > i for t in (first, *sharers.get(first, ())))
                if in_place and read_again:
                    copy = b.emit(
                        "PAD", (source, b.ints([(0, 0)] * len(source.shape), "nothing")), name=f"{source.name}/copy"
                    )
                    inputs = tuple(copy if tensor is source else tensor for tensor in op.inputs)
                    op = Op(op.kind, inputs, op.outputs, op.options, op.version)
                    first, uses[copy] = copy, 1
                home[op.output] = first
                sharers.setdefault(first, []).append(op.output)
        b.ops.append(op)
    return Graph(graph.name, tuple(b.ops), graph.inputs, graph.outputs)


def _shared(op: Op, graph: Graph, uses: Counter[Tensor]) -> Tensor | None:
    """The input whose buffer the op's result gets."""
    if op.kind not in (*_SHARING, *_IN_PLACE) or op.output in graph.outputs:
        return None
    for tensor in op.inputs[: 1 if op.kind in _SHARING else 2]:
        if tensor is None or tensor.data is not None or tensor in graph.inputs:
            continue
        if op.kind in _SHARING or (tensor.n_bytes == op.output.n_bytes > _SMALLEST_BYTES and uses[tensor] == 1):
            return tensor
    return None
