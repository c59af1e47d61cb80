"""Folding: what depends on no image becomes a constant, and every shape is inferred anew.

A file with an open batch computes sizes from the shape of what it gets, and the shapes that it stores behind them are
placeholders. Once a batch size is fixed, all of that is known beforehand.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ondevice.runtime import LoadedModel
from signatures.errors import InputError
from signatures.graph import Array, Graph, Model, Op, Signature, Tensor, constant
from signatures.shapes import can_infer, infer, infer_parts
from signatures.tflite_io import write_model

_MAX_FOLDED_BYTES = 1 << 20
"""Constants are computed beforehand up to this size (sizes, masks, tables); float16 weights whatever their size."""
_SPLITS = ("SPLIT", "SPLIT_V", "UNPACK")


def folded(graph: Graph, where: str) -> Graph:
    """`graph` with what depends on no image as constants: sizes that it reads from shapes, weights in float16.

    The runtime computes them, so that they are what it would have computed. `where` names the graph in messages.
    """
    walk = _Walk(where)
    for op in graph.ops:
        walk.visit(op)
    outputs = walk.known(graph.outputs)
    return Graph(graph.name, tuple(walk.late), graph.inputs, tuple(t for t in outputs if t is not None))


class _Walk:
    """Goes through the ops in order, so that shapes are right wherever a size is read from one."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.late: list[Op] = []
        """Ops that depend on the image, as they are to be."""
        self._now: dict[Tensor, Tensor] = {}
        self._early: dict[Tensor, Op] = {}
        """By result: ops that depend on no image, and have not been computed yet."""

    def visit(self, op: Op) -> None:
        inputs = tuple(None if t is None else self._now.get(t, t) for t in op.inputs)
        half = inputs[0] if op.kind == "DEQUANTIZE" else None
        if op.kind == "SHAPE":
            (source,) = self.known(op.inputs)
            assert source is not None
            self._now[op.output] = constant(op.output.name, np.array(source.shape, op.output.dtype))
        elif half is not None and half.data is not None and half.dtype == "float16":
            self._now[op.output] = constant(op.output.name, half.data.astype(np.float32))
        elif self._is_constant(inputs) and sum(tensor.n_bytes for tensor in op.outputs) <= _MAX_FOLDED_BYTES:
            early = Op(op.kind, inputs, op.outputs, op.options, op.version)
            self._early.update((tensor, early) for tensor in op.outputs)
        else:
            inputs = self.known(op.inputs)
            outputs = _outputs(op, inputs)
            self._now.update(zip(op.outputs, outputs, strict=True))
            self.late.append(Op(op.kind, inputs, outputs, op.options, op.version))

    def known(self, tensors: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
        """`tensors` as they are now, none of them still to be computed."""
        if any(tensor in self._early for tensor in tensors):
            self._now.update(_computed(self._early, self.where))
            self._early.clear()
        return tuple(None if tensor is None else self._now.get(tensor, tensor) for tensor in tensors)

    def _is_constant(self, inputs: Sequence[Tensor | None]) -> bool:
        return all(tensor is None or tensor.data is not None or tensor in self._early for tensor in inputs)


def _outputs(op: Op, inputs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """The results of `op` with the shapes that its inputs give, as far as that is known."""
    try:
        if op.kind in _SPLITS:
            values = infer_parts(op.kind, inputs, op.options)
        elif can_infer(op.kind):
            values = (infer(op.kind, inputs, op.options),)
        else:
            return op.outputs
    except InputError:  # a shape that depends on values of the image
        return op.outputs
    return tuple(Tensor(t.name, shape, dtype) for t, (shape, dtype) in zip(op.outputs, values, strict=True))


def _computed(early: dict[Tensor, Op], where: str) -> dict[Tensor, Tensor]:
    """The results of ops that depend on nothing else, as constants."""
    names = {f"c{i}": tensor for i, tensor in enumerate(early)}
    graph = Graph("constants", tuple(dict.fromkeys(early.values())), (), tuple(early))
    model = Model((graph,), (Signature("constants", graph, {}, names),))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "constants.tflite"
        write_model(model, path)
        try:
            values = LoadedModel(path, 1).call("constants", {})
        except InputError as error:
            raise InputError(f"{where}: its constants cannot be computed: {error}") from error
    arrays: dict[Tensor, Array] = {tensor: np.array(values[name]) for name, tensor in names.items()}
    return {tensor: constant(tensor.name, value) for tensor, value in arrays.items()}
