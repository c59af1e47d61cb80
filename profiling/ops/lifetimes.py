"""What is alive when in a graph that runs: every value of arena and workspace, from birth to death, in its place.

A step is one op, in the order in which the runtime runs them. What XNNPACK got is one node to TFLite: what goes in or
comes out of it lies in the arena as long as the whole of it runs, and what it keeps to itself lies in the workspace,
where all that it got takes turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiling.ops.roles import Role, roles
from signatures.arenas import Lifetime, places
from signatures.builtin_memory import graph_values, nodes_of
from signatures.graph import Graph, Op, Signature, Tensor
from signatures.xnnpack import LITERT, Part, parts
from signatures.xnnpack_memory import part_values, readers_of

ARENA, WORKSPACE = SPACES = ("arena", "workspace")
ARGUMENT, SCRATCH = "argument", "scratch"
"""What a value is that no op makes; otherwise it is called by the stage of the op that makes it."""


@dataclass(frozen=True)
class Value:
    """Bytes that one value holds, and those that are written over it after it."""

    names: tuple[str, ...]
    """Of its tensors, one after the other; none where a kernel needs the bytes for itself."""
    shape: tuple[int, ...]
    n_bytes: int
    space: str
    place: int
    """Bytes from the start of its space."""
    born: int
    """The first step of its bytes; arguments are there from the start."""
    dies: int
    """The last step; arguments and results stay to the end."""
    made: int | None
    """The step that makes it; None for arguments. What leaves a delegated part is there before it is made."""
    read: int | None
    """The step that reads it last; None for results, which the caller does."""
    stage: str
    layer: str


@dataclass(frozen=True, eq=False)
class Timeline:
    """A graph that runs."""

    ops: tuple[Op, ...]
    """By step."""
    roles: tuple[Role, ...]
    """What each step is for."""
    spans: tuple[tuple[int, int, bool], ...]
    """First step, the one behind the last, and whether XNNPACK runs them: what TFLite cut the graph into."""
    values: tuple[Value, ...]

    def live_bytes(self, space: str | None = None) -> NDArray[np.int64]:
        """Bytes that are alive at each step, in one space or in both."""
        change = np.zeros(len(self.ops) + 1, np.int64)
        for value in self.values:
            if space in (None, value.space):
                change[value.born] += value.n_bytes
                change[value.dies + 1] -= value.n_bytes
        return np.cumsum(change)[:-1]

    @property
    def peak_step(self) -> int:
        """The first step at which the most is alive."""
        return int(np.argmax(self.live_bytes()))

    def alive(self, step: int) -> list[Value]:
        """What is alive at a step, largest first."""
        return sorted((v for v in self.values if v.born <= step <= v.dies), key=lambda v: -v.n_bytes)


def timeline(signature: Signature, runtime: str) -> Timeline:
    """When and where everything is alive while a signature's graph runs on `runtime`, one of signatures.xnnpack."""
    graph = signature.graph
    plan = parts(graph, runtime)
    ops = tuple(op for part in plan for op in part.ops)
    role = roles(signature)
    starts = np.cumsum([0, *(len(part.ops) for part in plan)]).tolist()
    known = _Known(
        made={tensor: (i, role[op]) for i, op in enumerate(ops) for tensor in op.outputs},
        read={tensor: i for i, op in enumerate(ops) for tensor in op.inputs if tensor not in graph.outputs},
        roles=tuple(role[op] for op in ops),
    )
    values = [*_in_arena(graph, plan, known), *_in_workspace(graph, plan, known, gap_at_start=runtime == LITERT)]
    return Timeline(
        ops,
        known.roles,
        tuple((start, end, part.delegated) for start, end, part in zip(starts, starts[1:], plan, strict=False)),
        tuple(value for value in values if value.n_bytes),
    )


@dataclass(frozen=True)
class _Known:
    """Who makes and reads tensors."""

    made: Mapping[Tensor, tuple[int, Role]]
    """The step that makes it, and what that is for."""
    read: Mapping[Tensor | None, int]
    """The last step that reads it; results are missing."""
    roles: tuple[Role, ...]
    """By step."""

    def value(self, life: Lifetime, space: str, place: int, born: int, dies: int) -> Value:
        """Bytes in their place, from the step `born` to the step `dies`."""
        if not life.tensors:
            layer = self.roles[born].layer
            return Value((), (), life.n_bytes, space, place, born, dies, born, dies, SCRATCH, layer)
        first, *_ = life.tensors
        made, role = self.made.get(first, (None, Role("", ARGUMENT)))
        read = None if any(t not in self.read for t in life.tensors) else max(self.read[t] for t in life.tensors)
        names = tuple(tensor.name for tensor in life.tensors)
        return Value(names, first.shape, life.n_bytes, space, place, born, dies, made, read, role.stage, role.layer)


def _in_arena(graph: Graph, plan: Sequence[Part], known: _Known) -> Iterable[Value]:
    starts = np.cumsum([0, *(len(node.ops) for node in nodes_of(plan))]).tolist()
    lifetimes = graph_values(graph, plan)
    for life, place in zip(lifetimes, places(lifetimes, gap_at_start=True).tolist(), strict=True):
        behind = starts[min(life.last + 1, len(starts) - 1)]
        yield known.value(life, ARENA, place, starts[life.first], behind - 1)


def _in_workspace(graph: Graph, plan: Sequence[Part], known: _Known, gap_at_start: bool) -> Iterable[Value]:
    readers = readers_of([graph])
    start = 0
    for part in plan:
        lifetimes = part_values(part, readers) if part.delegated else []
        for life, place in zip(lifetimes, places(lifetimes, gap_at_start).tolist(), strict=True):
            yield known.value(life, WORKSPACE, place, start + life.first, start + life.last)
        start += len(part.ops)
