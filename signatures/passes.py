"""Rewrites of whole graphs: replay at another batch size, dynamic products in the form XNNPACK takes, new heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from signatures.builder import GraphBuilder
from signatures.errors import InputError
from signatures.graph import Array, Graph, Op, Options, Tensor, constant
from signatures.layers import Layer
from signatures.shapes import infer

Slot = tuple[int, int]
"""One input of one op: (index of the op in its graph, index of the input)."""


def replay(
    b: GraphBuilder, network: Graph, x: Tensor, substitutes: Mapping[Slot, Tensor] | None = None
) -> dict[Tensor, Tensor]:
    """Emit the ops of `network` again into `b`, fed with `x`, and return old tensor → new tensor.

    The batch size is that of `x`: shapes are inferred anew. `substitutes` replaces single inputs of single ops
    (a constant by a variable's value, say); it goes by slot because a file may share one constant between layers.
    Raises InputError for ops that cannot be replayed, among them those whose result does not grow with the batch: a
    SLICE that spells out batch 1 would take the first image only, and broadcasting would hide it.
    """
    (source,) = network.inputs
    if x.shape[1:] != source.shape[1:]:
        raise InputError(f"the network takes {list(source.shape[1:])}, got {list(x.shape[1:])}")
    new: dict[Tensor, Tensor] = {source: x}
    for index, op in enumerate(network.ops):
        inputs = [
            (substitutes or {}).get((index, slot), tensor if tensor is None else new.get(tensor, tensor))
            for slot, tensor in enumerate(op.inputs)
        ]
        op = _at_batch(b, op, source.shape[0], x.shape[0])
        if op.kind == "RESHAPE":
            inputs[1:] = op.inputs[1:]
        if len(op.outputs) != 1:
            raise InputError(f"{op.kind} has {len(op.outputs)} results; such ops cannot be replayed yet")
        shape, dtype = infer(op.kind, inputs, op.options)
        output = Tensor(b.unique(op.output.name), shape, dtype)
        if output.size * source.shape[0] != op.output.size * x.shape[0]:
            raise InputError(
                f"{op.kind} {output.name!r} mixes the images of a batch or takes some of them: {list(op.output.shape)} "
                f"became {list(shape)} at batch {x.shape[0]}; the batch size has to stay {source.shape[0]}"
            )
        b.ops.append(Op(op.kind, tuple(inputs), (output,), op.options, op.version))
        new[op.output] = output
    return new


def _at_batch(b: GraphBuilder, op: Op, old: int, batch: int) -> Op:
    """`op` with the batch size changed where its constants spell it out (the target of a RESHAPE)."""
    if op.kind != "RESHAPE" or old == batch:
        return op
    x, target = op.input(0), op.output.shape
    if x.shape[0] != old or target[0] != old:
        raise InputError(
            f"RESHAPE {op.output.name!r} folds the batch into {list(target)}: cannot change the batch size"
        )
    return Op(op.kind, (x, b.ints([batch, *target[1:]], "shape")), op.outputs, Options("ReshapeOptions"), op.version)


def dynamic_products(graph: Graph) -> Graph:
    """`graph` with pointwise convolutions and dense layers whose weights are no constants as BATCH_MATMUL.

    XNNPACK takes a filter only if it is static, and the builtin kernels are 4 to 9 times slower
    (docs/decisions.md); a BATCH_MATMUL may have a dynamic right side. FULLY_CONNECTED(x, x), the Gram matrix, stays.
    """
    b = GraphBuilder(graph.name)
    for op in graph.ops:
        if _is_dynamic_product(op):
            _emit_product(b, op)
        else:
            b.ops.append(op)
    return Graph(graph.name, tuple(b.ops), graph.inputs, graph.outputs)


def _is_dynamic_product(op: Op) -> bool:
    if op.kind not in ("CONV_2D", "FULLY_CONNECTED"):
        return False
    x, w = op.input(0), op.input(1)
    if w.data is not None or w is x:
        return False
    strides = op.options.integer("StrideH", 1), op.options.integer("StrideW", 1)
    return op.kind == "FULLY_CONNECTED" or (w.shape[1:3] == (1, 1) and strides == (1, 1) and x.shape[3] == w.shape[3])


def _emit_product(b: GraphBuilder, op: Op) -> None:
    x, w, bias, y = op.input(0), op.input(1), op.optional(2), op.output
    units, depth = w.shape[0], w.shape[-1]
    rows = b.reshape(x, (x.size // depth, depth), f"{y.name}/rows")
    columns = b.transpose(b.reshape(w, (units, depth), f"{y.name}/matrix"), (1, 0), f"{y.name}/columns")
    product = b.reshape(b.matmul(rows, columns, name=f"{y.name}/product"), y.shape, f"{y.name}/shaped")
    activation = op.options.integer("FusedActivationFunction")
    options = Options("AddOptions", {"FusedActivationFunction": activation})
    b.ops.append(Op("ADD", (product, bias or b.zeros(units)), (y,), options))


def without_dead_ops(graph: Graph) -> Graph:
    """`graph` without the ops that no output and no variable needs."""
    needed = set(graph.outputs)
    kept: list[Op] = []
    for op in reversed(graph.ops):
        if not op.outputs or not needed.isdisjoint(op.outputs):
            kept.append(op)
            needed.update(tensor for tensor in op.inputs if tensor is not None)
    return Graph(graph.name, tuple(reversed(kept)), graph.inputs, graph.outputs)


def with_constants(graph: Graph, values: Mapping[Slot, Array]) -> Graph:
    """`graph` with other constants in some slots; shapes must stay. The rest is shared with `graph`."""
    ops = list(graph.ops)
    for (index, slot), value in values.items():
        op = ops[index]
        old = op.input(slot)
        if old.shape != value.shape or old.dtype != value.dtype.name:
            raise InputError(f"{old.name!r} is {old.dtype}{list(old.shape)}, got {value.dtype}{list(value.shape)}")
        inputs = (*op.inputs[:slot], constant(old.name, value), *op.inputs[slot + 1 :])
        ops[index] = Op(op.kind, inputs, op.outputs, op.options, op.version)
    return Graph(graph.name, tuple(ops), graph.inputs, graph.outputs)


def with_new_head(graph: Graph, head: Layer, classes: int) -> Graph:
    """`graph` that ends in a fresh dense layer of `classes` logits, zero weights and biases, in place of `head`.

    Whatever followed the head (a softmax) is dropped. Zeros make all classes equally likely at the start, whatever
    the seed.
    """
    op = graph.ops[head.op]
    if op.kind != "FULLY_CONNECTED":
        raise InputError(f"the head {head.name!r} is {op.kind}, expected FULLY_CONNECTED")
    x, old = op.input(0), op.input(1)
    weights = constant(old.name, np.zeros((classes, old.shape[1]), np.float32))
    bias = constant(f"{old.name}/bias", np.zeros(classes, np.float32))
    logits = Tensor(op.output.name, (*op.output.shape[:-1], classes), "float32")
    options = op.options.replace(FusedActivationFunction=0)
    new = Op(op.kind, (x, weights, bias), (logits,), options, op.version)
    return without_dead_ops(Graph(graph.name, (*graph.ops[: head.op], new), graph.inputs, (logits,)))


def named_layers(graph: Graph, ops: Sequence[int], names: Sequence[str]) -> Graph:
    """`graph` with the outputs of the given ops renamed; layers are called by these names from then on."""
    renamed = {graph.ops[i].output: name for i, name in zip(ops, names, strict=True)}
    new = {t: Tensor(name, t.shape, t.dtype) for t, name in renamed.items()}

    def swap(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else new.get(tensor, tensor)

    swapped = tuple(
        Op(op.kind, tuple(map(swap, op.inputs)), tuple(new.get(t, t) for t in op.outputs), op.options, op.version)
        for op in graph.ops
    )
    return Graph(graph.name, swapped, graph.inputs, tuple(new.get(t, t) for t in graph.outputs))


def without_softmax(graph: Graph) -> Graph:
    """`graph` whose output is logits: a softmax at the end is dropped."""
    last = graph.ops[-1]
    if last.kind != "SOFTMAX" or last.output is not graph.outputs[0]:
        return graph
    return Graph(graph.name, graph.ops[:-1], graph.inputs, (last.input(0),))
