"""What a signature's ops take, as tables for a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from profiling.ops.lifetimes import ARENA, SPACES, WORKSPACE, Value
from profiling.ops.profile import OpProfile, TimedOp
from profiling.ops.roles import STAGES, TO_INPUT, TO_WEIGHT, UPDATE
from profiling.ops.times import LARGE, THREADS

FORMAT, VERSION = "adabet-op-profile", 1
_MIB = 1 << 20
_MOST = 15
"""Rows of a table; what is left is one row more."""
_WIDTH = 34
"""Of a name."""
_HEADS = f"{'ms':>10}{'share':>7}{'GFLOP':>8}{'GFLOP/s':>8}"


def document(title: str, profile: OpProfile) -> dict[str, Any]:
    """The profile as JSON types. Steps are positions in `ops`; bytes live at each step by space."""
    lived = profile.timeline
    return {
        "format": FORMAT,
        "version": VERSION,
        "title": title,
        "runtime": profile.runtime,
        "threads": THREADS,
        "times": profile.how,
        "call_s": profile.call_s,
        "limit_s": profile.limit_s,
        "large_rate": profile.large_rate,
        "ops": [asdict(op) for op in profile.ops],
        "parts": [{"first": first, "end": end, "in_xnnpack": taken} for first, end, taken in lived.spans],
        "memory": {
            "predicted_bytes": profile.memory.predicted_bytes,
            "measured_bytes": profile.memory.measured_bytes,
            "results_bytes": profile.memory.results_bytes,
            **asdict(profile.memory.predicted),
        },
        "values": [asdict(value) for value in lived.values],
        "live_bytes": {space: lived.live_bytes(space).tolist() for space in SPACES},
        "peak_step": lived.peak_step,
    }


def render(profile: OpProfile) -> str:
    """All tables."""
    sections = [_by_layer(profile.ops), _by_kind(profile.ops), _alike(profile.ops), _limit(profile)]
    return "\n\n".join("\n".join(lines) for lines in (*sections, _memory(profile), _peak(profile)))


def _by_layer(ops: Sequence[TimedOp]) -> list[str]:
    stages = [stage for stage in STAGES if any(op.stage == stage for op in ops)]
    lines = [f"{'layer, in ms':{_WIDTH}}" + "".join(f"{_short(stage):>10}" for stage in stages) + _HEADS]
    layers = _grouped(ops, lambda op: op.layer or f"({op.stage})")
    lines += _rows(layers, ops, lambda group: "".join(f"{_ms([o for o in group if o.stage == s])}" for s in stages))
    return lines


def _by_kind(ops: Sequence[TimedOp]) -> list[str]:
    lines = [f"{'kind, and what runs it':{_WIDTH}}{'ops':>6}" + _HEADS]
    kinds = _grouped(ops, lambda op: f"{op.kind:<22}{_runner(op)}")
    return lines + _rows(kinds, ops, lambda group: f"{len(group):>6}")


def _alike(ops: Sequence[TimedOp]) -> list[str]:
    lines = [f"{'slowest, of one kind and shape':{_WIDTH}}{'ops':>6}" + _HEADS + "  shapes"]
    alike = _grouped(ops, lambda op: (f"{op.kind:<22}{_runner(op)}", op.shapes))
    for (name, shapes), group in alike[:_MOST]:
        lines.append(f"{name:{_WIDTH}}{len(group):>6}{_figures(group, ops)}  {shapes}")
    return lines


def _grouped(ops: Sequence[TimedOp], key: Callable[[TimedOp], Any]) -> list[tuple[Any, list[TimedOp]]]:
    """Ops by `key`, what takes longest first."""
    groups = [(name, list(group)) for name, group in groupby(sorted(ops, key=key), key)]
    return sorted(groups, key=lambda item: -_seconds(item[1]))


def _rows(
    groups: Sequence[tuple[str, list[TimedOp]]], ops: Sequence[TimedOp], cells: Callable[[list[TimedOp]], str]
) -> list[str]:
    shown = list(groups[: _MOST if len(groups) > _MOST + 1 else None])
    if rest := groups[len(shown) :]:
        shown.append((f"{len(rest)} others", [op for _, group in rest for op in group]))
    shown.append(("all", list(ops)))
    return [f"{_cut(name):{_WIDTH}}{cells(group)}{_figures(group, ops)}" for name, group in shown]


def _figures(group: Sequence[TimedOp], ops: Sequence[TimedOp]) -> str:
    """Time, its share, products, and their rate."""
    seconds, total, gflop = _seconds(group), _seconds(ops), sum(op.flops for op in group) / 1e9
    rate = f"{gflop / seconds:.0f}" if gflop and seconds else ""
    return f"{seconds * 1e3:>10.2f}{seconds / total if total else 0:>7.1%}{gflop:>8.3f}{rate:>8}"


def _seconds(ops: Sequence[TimedOp]) -> float:
    return sum(op.seconds or 0.0 for op in ops)


def _ms(ops: Sequence[TimedOp]) -> str:
    return f"{_seconds(ops) * 1e3:>10.2f}" if ops else " " * 10


def _short(stage: str) -> str:
    return {TO_INPUT: "dx", TO_WEIGHT: "dW, db", UPDATE: "backward"}.get(stage, stage)


def _runner(op: TimedOp) -> str:
    return "XNNPACK" if op.in_xnnpack else "builtin"


def _limit(profile: OpProfile) -> list[str]:
    call_s, limit_s = profile.call_s, profile.limit_s
    lines = [
        f"times: {profile.how}; {profile.runtime}, {THREADS} threads",
        f"one call takes {call_s * 1e3:.2f} ms, with its arguments and results copied in and out",
    ]
    if profile.flops:
        lines.append(
            f"arithmetic limit {limit_s * 1e3:.2f} ms: {profile.flops / 1e9:.2f} GFLOP at "
            f"{profile.large_rate / 1e9:.0f} GFLOP/s, the rate of a product {' × '.join(map(str, LARGE))}; "
            f"a call takes {call_s / limit_s:.1f} times as long"
        )
    return lines


def _memory(profile: OpProfile) -> list[str]:
    memory, lived = profile.memory, profile.timeline
    f, live = memory.predicted, {space: _mib(int(lived.live_bytes(space).max(initial=0))) for space in SPACES}
    packing = sum(op.packed_bytes > 0 for op in profile.ops)
    rows: tuple[tuple[str, int, int, str], ...] = (
        ("arena", 0, f.arena_bytes, f"{live[ARENA]} alive at most"),
        ("XNNPACK's workspace", f.workspace_bytes + f.old_workspace_bytes, f.workspace_bytes,
         f"{live[WORKSPACE]} alive at most"),
        ("packed by XNNPACK", f.packed_bytes, f.packed_bytes, f"weights and tables of {packing} ops"),
        ("packed by builtin kernels", 0, f.operand_bytes, "operands of products"),
        ("variables", 0, f.variable_bytes, ""),
        ("interpreter", f.interpreter_bytes, f.interpreter_bytes, "objects of ops and tensors"),
        ("model file", f.file_bytes, f.read_again_bytes, "mapped"),
        ("code", f.code_bytes, f.code_bytes, "pages of the runtime's libraries"),
        ("results", memory.results_bytes, memory.results_bytes, "arrays that a call hands out"),
    )  # fmt: skip
    lines = [f"{'memory that is added, in MiB':{_WIDTH}}{'prepared':>10}{'run':>10}"]
    for name, prepared, run, note in rows:
        if prepared or run:
            lines.append(f"{name:{_WIDTH}}{_mib(prepared):>10}{_mib(run):>10}  {note}".rstrip())
    prepared, run = sum(row[1] for row in rows), sum(row[2] for row in rows)
    ratio = memory.predicted_bytes / memory.measured_bytes if memory.measured_bytes else float("inf")
    measured = f"measured in a fresh process {_mib(memory.measured_bytes)}; predicted : measured {ratio:.2f}"
    return [*lines, f"{'all':{_WIDTH}}{_mib(prepared):>10}{_mib(run):>10}  {measured}"]


def _peak(profile: OpProfile) -> list[str]:
    lived, step = profile.timeline, profile.timeline.peak_step
    alive = lived.alive(step)
    total = _bytes(alive)
    if not total:
        return ["nothing lies in arena or workspace"]
    lines = [
        f"alive at the peak of arena and workspace: {_mib(total)} MiB in {len(alive)} values, "
        f"at step {step} of {len(lived.ops)}: {_step(profile, step)}",
        f"{'values alike':{_WIDTH}}{'count':>6}{'MiB':>10}{'share':>7}{'from':>6}{'to':>6}  what: maker → last reader",
    ]
    groups: dict[str, list[Value]] = {}
    for value in alive:
        groups.setdefault(_story(profile, value), []).append(value)
    ranked = sorted(groups.items(), key=lambda item: -_bytes(item[1]))
    for story, group in ranked[:_MOST]:
        name = group[0].names[0] if group[0].names else "a kernel's own"
        span = f"{min(value.born for value in group):>6}{max(value.dies for value in group):>6}"
        lines.append(f"{_cut(name):{_WIDTH}}{len(group):>6}{_of(group, total)}{span}  {story}")
    if rest := [value for _, group in ranked[_MOST:] for value in group]:
        lines.append(f"{'others':{_WIDTH}}{len(rest):>6}{_of(rest, total)}")
    for stage in sorted({value.stage for value in alive}):
        of_stage = [value for value in alive if value.stage == stage]
        lines.append(f"{f'all: {stage}':{_WIDTH}}{len(of_stage):>6}{_of(of_stage, total)}")
    return lines


def _story(profile: OpProfile, value: Value) -> str:
    """What has the same is alike."""
    made, read = ("caller" if step is None else profile.ops[step].kind for step in (value.made, value.read))
    of_layer = f" of {value.layer}" if value.layer else ""
    return f"{list(value.shape)}, {value.stage}{of_layer}, {value.space}: {made} → {read}"


def _step(profile: OpProfile, step: int) -> str:
    op = profile.ops[step]
    return f"{op.kind}, {op.stage}{f' of {op.layer}' if op.layer else ''}"


def _bytes(values: Sequence[Value]) -> int:
    return sum(value.n_bytes for value in values)


def _of(values: Sequence[Value], total: int) -> str:
    return f"{_mib(_bytes(values)):>10}{_bytes(values) / total:>7.1%}"


def _mib(size: int) -> str:
    return f"{size / _MIB:.2f}"


def _cut(name: str) -> str:
    """The end of a long name, which tells more than its start."""
    return name if len(name) < _WIDTH else f"…{name[2 - _WIDTH :]}"
