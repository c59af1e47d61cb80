"""What a signature's ops take: the time of each, and memory, predicted and measured."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ondevice.runtime import interpreter_module
from profiling.memory_lab import measure_file
from profiling.ops.kernels import inside
from profiling.ops.lifetimes import Timeline, timeline
from profiling.ops.times import OpTimes, alone, call_seconds, large_rate
from signatures.errors import CapabilityError
from signatures.graph import Model, Op, Signature
from signatures.layers import op_macs
from signatures.memory import Footprint, footprint
from signatures.tflite_io import read_model
from signatures.xnnpack import Part, kind_of, parts
from signatures.xnnpack_memory import kept_bytes


@dataclass(frozen=True)
class TimedOp:
    """One op of the graph."""

    name: str
    """Of what it makes."""
    kind: str
    layer: str
    stage: str
    shapes: str
    in_xnnpack: bool
    flops: int
    seconds: float | None
    """None where nothing is known."""
    packed_bytes: int
    """What XNNPACK keeps for it: packed weights, tables."""


@dataclass(frozen=True)
class Memory:
    """What a process takes to load a model and run a signature."""

    predicted: Footprint
    results_bytes: int
    """Arrays that a call hands out."""
    measured_bytes: int
    """Added by loading the file and calling the signature twice, in a fresh process: its high-water mark, less what was
    resident before.
    """

    @property
    def predicted_bytes(self) -> int:
        """What `measured_bytes` was predicted to be."""
        return self.predicted.peak_bytes + self.results_bytes


@dataclass(frozen=True, eq=False)
class OpProfile:
    """A signature."""

    runtime: str
    ops: tuple[TimedOp, ...]
    """In the order in which they run, as the timeline's."""
    how: str
    """Where the times come from, in words."""
    call_s: float
    """One call, arguments and results copied in and out."""
    large_rate: float
    """Floating-point operations a second of a large product."""
    memory: Memory
    timeline: Timeline

    @property
    def flops(self) -> int:
        """Floating-point operations of all products; a multiply-add is two."""
        return sum(op.flops for op in self.ops)

    @property
    def limit_s(self) -> float:
        """The arithmetic limit: the time of all products at the rate of a large one."""
        return self.flops / self.large_rate


def profile(path: Path, name: str, timed_alone: bool) -> OpProfile:
    """Measure signature `name` of the file `path`. InputError for a file or signature that cannot be run."""
    model = read_model(path)
    signature = model.signature(name)
    runtime, _ = interpreter_module()
    kind = kind_of(runtime)
    plan = parts(signature.graph, kind)
    lived = timeline(signature, kind)
    taken = {op for part in plan if part.delegated for op in part.ops}
    times = _times(path, signature, plan, timed_alone)
    ops = tuple(
        TimedOp(
            name=op.outputs[0].name if op.outputs else "",
            kind=op.kind,
            layer=role.layer,
            stage=role.stage,
            shapes=_shapes(op),
            in_xnnpack=op in taken,
            flops=2 * op_macs(op),
            seconds=times.seconds.get(op),
            packed_bytes=kept_bytes(op) if op in taken else 0,
        )
        for op, role in zip(lived.ops, lived.roles, strict=True)
    )
    memory = _memory(path, model, signature, runtime)
    return OpProfile(runtime, ops, times.how, call_seconds(path, signature), large_rate(), memory, lived)


def _times(path: Path, signature: Signature, plan: Sequence[Part], timed_alone: bool) -> OpTimes:
    if not timed_alone:
        try:
            return inside(path, signature.name, signature.graph, plan)
        except CapabilityError as why:
            print(f"{why}: each op is timed alone instead", file=sys.stderr)
    return alone(signature.graph)


def _memory(path: Path, model: Model, signature: Signature, runtime: str) -> Memory:
    _, base_bytes, peak_bytes = measure_file(path, signature.name)
    results = sum(tensor.n_bytes for tensor in signature.outputs.values())
    predicted = footprint(model, [signature.name], runtime)
    return Memory(predicted, results, peak_bytes - base_bytes)


def _shapes(op: Op) -> str:
    operands = (f"{'const ' if t.data is not None else ''}{list(t.shape)}" for t in op.inputs if t and t.size > 4)
    results = (str(list(t.shape)) for t in op.outputs)
    return f"{', '.join(operands)} → {', '.join(results)}"
