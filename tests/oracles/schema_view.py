"""Oracle: what a .tflite file says, read with the object API that LiteRT ships, not with our reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

BUILTINS = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
IDENTIFIER = b"TFL3"

Described = tuple[Any, ...]


@dataclass(frozen=True)
class FileView:
    """A model as nested tuples and dicts; tensors are named, not numbered, and unused ones are left out."""

    graphs: tuple[dict[str, Any], ...]
    signatures: tuple[Described, ...]
    buffers: int
    """How many hold constants of tensors."""


def view(content: bytes) -> FileView:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    graphs = tuple(_graph(model, graph, content) for graph in model.subgraphs)
    signatures = tuple(
        (
            signature.signatureKey,
            signature.subgraphIndex,
            *(
                [(m.name, model.subgraphs[signature.subgraphIndex].tensors[m.tensorIndex].name) for m in maps or []]
                for maps in (signature.inputs, signature.outputs)
            ),
        )
        for signature in model.signatureDefs or []
    )
    used = {t.buffer for g in model.subgraphs for t in g.tensors if _bytes(model, t.buffer, content) is not None}
    return FileView(graphs, signatures, len(used))


def appended_buffers(content: bytes) -> list[tuple[int, int]]:
    """(offset, size) of every buffer that lies behind the flatbuffer."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    return [(buffer.offset, buffer.size) for buffer in model.buffers if buffer.offset > 1]


def operator_codes(content: bytes) -> set[str]:
    """Names of the builtin operators that a file uses; CUSTOM among them if it uses any custom one."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    return {_kind(code) for code in model.operatorCodes}


def edited(content: bytes, edit: Callable[[Any], None]) -> bytes:
    """The file after `edit` changed its object tree; constants must be inside the flatbuffer."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    edit(model)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def _kind(code: Any) -> str:
    return BUILTINS[max(code.builtinCode, code.deprecatedBuiltinCode)]


def _bytes(model: Any, index: int, content: bytes) -> bytes | None:
    buffer = model.buffers[index]
    if buffer.offset > 1:
        return content[buffer.offset : buffer.offset + buffer.size]
    return None if buffer.data is None or len(buffer.data) == 0 else bytes(bytearray(buffer.data))


def _graph(model: Any, graph: Any, content: bytes) -> dict[str, Any]:
    def name(index: int) -> bytes | None:
        return None if index < 0 else graph.tensors[index].name

    ops = [
        (
            _kind(model.operatorCodes[op.opcodeIndex]),
            model.operatorCodes[op.opcodeIndex].version,
            type(op.builtinOptions).__name__,
            {k: _plain(v) for k, v in vars(op.builtinOptions).items()} if op.builtinOptions is not None else {},
            [name(i) for i in _plain(op.inputs) or ()],
            [name(i) for i in _plain(op.outputs) or ()],
        )
        for op in graph.operators or []
    ]
    inputs, outputs = ([name(i) for i in _plain(group) or ()] for group in (graph.inputs, graph.outputs))
    used = {*inputs, *outputs, *(n for op in ops for n in (*op[4], *op[5]))}
    tensors = {
        t.name: (_plain(t.shape) or (), t.type, _bytes(model, t.buffer, content))
        for t in graph.tensors
        if t.name in used
    }
    return {"ops": ops, "inputs": inputs, "outputs": outputs, "tensors": tensors}


def _plain(value: Any) -> Any:
    """Vectors as tuples, which compare."""
    if isinstance(value, np.ndarray):
        return tuple(value.tolist())
    return tuple(value) if isinstance(value, list) else value
