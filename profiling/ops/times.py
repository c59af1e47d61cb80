"""How long the ops of a graph take: inside the runtime where it tells (ai-edge-litert), or each op alone.

Alone, ops of the same kind, shapes, options and constant operands are timed once. What crosses from op to op in caches
is lost, and so is what XNNPACK makes of several ops together.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converter.quiet import captured_stderr
from ondevice.runtime import LoadedModel, interpreter_module
from signatures.builder import GraphBuilder
from signatures.graph import Array, Graph, Model, Op, Signature, Tensor
from signatures.layers import op_macs
from signatures.tflite_io import write_model

THREADS = 2
SECONDS, LEAST_CALLS = 0.15, 7
"""How long one thing is timed, and how often at least."""
LARGE = (4096, 1024, 1024)
"""Rows, inputs and units of the large product."""
LEFT_OUT = ("CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "RESHAPE")
"""Ops on variables do not run alone; a RESHAPE copies when it is alone, but rarely does inside a graph."""


@dataclass(frozen=True, eq=False)
class OpTimes:
    """Seconds of ops for one call."""

    seconds: Mapping[Op, float]
    """Ops are missing of which nothing is known."""
    how: str
    """Where the times come from, in words."""


def alone(graph: Graph) -> OpTimes:
    """Every op in a model of its own; those of `LEFT_OUT` are missing."""
    known: dict[str, float] = {}
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for op in graph.ops:
            if op.kind not in LEFT_OUT:
                key = _key(op)
                if key not in known:
                    known[key] = _seconds_of(_alone(op), Path(folder))
                seconds[op] = known[key]
    return OpTimes(seconds, "each op alone in the interpreter; RESHAPE and variables are left out")


def call_seconds(path: Path, signature: Signature) -> float:
    """One call of a signature of the file `path`, arguments and results copied in and out."""
    model, fed = LoadedModel(path, THREADS), feeds(signature)
    return _typical_seconds(lambda: model.call(signature.name, fed))


def large_rate() -> float:
    """Floating-point operations a second of a large product: what this machine can do at best."""
    rows, inputs, units = LARGE
    b = GraphBuilder("large")
    weights = np.random.default_rng(0).normal(size=(units, inputs)).astype(np.float32)
    large = b.graph([b.fully_connected(b.input("x", (rows, inputs)), b.const(weights), b.zeros(units))])
    with tempfile.TemporaryDirectory() as folder:
        return 2 * op_macs(large.ops[0]) / _seconds_of(large, Path(folder))


def feeds(signature: Signature) -> dict[str, Array]:
    """Something to compute with. Weights are drawn so that values neither grow nor vanish from layer to layer: with
    numbers so small that they are denormal, kernels are many times slower.
    """
    random = np.random.default_rng(0)
    fed = {}
    for name, tensor in signature.inputs.items():
        if name.endswith("/weight"):
            reach = tensor.shape[1:] if tensor.shape[0] > 1 else tensor.shape[1:3]
            fed[name] = random.normal(0, math.sqrt(2 / math.prod(reach)), tensor.shape).astype(tensor.dtype)
        else:
            fed[name] = _values(tensor)
    return fed


def typical(seconds: Sequence[float]) -> float:
    """The lower quartile: others use the machine too."""
    return sorted(seconds)[len(seconds) // 4]


def _key(op: Op) -> str:
    """The same for ops that take the same time. Small constants are paddings, axes and shapes: their values count."""
    operands = [None if t is None else (t.shape, t.dtype, _content(t.data)) for t in op.inputs]
    return repr((op.kind, operands, sorted(op.options.fields.items())))


def _content(data: Array | None) -> str:
    return "" if data is None else data.tobytes().hex() if data.nbytes <= 64 else "constant"


def _alone(op: Op) -> Graph:
    """A graph of this op, whose inputs are those that are no constants."""
    fed = {t: Tensor(f"x{i}", t.shape, t.dtype) for i, t in enumerate(op.inputs) if t is not None and t.data is None}
    outputs = tuple(Tensor(f"y{i}", t.shape, t.dtype) for i, t in enumerate(op.outputs))
    inputs = tuple(fed.get(t, t) if t is not None else None for t in op.inputs)
    return Graph("alone", (Op(op.kind, inputs, outputs, op.options, op.version),), tuple(fed.values()), outputs)


def _seconds_of(graph: Graph, folder: Path) -> float:
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    outputs = {tensor.name: tensor for tensor in graph.outputs}
    path = folder / "alone.tflite"
    write_model(Model((graph,), (Signature("alone", graph, inputs, outputs),)), path)
    _, module = interpreter_module()
    with captured_stderr():
        interpreter = module.Interpreter(model_path=str(path), num_threads=THREADS)
        interpreter.allocate_tensors()
    by_name = {detail["name"]: detail["index"] for detail in interpreter.get_input_details()}
    for tensor in graph.inputs:
        interpreter.set_tensor(by_name[tensor.name], _values(tensor))
    return _typical_seconds(interpreter.invoke)


def _values(tensor: Tensor) -> Array:
    """Of floats a half, give or take, and zeros of all else."""
    dtype: np.dtype[Any] = np.dtype(tensor.dtype)
    if dtype.kind != "f":
        return np.zeros(tensor.shape, dtype)
    return np.random.default_rng(0).random(tensor.shape, np.float32).astype(dtype)


def _typical_seconds(call: Callable[[], object]) -> float:
    call()
    taken: list[float] = []
    while sum(taken) < SECONDS or len(taken) < LEAST_CALLS:
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return typical(taken)
