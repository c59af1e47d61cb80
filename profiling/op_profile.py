"""`python -m profiling.op_profile MODEL.tflite SIGNATURE`: each op of a graph timed alone, and the arithmetic limit.

Ops of the same kind, shapes, options and constant operands are timed once. The sum leaves out what crosses from op to
op in caches, and what the runtime adds around them; the time of the whole signature stands beside it. The arithmetic
limit is the time that all products would take at the rate of a large one, measured in the same run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converter.quiet import captured_stderr
from ondevice.runtime import LoadedModel, interpreter_module
from signatures.builder import GraphBuilder
from signatures.errors import AdabetError
from signatures.graph import Array, Graph, Model, Op, Signature, Tensor
from signatures.layers import op_macs
from signatures.tflite_io import read_model, write_model

THREADS = 2
SECONDS, LEAST_CALLS = 0.15, 7
"""How long an op is timed, and how often at least."""
LARGE = (4096, 1024, 1024)
"""Rows, inputs and units of the large product."""
_LEFT_OUT = ("CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "RESHAPE")
"""Ops on variables do not run alone; a RESHAPE copies when it is alone, but rarely does inside a graph."""


@dataclass(frozen=True)
class TimedOp:
    """One op of the graph."""

    kind: str
    shapes: str
    flops: int
    seconds: float


@dataclass(frozen=True)
class OpProfile:
    """What the ops of a graph take, each alone."""

    ops: tuple[TimedOp, ...]
    left_out: int
    """How many ops are of kinds that mean nothing alone: RESHAPE, and what has to do with variables."""
    whole_s: float
    """One call of the signature, arguments and results copied in and out."""
    large_rate: float
    """Floating-point operations a second of a large product."""

    @property
    def flops(self) -> int:
        """Floating-point operations of all products; a multiply-add is two."""
        return sum(op.flops for op in self.ops)

    @property
    def limit_s(self) -> float:
        """The arithmetic limit."""
        return self.flops / self.large_rate


def profile(model: Model, signature: str, path: Path, folder: Path) -> OpProfile:
    """Time the ops of a signature of `model`, which was read from `path`; models of one op are written to `folder`."""
    graph = model.signature(signature).graph
    known: dict[str, float] = {}
    timed = []
    for op in graph.ops:
        if op.kind not in _LEFT_OUT:
            key = _key(op)
            if key not in known:
                known[key] = _seconds_of(_alone(op), folder)
            timed.append(TimedOp(op.kind, _shapes(op), 2 * op_macs(op), known[key]))
    large = _large_product()
    rate = 2 * op_macs(large.ops[0]) / _seconds_of(large, folder)
    whole = LoadedModel(path, THREADS)
    fed = {name: _values(t.shape, np.dtype(t.dtype)) for name, t in model.signature(signature).inputs.items()}
    whole_s = _typical_seconds(lambda: whole.call(signature, fed))
    return OpProfile(tuple(timed), len(graph.ops) - len(timed), whole_s, rate)


def render(profile: OpProfile, slowest: int = 12) -> str:
    """Tables by kind and of the slowest ops, and the limit."""
    total = sum(op.seconds for op in profile.ops)
    lines = [f"{'kind':22} {'count':>5} {'ms':>8} {'share':>6} {'GFLOP':>7} {'GFLOP/s':>8}"]
    kinds: dict[str, list[TimedOp]] = {}
    for op in profile.ops:
        kinds.setdefault(op.kind, []).append(op)
    for kind, ops in sorted(kinds.items(), key=lambda item: -sum(op.seconds for op in item[1])):
        lines.append(f"{kind:22} {len(ops):>5} " + _figures(ops, total))
    lines.append(f"{'all, each alone':22} {len(profile.ops):>5} " + _figures(profile.ops, total))
    lines.append(f"{'the signature':22} {'':>5} {profile.whole_s * 1e3:>8.2f}")
    lines += [
        f"arithmetic limit: {profile.flops / 1e9:.2f} GFLOP at {profile.large_rate / 1e9:.0f} GFLOP/s, the rate of a "
        f"product {' × '.join(map(str, LARGE))}: {profile.limit_s * 1e3:.1f} ms; the signature takes "
        f"{profile.whole_s / profile.limit_s:.2f} times as long",
        "",
        "slowest kinds of op and shape",
    ]
    alike: dict[tuple[str, str], list[TimedOp]] = {}
    for op in profile.ops:
        alike.setdefault((op.kind, op.shapes), []).append(op)
    ranked = sorted(alike.items(), key=lambda item: -sum(op.seconds for op in item[1]))[:slowest]
    lines += [f"{kind:22} {len(ops):>5} {_figures(ops, total)}  {shapes}" for (kind, shapes), ops in ranked]
    if profile.left_out:
        lines.append(f"{profile.left_out} ops are left out (RESHAPE, variables): alone they tell nothing")
    return "\n".join(lines)


def _figures(ops: Sequence[TimedOp], total: float) -> str:
    seconds, gflop = sum(op.seconds for op in ops), sum(op.flops for op in ops) / 1e9
    rate = f"{gflop / seconds:.0f}" if gflop else ""
    return f"{seconds * 1e3:>8.2f} {seconds / total:>6.1%} {gflop:>7.2f} {rate:>8}"


def _key(op: Op) -> str:
    """The same for ops that take the same time. Small constants are paddings, axes and shapes: their values count."""
    operands = [None if t is None else (t.shape, t.dtype, _content(t.data)) for t in op.inputs]
    return repr((op.kind, operands, sorted(op.options.fields.items())))


def _content(data: Array | None) -> str:
    return "" if data is None else data.tobytes().hex() if data.nbytes <= 64 else "constant"


def _shapes(op: Op) -> str:
    operands = (f"{'const ' if t.data is not None else ''}{list(t.shape)}" for t in op.inputs if t and t.size > 4)
    return f"{', '.join(operands)} → {list(op.outputs[0].shape)}"


def _alone(op: Op) -> Graph:
    """A graph of this op, whose inputs are those that are no constants."""
    fed = {t: Tensor(f"x{i}", t.shape, t.dtype) for i, t in enumerate(op.inputs) if t is not None and t.data is None}
    outputs = tuple(Tensor(f"y{i}", t.shape, t.dtype) for i, t in enumerate(op.outputs))
    inputs = tuple(fed.get(t, t) if t is not None else None for t in op.inputs)
    return Graph("alone", (Op(op.kind, inputs, outputs, op.options, op.version),), tuple(fed.values()), outputs)


def _large_product() -> Graph:
    rows, inputs, units = LARGE
    b = GraphBuilder("large")
    weights = np.random.default_rng(0).normal(size=(units, inputs)).astype(np.float32)
    return b.graph([b.fully_connected(b.input("x", (rows, inputs)), b.const(weights), b.zeros(units))])


def _seconds_of(graph: Graph, folder: Path) -> float:
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    outputs = {tensor.name: tensor for tensor in graph.outputs}
    path = folder / "alone.tflite"
    write_model(Model((graph,), (Signature("alone", graph, inputs, outputs),)), path)
    _, module = interpreter_module()
    with captured_stderr():
        interpreter = module.Interpreter(model_path=str(path), num_threads=THREADS)
        interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], _values(tuple(detail["shape"]), np.dtype(detail["dtype"])))
    return _typical_seconds(interpreter.invoke)


def _values(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Something to compute with: of floats a half, give or take, and zeros of all else."""
    if dtype.kind != "f":
        return np.zeros(shape, dtype)
    return np.random.default_rng(0).random(shape, np.float32).astype(dtype)


def _typical_seconds(call: Callable[[], object]) -> float:
    """The lower quartile of several calls: others use the machine too."""
    call()
    taken: list[float] = []
    while sum(taken) < SECONDS or len(taken) < LEAST_CALLS:
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return sorted(taken)[len(taken) // 4]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the profile; returns the exit code."""
    p = argparse.ArgumentParser(prog="python -m profiling.op_profile", description=__doc__)
    p.add_argument("model", type=Path)
    p.add_argument("signature")
    asked = p.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            print(render(profile(read_model(asked.model), asked.signature, asked.model, Path(folder))))
    except AdabetError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
