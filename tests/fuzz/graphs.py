"""Edits of models as data that no damage of bytes would hit on: whole files, well formed, of ops that make no sense.

["option", op, field, value], ["constant", op, input, position, value], ["kind", op, name], ["omit", op, input],
["wire", op, input, op whose output], ["shape", op, axis, value], ["type", op, dtype]
change one op of the first graph; signatures stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import tflite

from signatures.graph import Graph, Model, Op, Signature, Tensor
from signatures.tflite_io import model_bytes, parse_model
from tests.fuzz.edits import Edit

NAMES = ("option", "constant", "kind", "omit", "wire", "shape", "type")
_NUMBERS = (0, 0, 1, 2, 3, 4, 5, 7, 16, 100, 4096, 65536, 2**24, 2**31 - 1, -1, -1, -2, -5, -128, -(2**31))
_KINDS = sorted(name for name, value in vars(tflite.BuiltinOperator).items() if isinstance(value, int))
_TYPES = ("float32", "float16", "int32", "int64", "bool", "uint8", "int8", "resource")


@cache
def _read(content: bytes) -> Model:
    return parse_model(content, "the seed")


def draw(random: np.random.Generator, content: bytes) -> list[Edit]:
    """One to three edits of a model."""
    model = _read(content)
    count = int(random.choice([1, 1, 1, 2, 3]))
    return [_edit(random, model.graphs[0].ops) for _ in range(count)]


def _edit(random: np.random.Generator, ops: Sequence[Op]) -> Edit:
    def number() -> int:
        return int(_NUMBERS[random.integers(len(_NUMBERS))])

    index = int(random.integers(len(ops)))
    op = ops[index]
    kind = str(random.choice(NAMES, p=[0.35, 0.25, 0.1, 0.05, 0.1, 0.1, 0.05]))
    if kind == "option" and op.options.fields:
        fields = sorted(op.options.fields)
        return [kind, index, fields[int(random.integers(len(fields)))], number()]
    steering = [i for i, t in enumerate(op.inputs) if t is not None and t.data is not None and t.dtype == "int32"]
    if kind == "constant" and steering:
        slot = int(random.choice(steering))
        return [kind, index, slot, int(random.integers(max(1, op.input(slot).size))), number()]
    if kind == "kind":
        return [kind, index, str(_KINDS[random.integers(len(_KINDS))])]
    if kind == "omit":
        return [kind, index, int(random.integers(max(1, len(op.inputs))))]
    if kind == "wire":
        return [kind, index, int(random.integers(max(1, len(op.inputs)))), int(random.integers(len(ops)))]
    if kind == "type":
        return [kind, index, str(random.choice(_TYPES))]
    return ["shape", index, int(random.integers(4)), abs(number())]


def apply(content: bytes, edits: Sequence[Edit]) -> bytes:
    """The file after the edits. Those that cannot be written change nothing."""
    model = _read(content)
    for edit in edits:
        model = _changed(model, edit)
    try:
        return model_bytes(model)
    except Exception:  # 2**31 in a field of 8 bits, a constant without bytes
        return apply(content, edits[:-1])


def _changed(model: Model, edit: Edit) -> Model:
    old = model.graphs[0]
    name, index, *rest = edit
    ops = list(old.ops)
    ops[index] = _op(name, ops[index], rest, ops)
    swapped = dict(zip(old.ops[index].outputs, ops[index].outputs, strict=False))
    graph = _with(Graph(old.name, tuple(ops), old.inputs, old.outputs), swapped)
    signatures = tuple(
        Signature(s.name, graph, s.inputs, {key: swapped.get(t, t) for key, t in s.outputs.items()})
        if s.graph is old
        else s
        for s in model.signatures
    )
    return Model((graph, *model.graphs[1:]), signatures)


def _with(graph: Graph, swapped: dict[Tensor, Tensor]) -> Graph:
    """`graph` with other tensors in place of some."""

    def swap(tensor: Any) -> Any:
        return swapped.get(tensor, tensor)

    ops = tuple(
        Op(op.kind, tuple(map(swap, op.inputs)), tuple(map(swap, op.outputs)), op.options, op.version)
        for op in graph.ops
    )
    return Graph(graph.name, ops, graph.inputs, tuple(map(swap, graph.outputs)))


def _op(name: str, op: Op, rest: Sequence[Any], ops: Sequence[Op]) -> Op:
    inputs, outputs, options, kind = list(op.inputs), op.outputs, op.options, op.kind
    if name == "option":
        options = options.replace(**{rest[0]: rest[1]})
    elif name == "kind":
        kind = rest[0]
    elif name == "constant" and rest[0] < len(inputs) and (old := inputs[rest[0]]) is not None and old.data is not None:
        data = old.data.copy()
        data.reshape(-1)[rest[1]] = rest[2]
        inputs[rest[0]] = Tensor(old.name, old.shape, old.dtype, data)
    elif name == "omit" and rest[0] < len(inputs):
        inputs[rest[0]] = None
    elif name == "wire" and rest[0] < len(inputs) and ops[rest[1]].outputs:
        inputs[rest[0]] = ops[rest[1]].outputs[0]
    elif name == "shape" and outputs and rest[0] < len(outputs[0].shape):
        first = outputs[0]
        shape = tuple(rest[1] if axis == rest[0] else side for axis, side in enumerate(first.shape))
        outputs = (Tensor(first.name, shape, first.dtype), *outputs[1:])
    elif name == "type" and outputs:
        outputs = (Tensor(outputs[0].name, outputs[0].shape, rest[0]), *outputs[1:])
    return Op(kind, tuple(inputs), outputs, options, op.version)
