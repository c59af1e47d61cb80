"""Memory of a loaded model: how many bytes an interpreter takes for it, predicted from the graphs alone.

A graph is cut into parts by what XNNPACK takes (`xnnpack.parts`). Values inside a delegated part live in one workspace
that all delegated parts share; what crosses between parts lives in an arena of the graph. XNNPACK packs its own copy
of every constant weight, once a use, and the mapped file's pages stay resident once they are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from signatures.builtin_memory import graph_arena_bytes, ruy_bytes
from signatures.graph import Model, Op
from signatures.xnnpack import LITERT, TFLITE214, kind_of, parts
from signatures.xnnpack_memory import kept_bytes, readers_of, workspace_bytes

CODE_BYTES = 5 << 20
"""Pages of the interpreter's and XNNPACK's own code that become resident after it is imported, and thread stacks.
Measured by profiling.memory_lab on x86-64: 3.4 to 3.8 MiB of files in ai-edge-litert 2.3; the rest is margin."""
BYTES_AN_OP = 2500
"""Heap for one op and its tensors, its node in XNNPACK included. Measured: 2,200 to 2,500 on ai-edge-litert 2.3."""
FILE_BYTES_AN_OP = 120
"""Flatbuffer of an op and its tensors, about."""


@dataclass(frozen=True)
class Footprint:
    """Bytes that a process takes for one model that `ondevice.runtime.LoadedModel` loads and runs.

    Arrays that the caller feeds and those that it gets are not counted.
    """

    arena_bytes: int
    """Of all graphs run: inputs, outputs, and what crosses between delegated parts."""
    workspace_bytes: int
    """Of XNNPACK, shared by all delegated parts."""
    old_workspace_bytes: int
    """The largest workspace that was there, outgrown, while a larger one was made: before the arena is written."""
    packed_bytes: int
    """What XNNPACK makes of constant weights, and tables that it keeps for an op: of all graphs of the file."""
    operand_bytes: int
    """Operands of products that tflite-runtime's builtin kernels make, packed by ruy, which keeps the space."""
    variable_bytes: int
    """Variables, on the heap."""
    interpreter_bytes: int
    """Objects of the interpreter, and of our own reader."""
    file_bytes: int
    """The mapped file: all of it is read while the model is prepared."""
    read_again_bytes: int
    """What of the file is read when the model runs: a file with one graph is given back once it is prepared."""
    code_bytes: int = CODE_BYTES
    """Pages of the interpreter's own code."""

    @property
    def anonymous_bytes(self) -> int:
        """All that no file backs, when the model runs."""
        held = self.arena_bytes + self.workspace_bytes + self.packed_bytes + self.operand_bytes
        return held + self.variable_bytes + self.interpreter_bytes

    @property
    def preparing_bytes(self) -> int:
        """The peak until the model is prepared."""
        spaces = self.workspace_bytes + self.old_workspace_bytes
        return self.code_bytes + self.interpreter_bytes + self.file_bytes + self.packed_bytes + spaces

    @property
    def running_bytes(self) -> int:
        """The peak afterwards."""
        return self.code_bytes + self.anonymous_bytes + self.read_again_bytes

    @property
    def peak_bytes(self) -> int:
        """The most that the process grows by."""
        return max(self.preparing_bytes, self.running_bytes)

    @property
    def total_bytes(self) -> int:
        """Everything together, the whole file with it: more than there is at any one time."""
        return self.anonymous_bytes + self.file_bytes + self.code_bytes


def footprint(model: Model, signatures: Sequence[str], runtime: str) -> Footprint:
    """Bytes that `model` takes in an interpreter once the named signatures have run.

    `runtime` is `xnnpack.LITERT` or `xnnpack.TFLITE214`, or what `ondevice.runtime.interpreter_module` calls it.
    """
    kind = kind_of(runtime)
    plans = {graph: parts(graph, kind) for graph in model.graphs}
    used = list(dict.fromkeys(model.signature(name).graph for name in signatures))
    calls = [op.options.integer("InitSubgraphIndex") for g in used for op in g.ops if op.kind == "CALL_ONCE"]
    called = [model.graphs[i] for i in dict.fromkeys(calls)]
    arenas = sum(graph_arena_bytes(graph, plans[graph]) for graph in used)
    once = max((graph_arena_bytes(graph, plans[graph]) for graph in called), default=0)  # given back when it has run
    delegated = [part for graph in used for part in plans[graph] if part.delegated]
    workspace, outgrown = workspace_bytes(delegated, readers_of(used), gap_at_start=kind == LITERT)
    taken = [op for plan in plans.values() for part in plan if part.delegated for op in part.ops]
    builtin = [op for graph in used for part in plans[graph] if not part.delegated for op in part.ops]
    n_ops = sum(len(graph.ops) for graph in model.graphs)
    file_bytes = _constant_bytes([op for graph in model.graphs for op in graph.ops]) + FILE_BYTES_AN_OP * n_ops
    again = [
        op for plan in plans.values() for part in plan for op in part.ops if not (part.delegated and kept_bytes(op))
    ]
    return Footprint(
        arena_bytes=arenas + max(0, once - workspace),
        workspace_bytes=workspace,
        old_workspace_bytes=outgrown,
        packed_bytes=sum(map(kept_bytes, taken)),
        operand_bytes=ruy_bytes(builtin) if kind == TFLITE214 else 0,
        variable_bytes=sum(op.input(1).n_bytes for g in called for op in g.ops if op.kind == "ASSIGN_VARIABLE"),
        interpreter_bytes=BYTES_AN_OP * n_ops,
        file_bytes=file_bytes,
        read_again_bytes=_constant_bytes(again) if len(model.graphs) == 1 else file_bytes,
    )


def _constant_bytes(ops: Iterable[Op]) -> int:
    """Bytes of all constants that `ops` read; those that share memory count once, as in the file."""
    known: dict[tuple[int, int], int] = {}
    for op in ops:
        for tensor in op.inputs:
            if tensor is not None and tensor.data is not None:
                known[tensor.data.__array_interface__["data"][0], tensor.n_bytes] = tensor.n_bytes
    return sum(known.values())
