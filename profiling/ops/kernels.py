"""Which op each kernel that the runtime reports belongs to: times of ops inside the runtime.

XNNPACK names its operators in its own words, leaves out what it does in passing (a padding, a factor turned round, one
RESHAPE of two), and adds what a kernel does not do itself: the clamp of a fused activation, the reshape before a dense
layer. In order, they are the ops of the part that it got.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from profiling.ops.litert_profiler import Kernel, kernels
from profiling.ops.times import OpTimes
from signatures.errors import CapabilityError
from signatures.graph import Graph, Op
from signatures.xnnpack import VARIABLE_OPS, Part

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_KINDS: Mapping[str, tuple[str, ...]] = {
    "ApproxGELU": ("GELU",),
    "Average Pooling": ("AVERAGE_POOL_2D",),
    "Bankders Rounding": ("ROUND",),
    "Bankers Rounding": ("ROUND",),
    "Batch Matrix Multiply": ("BATCH_MATMUL",),
    "Ceiling": ("CEIL",),
    "Clamp": ("MAXIMUM", "MINIMUM", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1"),
    "Constant Pad": ("PAD",),
    "Convolution": _CONVOLUTIONS,
    "Copy": ("CONCATENATION", "RESHAPE", "READ_VARIABLE", "ASSIGN_VARIABLE"),
    "Cosine": ("COS",),
    "Deconvolution": ("TRANSPOSE_CONV",),
    "Divide": ("DIV",),
    "Dynamic Fully Connected": ("FULLY_CONNECTED",),
    "Fully Connected": ("FULLY_CONNECTED", *_CONVOLUTIONS),
    "HardSwish": ("HARD_SWISH",),
    "LeakyReLU": ("LEAKY_RELU",),
    "Max Pooling": ("MAX_POOL_2D",),
    "Mean Squared": ("MEAN",),
    "Multiply": ("MUL",),
    "Negate": ("NEG",),
    "Normalize": ("SUM",),
    "Reciprocal Square Root": ("RSQRT",),
    "Sigmoid": ("LOGISTIC",),
    "Sine": ("SIN",),
    "Slice": ("SLICE", "STRIDED_SLICE"),
    "Square": ("MUL", "SQUARE"),
    "Square Root": ("SQRT",),
    "Static Expand Dims": ("EXPAND_DIMS",),
    "Static Reshape": ("RESHAPE",),
    "Subtract": ("SUB",),
}
"""What XNNPACK calls an operator → kinds of ops that it computes, where it is not the kind itself: Softmax, Max …"""
_IN_PASSING = ("EXPAND_DIMS", "PAD", "RESHAPE", "TRANSPOSE", *VARIABLE_OPS)
_BEFORE = (("Static Reshape", "FULLY_CONNECTED"), ("Transpose", "BATCH_MATMUL"))
"""Operators that prepare an op's operand."""
_WITH_SQUARES = ("Mean Squared", "Normalize")
"""Operators that do a product of a value with itself in passing."""


def inside(path: Path, signature: str, graph: Graph, plan: Sequence[Part]) -> OpTimes:
    """Times of the ops of a signature of the file `path`, whose graph XNNPACK cuts as `plan` says.

    CapabilityError if the installed runtime cannot tell, or tells of other ops than these.
    """
    return OpTimes(seconds_of(graph, plan, kernels(path, signature)), "each op inside ai-edge-litert, by its profiler")


def seconds_of(graph: Graph, plan: Sequence[Part], ran: Sequence[Kernel]) -> dict[Op, float]:
    """Seconds of each op; none for what XNNPACK does in passing. CapabilityError if `ran` are not kernels of `plan`."""
    delegated = [part for part in plan if part.delegated]
    seconds = {op: 0.0 for part in delegated for op in part.ops}
    by_part: dict[int, list[Kernel]] = {}
    for kernel in ran:
        if kernel.part is not None:
            by_part.setdefault(kernel.part, []).append(kernel)
        elif kernel.op is None or kernel.op >= len(graph.ops) or graph.ops[kernel.op] in seconds:
            raise CapabilityError(f"the runtime ran {kernel.name} by itself, which was not expected")
        else:
            seconds[graph.ops[kernel.op]] = kernel.seconds
    with_kernels = [part for part in delegated if not all(op.kind in VARIABLE_OPS for op in part.ops)]
    if sorted(by_part) != list(range(len(with_kernels))):
        raise CapabilityError(f"XNNPACK ran {len(by_part)} parts, {len(with_kernels)} were expected")
    for i, part in enumerate(with_kernels):
        for op, kernel in _matched(part.ops, by_part[i]):
            seconds[op] += kernel.seconds
    return seconds


def _matched(ops: Sequence[Op], ran: Sequence[Kernel]) -> list[tuple[Op, Kernel]]:
    """Each kernel with its op: the next one that it can be, where all between them are done in passing."""
    found: list[tuple[Op, Kernel]] = []
    position = 0
    for kernel in ran:
        name = kernel.name.partition(" (")[0]
        follows = found and _goes_on(found[-1][0], name)
        if follows and not (position < len(ops) and _computes(name, ops[position].kind)):
            found.append((found[-1][0], kernel))
            continue
        while position < len(ops) and not _computes(name, ops[position].kind):
            if (name, ops[position].kind) in _BEFORE:
                break
            if not _in_passing(name, ops[position]):
                raise CapabilityError(f"XNNPACK ran {kernel.name} where {ops[position].kind} was expected")
            position += 1
        if position == len(ops):
            raise CapabilityError(f"XNNPACK ran {kernel.name} behind the last op that was expected")
        found.append((ops[position], kernel))
        position += _computes(name, ops[position].kind)
    if left := [op.kind for op in ops[position:] if op.kind not in _IN_PASSING]:
        raise CapabilityError(f"XNNPACK ran no {', '.join(left)}, which was expected")
    return found


def _in_passing(name: str, op: Op) -> bool:
    """Whether XNNPACK may do `op` without an operator of its own, before the operator called `name`."""
    squares = name in _WITH_SQUARES and op.kind == "MUL" and op.inputs[0] is op.inputs[1]
    return op.kind in _IN_PASSING or squares


def _computes(name: str, kind: str) -> bool:
    return kind in _KINDS.get(name, (name.upper().replace(" ", "_"),))


def _goes_on(op: Op, name: str) -> bool:
    """Whether an operator goes on with the op before it: its activation, or the next of the values that it joins."""
    fuses = bool(op.options.integer("FusedActivationFunction"))
    return (name == "Clamp" and fuses) or (name == "Copy" and op.kind == "CONCATENATION")
