"""The classifier at the end of a network: find it, replace it, put one where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np

from signatures.builder import NO_ACTIVATION, GraphBuilder
from signatures.errors import InputError
from signatures.graph import Graph, Op, Tensor, constant
from signatures.layers import Layer
from signatures.passes import without_dead_ops
from signatures.shapes import infer

_PROBABILITIES = ("SOFTMAX", "LOG_SOFTMAX", "LOGISTIC")
_SHAPES = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
_POOLS = ("MEAN", "AVERAGE_POOL_2D")
_DEEP = 8
"""Features are deep where the image has at most this fraction of its height left, or where its pixels are pooled."""


def without_probabilities(graph: Graph) -> Graph:
    """`graph` whose output is logits [1, classes]: a softmax or sigmoid at the end is dropped.

    InputError if the output has another shape and cannot be given this one.
    """
    if len(graph.outputs) != 1:
        listed = ", ".join(f"{t.name!r} {list(t.shape)}" for t in graph.outputs)
        raise InputError(
            f"{graph.name!r} has {len(graph.outputs)} outputs ({listed}), expected one row of logits: {_way(graph)}"
        )
    (output,) = graph.outputs
    makers = graph.producers()
    before = output
    while before in makers and makers[before].kind in _SHAPES:
        before = makers[before].input(0)
    if before in makers and makers[before].kind in _PROBABILITIES:
        output = makers[before].input(0)
    return without_dead_ops(_as_logits(graph, output))


def _way(graph: Graph) -> str:
    """What a person can do about a network without a classifier."""
    features = _features(graph)
    example = "" if features is None else f", for example --head {features.name!r} ({list(features.shape)})"
    return f"name a tensor to put a classifier on: --head TENSOR{example}"


def _features(graph: Graph) -> Tensor | None:
    """The last deep features that all of the network's results depend on, and all of what is before them goes into."""
    (x,) = graph.inputs
    readers = graph.consumers()
    last = {tensor: max(map(graph.ops.index, ops)) for tensor, ops in readers.items()}
    end = len(graph.ops)
    found, open_until = None, last.get(x, 0)
    depends = {x}
    for index, op in enumerate(graph.ops):
        if depends.isdisjoint(op.inputs):
            continue
        depends.update(op.outputs)
        y = op.output
        alone = len(op.outputs) == 1 and open_until <= index and y not in graph.outputs
        open_until = max(open_until, *(end if t in graph.outputs else last.get(t, 0) for t in op.outputs))
        if alone and y.dtype == "float32" and _is_deep(y, x):
            found = y
    return found


def _is_deep(tensor: Tensor, image: Tensor) -> bool:
    shape = tensor.shape
    return shape[:1] == (1,) and (len(shape) == 2 or (len(shape) == 4 and _DEEP * shape[1] <= image.shape[1]))


def _as_logits(graph: Graph, output: Tensor) -> Graph:
    classes = output.shape[-1] if output.shape else 1
    if output.size != classes or classes < 2:
        raise InputError(
            f"{graph.name!r} ends in {output.name!r} of shape {list(output.shape)}, which is no row of logits: "
            f"{_way(graph)}"
        )
    b = GraphBuilder(graph.name)
    b.ops = list(graph.ops)
    logits = b.reshape(output, (1, classes), f"{output.name}/logits")
    return Graph(graph.name, tuple(b.ops), graph.inputs, (logits,))


def head_of(graph: Graph, layers: Sequence[Layer]) -> Layer:
    """The classifier: the layer whose channels are the logits, with nothing but pooling and reshaping behind it."""
    (logits,) = graph.outputs
    makers = graph.producers()
    by_op = {graph.ops[layer.op]: layer for layer in layers}
    tensor = logits
    while tensor in makers:
        op = makers[tensor]
        if op in by_op:
            layer = by_op[op]
            if layer.kind in ("dense", "conv") and op.output.shape[-1] == logits.shape[-1]:
                return layer
            break
        if op.kind not in (*_SHAPES, *_POOLS):
            break
        tensor = op.input(0)
    raise InputError(
        f"{graph.name!r} has no classifier to replace: its output {logits.name!r} comes from "
        f"{makers[tensor].kind if tensor in makers else 'its input'}, expected a dense layer or a convolution. "
        f"Keep it (--head keep), or {_way(graph)}"
    )


def with_new_head(graph: Graph, head: Layer, classes: int) -> Graph:
    """`graph` with zero weights and biases for `classes` logits in the layer `head`.

    Zeros make all classes equally likely at the start, whatever the seed. What stands between the head and the logits
    stays: pooling, reshaping.
    """
    op = graph.ops[head.op]
    old = op.input(head.weight_slot)
    weights = constant(old.name, np.zeros((classes, *old.shape[1:]), np.float32))
    bias = constant(f"{old.name}/bias", np.zeros(classes, np.float32))
    options = op.options.replace(FusedActivationFunction=NO_ACTIVATION)
    tensor = Tensor(op.output.name, (*op.output.shape[:-1], classes), "float32")
    ops = [*graph.ops[: head.op], Op(op.kind, (op.input(0), weights, bias), (tensor,), options, op.version)]
    b = GraphBuilder(graph.name)
    b.ops = ops
    for after in _between(graph, op):
        if after.kind in _POOLS:
            inputs = (tensor, *after.inputs[1:])
            shape, dtype = infer(after.kind, inputs, after.options)
            tensor = Tensor(after.output.name, shape, dtype)
            b.ops.append(Op(after.kind, inputs, (tensor,), after.options, after.version))
    logits = b.reshape(tensor, (1, classes), f"{graph.outputs[0].name}/logits")
    return without_dead_ops(Graph(graph.name, tuple(b.ops), graph.inputs, (logits,)))


def _between(graph: Graph, head: Op) -> list[Op]:
    """The ops from the head to the logits, in order."""
    makers = graph.producers()
    found: list[Op] = []
    tensor = graph.outputs[0]
    while makers[tensor] is not head:
        found.append(makers[tensor])
        tensor = makers[tensor].input(0)
    return found[::-1]


def with_head_on(graph: Graph, name: str, classes: int) -> Graph:
    """`graph` that ends in a dense layer of `classes` logits, all zero, on the mean over pixels of the tensor `name`.

    InputError if there is no such tensor, or it is no float32 [1, features] or [1, height, width, features].
    """
    tensors = {tensor.name: tensor for op in graph.ops for tensor in op.outputs}
    # Layers go by the ends of their names in the file; a full name finds them too.
    found = [tensor for short, tensor in tensors.items() if name == short or name.endswith(f"/{short}")]
    if not found:
        close = ", ".join(get_close_matches(name, tensors, 3, 0.3))
        raise InputError(f"{graph.name!r} has no tensor {name!r}" + (f"; it has {close} …" if close else ""))
    features = found[0]
    if len(features.shape) < 2 or features.shape[0] != 1 or features.dtype != "float32":
        raise InputError(f"{name!r} is {features.dtype}{list(features.shape)}: no features to put a classifier on")
    b = GraphBuilder(graph.name)
    b.ops = list(graph.ops)
    pixels = list(range(1, len(features.shape) - 1))
    vector = b.mean(features, pixels, name="features") if pixels else features
    weights = constant("classifier/weights", np.zeros((classes, features.shape[-1]), np.float32))
    bias = constant("classifier/bias", np.zeros(classes, np.float32))
    logits = b.fully_connected(vector, weights, bias, name="classifier")
    return without_dead_ops(Graph(graph.name, tuple(b.ops), graph.inputs, (logits,)))
