"""Memory of a loaded model: how many bytes an interpreter takes for it, predicted from the graphs alone.

A graph is cut into parts by what XNNPACK takes (`xnnpack.parts`). Values inside a delegated part live in one workspace
that all delegated parts share; what crosses between parts lives in an arena of the graph. XNNPACK packs its own copy
of every constant weight, once a use, and the mapped file's pages stay resident once they are read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from signatures.arenas import ALIGNMENT, Lifetime, arena_bytes
from signatures.graph import Graph, Model, Op, Tensor
from signatures.shapes import VALID, reduced_axes
from signatures.xnnpack import LITERT, TFLITE214, VARIABLE_OPS, Part, parts

CODE_BYTES = 5 << 20
"""Pages of the interpreter's and XNNPACK's own code, tables and thread stacks that become resident. Measured."""
BYTES_AN_OP = 2500
"""Heap of the interpreter for one op and its tensors, its node in XNNPACK included. Measured."""
CHANNEL_TILE = 32
"""XNNPACK pads the output channels of packed weights to its kernels' tile: 8 to 32."""
POINTER_BYTES = 8
"""Of an address, on a 64-bit machine."""
EXTRA_BYTES = 16
"""XNNPACK reads beyond a value's end, so every value has this more (XNN_EXTRA_BYTES)."""


@dataclass(frozen=True)
class Footprint:
    """Bytes that a process takes for one loaded model after its signatures have run."""

    arena_bytes: int
    """Of all graphs run: inputs, outputs, and what crosses between delegated parts."""
    workspace_bytes: int
    """Of XNNPACK, shared by all delegated parts."""
    packed_bytes: int
    """XNNPACK's copies of constant weights, of all graphs of the file."""
    variable_bytes: int
    """Variables, on the heap."""
    interpreter_bytes: int
    """Objects of the interpreter."""
    growing_bytes: int
    """What more is needed while the workspace grows, if that is the peak."""
    file_bytes: int
    """Pages of the mapped file that were read."""
    code_bytes: int = CODE_BYTES
    """Pages of the interpreter's own code."""

    @property
    def anonymous_bytes(self) -> int:
        """All that no file backs."""
        return (
            self.arena_bytes
            + self.workspace_bytes
            + self.packed_bytes
            + self.variable_bytes
            + self.interpreter_bytes
            + self.growing_bytes
        )

    @property
    def total_bytes(self) -> int:
        """What the process grows by at its peak."""
        return self.anonymous_bytes + self.file_bytes + self.code_bytes


def footprint(model: Model, signatures: Sequence[str], runtime: str) -> Footprint:
    """Bytes that the named signatures of `model` take in an interpreter; arrays that the caller feeds are not counted.

    `runtime` is `xnnpack.LITERT` or `xnnpack.TFLITE214`, or a distribution's name as `runtime.interpreter_module`
    says it.
    """
    kind = TFLITE214 if runtime.startswith("tflite") else LITERT
    plans = {graph: parts(graph, kind) for graph in model.graphs}
    used = list(dict.fromkeys(model.signature(name).graph for name in signatures))
    calls = [op.options.integer("InitSubgraphIndex") for g in used for op in g.ops if op.kind == "CALL_ONCE"]
    called = [model.graphs[i] for i in dict.fromkeys(calls)]
    arenas = sum(_arena(graph, plans[graph]) for graph in used)
    once = max((_arena(graph, plans[graph]) for graph in called), default=0)
    delegated = [part for graph in used for part in plans[graph] if part.delegated]
    workspace, growing = _workspace(delegated, _readers(used), gap_at_start=kind == LITERT)
    packed = sum(_packed(op) for plan in plans.values() for part in plan if part.delegated for op in part.ops)
    variables = sum(op.input(1).n_bytes for g in called for op in g.ops if op.kind == "ASSIGN_VARIABLE")
    objects = sum(BYTES_AN_OP * len(graph.ops) for graph in model.graphs)
    return Footprint(
        arena_bytes=arenas + max(0, once - workspace),
        workspace_bytes=workspace,
        packed_bytes=packed,
        variable_bytes=variables,
        interpreter_bytes=objects,
        growing_bytes=max(0, growing - workspace - arenas),
        file_bytes=_constants(model) + 200 * sum(len(graph.ops) for graph in model.graphs),
    )


def _constants(model: Model) -> int:
    """Bytes of all constants; those that share memory count once, as in the file."""
    known: dict[tuple[int, int], int] = {}
    for graph in model.graphs:
        for tensor in graph.tensors():
            if tensor.data is not None:
                known[tensor.data.__array_interface__["data"][0], tensor.n_bytes] = tensor.n_bytes
    return sum(known.values())


def _packed(op: Op) -> int:
    """Bytes that XNNPACK keeps for one delegated op: packed weights, tables of pointers to pixels, and zeros."""
    if op.kind in ("CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"):
        filter_ = op.input(1)
        weights = _tiled(filter_.shape[0]) * (math.prod(filter_.shape[1:]) + 1) * 4
        return weights + _pointers(op)
    if op.kind == "DEPTHWISE_CONV_2D":
        filter_ = op.input(1)
        return _tiled(filter_.shape[3]) * (math.prod(filter_.shape[1:3]) + 1) * 4 + _pointers(op)
    if op.kind == "MAX_POOL_2D":
        return _pointers(op)
    if op.kind == "BATCH_MATMUL" and op.input(1).data is not None:
        return _product_operand(op)
    if op.kind in ("SUM", "MEAN"):  # zeros in the place of rows that a tile lacks, where the last axis stays
        x = op.input(0)
        axes = reduced_axes(len(x.shape), op.input(1))
        if axes and axes[-1] != len(x.shape) - 1:
            return 4 * math.prod(x.shape[axes[-1] + 1 :]) + EXTRA_BYTES
    return 0


def _pointers(op: Op) -> int:
    """Bytes of the table of pointers to the pixels under a window: for one image, however many there are."""
    if op.kind == "FULLY_CONNECTED":
        return 0
    options, (_, height, width, _) = op.options, op.output.shape
    if op.kind == "MAX_POOL_2D":
        rows, columns = options.integer("FilterHeight", 1), options.integer("FilterWidth", 1)
    else:
        rows, columns = op.input(1).shape[1:3]
    if op.kind in ("CONV_2D", "TRANSPOSE_CONV"):
        strides = options.integer("StrideH", 1), options.integer("StrideW", 1)
        return 0 if (rows, columns, *strides) == (1, 1, 1, 1) else height * width * rows * columns * POINTER_BYTES
    spread = options.integer("DilationWFactor", 1) > 1
    step = columns if spread else min(options.integer("StrideW", 1), columns)  # windows side by side share pointers
    return height * (rows * columns + (width - 1) * step * rows) * POINTER_BYTES


def _product_operand(op: Op) -> int:
    """The right side of a BATCH_MATMUL, packed: in tiles of columns, with a bias."""
    y = op.input(1)
    inner, columns = y.shape[-2:][:: -1 if op.options.flag("AdjY") else 1]
    return math.prod(y.shape[:-2]) * _tiled(columns) * (inner + 1) * 4


def _tiled(channels: int) -> int:
    return -(-channels // CHANNEL_TILE) * CHANNEL_TILE


_IN_PLACE = frozenset(
    {
        "ABS", "ADD", "CEIL", "COS", "DIV", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOG",
        "LOGISTIC", "MAXIMUM", "MINIMUM", "MUL", "NEG", "PRELU", "RELU", "RELU6", "RELU_N1_TO_1", "RESHAPE",
        "EXPAND_DIMS", "ROUND", "RSQRT", "SIN", "SOFTMAX", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "SUB", "TANH",
    }
)  # fmt: skip
"""Ops of which XNNPACK writes the result over an operand that no other op reads."""


def _workspace(delegated: Sequence[Part], readers: dict[Tensor, set[Op]], gap_at_start: bool) -> tuple[int, int]:
    """Bytes of the shared workspace, and of its old and new one together when it grew, the most there were."""
    size = growing = 0
    for part in delegated:
        wanted = arena_bytes(_values(part, readers), gap_at_start)
        if wanted > size:
            growing, size = max(growing, size + wanted), wanted
    return size, growing


def _readers(graphs: Sequence[Graph]) -> dict[Tensor, set[Op]]:
    readers: dict[Tensor, set[Op]] = {}
    for graph in graphs:
        for op in graph.ops:
            for tensor in op.inputs:
                if tensor is not None:
                    readers.setdefault(tensor, set()).add(op)
        for tensor in graph.outputs:
            readers.setdefault(tensor, set()).add(_OUTSIDE)
    return readers


_OUTSIDE = Op("OUTSIDE", (), ())


def _values(part: Part, readers: dict[Tensor, set[Op]]) -> list[Lifetime]:
    """Values inside a delegated part: when each is needed, those that share memory as one."""
    inside = set(part.ops)
    step = {op: i for i, op in enumerate(part.ops)}
    made = (t for op in part.ops for t in op.outputs if t.dtype != "resource" and op.kind not in VARIABLE_OPS)
    internal = {t for t in made if readers.get(t, {_OUTSIDE}) <= inside}
    home: dict[Tensor, Tensor] = {}
    first: dict[Tensor, int] = {}
    last: dict[Tensor, int] = {}
    extra: list[Lifetime] = []
    for i, op in enumerate(part.ops):
        if op.kind == "BATCH_MATMUL" and op.input(1).data is None:
            extra.append(Lifetime(_product_operand(op), i, i))
        for output in op.outputs:
            if output not in internal:
                continue
            end = max(step[reader] for reader in readers[output])
            if _is_fused(op, readers):  # its reader reads its operand
                source, made_here = op.inputs[0], False
            else:
                source, made_here = _overwritten(op, output, internal, readers), True
            if source is not None and source in home:
                root = home[source]
                home[output], last[root] = root, max(last[root], end)
            elif made_here:
                home[output], first[output], last[output] = output, i, end
    return [Lifetime(t.n_bytes + EXTRA_BYTES, first[t], last[t]) for t in first] + extra


def _overwritten(op: Op, output: Tensor, internal: set[Tensor], readers: dict[Tensor, set[Op]]) -> Tensor | None:
    if op.kind not in _IN_PLACE or len(readers[output]) != 1:
        return None
    for tensor in op.inputs:
        if tensor is not None and tensor in internal and len(readers[tensor]) == 1 and tensor.n_bytes == output.n_bytes:
            return tensor
    return None


def _is_fused(op: Op, readers: dict[Tensor, set[Op]]) -> bool:
    """Whether the only reader of what a delegated op makes does the op's work: a padding, or a transposed factor."""
    if op.kind not in ("PAD", "TRANSPOSE") or len(readers.get(op.output, ())) != 1:
        return False
    (reader,) = readers[op.output]
    parameter = op.input(1).data
    assert parameter is not None
    if op.kind == "PAD":
        before_after = parameter.reshape(-1, 2)
        spatial = len(before_after) == 4 and not before_after[[0, 3]].any()
        return spatial and reader.kind in _CONVOLUTIONS and reader.options.integer("Padding") == VALID
    *others, row, column = (int(axis) for axis in parameter.reshape(-1))
    swapped = others == list(range(len(others))) and row == column + 1
    return swapped and reader.kind == "BATCH_MATMUL" and reader.inputs[1] is op.output


_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_SHARING = ("BITCAST", "EXPAND_DIMS", "RESHAPE", "SQUEEZE")
_ARITHMETIC = ("ADD", "DIV", "MUL", "SUB")


def _arena(graph: Graph, plan: Sequence[Part]) -> int:
    """Bytes of a graph's arena: values that a builtin op touches or that cross between delegated parts."""
    nodes = [node for part in plan for node in ([part.ops] if part.delegated else [(op,) for op in part.ops])]
    kinds = [part.delegated for part in plan for _ in ([0] if part.delegated else part.ops)]
    reads = [{t for op in node for t in op.inputs if t is not None and t.data is None} for node in nodes]
    makes = [{t for op in node for t in op.outputs} for node in nodes]
    last = {t: i for i, tensors in enumerate(reads) for t in tensors}
    last.update(dict.fromkeys([*graph.outputs, *graph.inputs], len(nodes)))
    uses: dict[Tensor, int] = {}
    occurrences = [inputs if taken else node[0].inputs for node, inputs, taken in zip(nodes, reads, kinds, strict=True)]
    for tensors in [*occurrences, graph.outputs, graph.inputs]:
        for tensor in tensors:
            if tensor is not None:
                uses[tensor] = uses.get(tensor, 0) + 1
    home: dict[Tensor, Tensor] = {}
    first = dict.fromkeys(graph.inputs, 0)
    extra: list[Lifetime] = []
    for i, node in enumerate(nodes):
        source = None
        if not kinds[i]:
            (op,) = node
            extra += [Lifetime(n_bytes, i, i) for n_bytes in _temporaries(op)]
            source = _shared(op, graph, uses, home)
        for tensor in makes[i]:
            if tensor.dtype == "resource" or (kinds[i] and last.get(tensor, -1) <= i):
                continue
            if source is not None:
                root = home.get(source, source)
                home[tensor] = root
                last[root] = max(last.get(root, i), last.get(tensor, i))
            else:
                first[tensor] = i
                last.setdefault(tensor, i)
    pinned = set(graph.inputs)
    lifetimes = [Lifetime(t.n_bytes, i, last[t], t in pinned) for t, i in first.items()]
    return arena_bytes([*lifetimes, *extra], gap_at_start=True) + ALIGNMENT


def _shared(op: Op, graph: Graph, uses: dict[Tensor, int], home: dict[Tensor, Tensor]) -> Tensor | None:
    """The operand whose buffer the result of a builtin op gets."""
    if op.kind not in (*_SHARING, *_ARITHMETIC) or op.output in graph.outputs:
        return None
    for tensor in op.inputs[: 1 if op.kind in _SHARING else 2]:
        if tensor is None or tensor.data is not None or tensor in graph.inputs:
            continue
        if op.kind in _SHARING:
            return tensor
        if tensor.n_bytes == op.output.n_bytes > 4 and uses[tensor] == 1 and uses[home.get(tensor, tensor)] == 1:
            return tensor
    return None


def _temporaries(op: Op) -> list[int]:
    """Bytes of what a builtin kernel needs while it runs."""
    if op.kind == "CONV_2D":
        filter_, y = op.input(1), op.output
        strides = op.options.integer("StrideH", 1), op.options.integer("StrideW", 1)
        if filter_.shape[1:3] != (1, 1) or strides != (1, 1):
            return [y.size // y.shape[-1] * math.prod(filter_.shape[1:]) * 4]  # im2col
    if op.kind == "BATCH_MATMUL":
        return [op.input(0).n_bytes, op.input(1).n_bytes]
    return []
