"""Replay: the ops of a network again, at another batch size.

A value of the network becomes a tensor in which the images of the batch lie one behind the other along one axis, each
as a block of the side that it has in the network. Every op says whether it keeps blocks apart, and along which axis
they lie in its result; constants that spell out sizes are changed on the way. An op that does not keep them apart, or
that nothing is known of, runs once for each image, and its results are put together again: any network can be
replayed, and every result is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from signatures.builder import GraphBuilder
from signatures.errors import InputError
from signatures.graph import Graph, Op, Options, Tensor
from signatures.shapes import (
    ARITHMETIC,
    COMPARISONS,
    ELEMENTWISE,
    LAST_AXIS,
    constant_ints,
    infer,
    reduced_axes,
    slice_plan,
)

Slot = tuple[int, int]
"""One input of one op: (index of the op in its graph, index of the input)."""


@dataclass(frozen=True)
class Value:
    """A replayed tensor. `axis`: where the images lie one behind the other; None if it does not depend on them."""

    tensor: Tensor
    axis: int | None


@dataclass(frozen=True)
class Replayed:
    """A network that was emitted again."""

    batch: int
    values: Mapping[Tensor, Value]
    """By tensor of the network."""

    def by_image(self, b: GraphBuilder, tensor: Tensor) -> Tensor:
        """The replayed `tensor` as [batch, elements of one image]. InputError for one that no op makes."""
        if tensor not in self.values:
            raise InputError(f"{tensor.name!r} is to come out, but does not depend on the image")
        return by_image(b, self.values[tensor], self.batch)


def by_image(b: GraphBuilder, value: Value, batch: int) -> Tensor:
    """A value as [batch, elements of one image]."""
    shape, axis = value.tensor.shape, value.axis or 0
    outer = math.prod(shape[:axis])
    x = value.tensor
    if outer > 1:
        x = b.transpose(b.reshape(x, (outer, batch, x.size // (outer * batch))), (1, 0, 2))
    return b.reshape(x, (batch, x.size // batch))


def replay(
    b: GraphBuilder,
    network: Graph,
    inputs: Sequence[Tensor],
    batch: int,
    substitutes: Mapping[Slot, Tensor] | None = None,
    images: int = 1,
) -> Replayed:
    """Emit the ops of `network`, which takes `images` at once, again into `b`, for a batch of `batch`.

    `inputs`: the network's, each with the images one behind the other along its first axis. `substitutes` replaces
    single inputs of single ops (a constant by a variable's value, say); it goes by slot because a file may share one
    constant between layers. InputError if `inputs` do not fit, or an op that has to run image by image has a scalar
    result.
    """
    sizes = Sizes(b, images, batch)
    values = {}
    for source, x in zip(network.inputs, inputs, strict=True):
        if x.shape != sizes.grown_shape(source.shape, 0):
            raise InputError(f"the network takes {list(sizes.grown_shape(source.shape, 0))}, got {list(x.shape)}")
        values[source] = Value(x, 0)
    for index, op in enumerate(network.ops):
        own = [None if tensor is None else values.get(tensor, Value(tensor, None)) for tensor in op.inputs]
        for slot in range(len(own)):
            if substitutes and (index, slot) in substitutes:
                own[slot] = Value(substitutes[index, slot], None)
        values.update(zip(op.outputs, _emit(sizes, op, own), strict=True))
    return Replayed(batch, values)


@dataclass(frozen=True)
class Sizes:
    """From which batch size to which, and where constants go."""

    b: GraphBuilder
    old: int
    new: int

    def grown(self, side: int) -> int:
        """The side of an axis along which the images lie."""
        return side // self.old * self.new

    def grown_shape(self, shape: Sequence[int], axis: int) -> tuple[int, ...]:
        """A shape with its image axis grown."""
        return tuple(self.grown(side) if i == axis else side for i, side in enumerate(shape))

    def repeated(self, tensor: Tensor, axis: int) -> Tensor | None:
        """A constant, the same for each image, laid out along `axis`; None for what is no constant."""
        if tensor.data is None or tensor.shape[axis] % self.old:
            return None
        block = tensor.data[(slice(None),) * axis + (slice(tensor.shape[axis] // self.old),)]
        repeats = tuple(self.new if i == axis else 1 for i in range(len(tensor.shape)))
        return self.b.const(np.tile(block, repeats), f"{tensor.name}/repeated")


def _emit(sizes: Sizes, op: Op, inputs: Sequence[Value | None]) -> list[Value]:
    depends = any(value is not None and value.axis is not None for value in inputs)
    if not depends or sizes.old == sizes.new:
        return _emit_as_it_is(sizes.b, op, inputs, 0 if depends else None)
    if op.kind in _RULES and len(op.outputs) == 1:
        plan = _RULES[op.kind](sizes, op, inputs)
        if plan is not None and (value := _emit_batched(sizes, op, plan)) is not None:
            return [value]
    return _emit_by_image(sizes, op, inputs)


def _tensors(inputs: Sequence[Value | None]) -> list[Tensor | None]:
    return [None if value is None else value.tensor for value in inputs]


def _emit_as_it_is(b: GraphBuilder, op: Op, inputs: Sequence[Value | None], axis: int | None) -> list[Value]:
    outputs = tuple(Tensor(b.unique(t.name), t.shape, t.dtype) for t in op.outputs)
    b.ops.append(Op(op.kind, tuple(_tensors(inputs)), outputs, op.options, op.version))
    return [Value(tensor, axis) for tensor in outputs]


@dataclass(frozen=True)
class Plan:
    """How an op runs on the whole batch."""

    inputs: Sequence[Tensor | None]
    axis: int
    """Where the images lie in the result."""
    kind: str | None = None
    """What runs in its place, if it is another op."""
    options: Options | None = None


def _emit_batched(sizes: Sizes, op: Op, plan: Plan) -> Value | None:
    """None if the result is not that of one image, grown along the axis: broadcasting hides such things."""
    kind, options = plan.kind or op.kind, op.options if plan.options is None else plan.options
    try:
        shape, dtype = infer(kind, plan.inputs, options)
    except InputError:
        return None
    if shape != sizes.grown_shape(op.output.shape, plan.axis) or op.output.shape[plan.axis] % sizes.old:
        return None
    output = Tensor(sizes.b.unique(op.output.name), shape, dtype)
    sizes.b.ops.append(Op(kind, tuple(plan.inputs), (output,), options, 1 if plan.kind else op.version))
    return Value(output, plan.axis)


def _emit_by_image(sizes: Sizes, op: Op, inputs: Sequence[Value | None]) -> list[Value]:
    b = sizes.b
    if sizes.old != 1:
        raise InputError(
            f"{op.kind}, which makes {op.outputs[0].name!r}, mixes the {sizes.old} images that the file takes at once: "
            f"such a network cannot be run at another batch size"
        )
    if any(not tensor.shape for tensor in op.outputs):
        raise InputError(f"{op.kind}, which makes {op.outputs[0].name!r}, makes one number of a whole image")
    results: list[list[Tensor]] = [[] for _ in op.outputs]
    for image in range(sizes.new):
        own: list[Value | None] = []
        for value in inputs:
            if value is None or value.axis is None:
                own.append(value)
            else:
                side = value.tensor.shape[value.axis] // sizes.new
                part = b.slice(value.tensor, value.axis, image * side, (image + 1) * side)
                own.append(Value(part, None))
        for parts, made in zip(results, _emit_as_it_is(b, op, own, None), strict=True):
            parts.append(made.tensor)
    return [Value(b.concat(parts, axis=0), 0) for parts in results]


# Which ops keep the images apart -------------------------------------------------------------------------------------

Batching = Callable[[Sizes, Op, Sequence[Value | None]], Plan | None]
"""From an op and its replayed inputs, of which at least one depends on the images, to a plan; None if there is none."""
_RULES: dict[str, Batching] = {}


def _rule(*kinds: str) -> Callable[[Batching], Batching]:
    def register(function: Batching) -> Batching:
        for kind in kinds:
            assert kind not in _RULES, kind
            _RULES[kind] = function
        return function

    return register


def _first(inputs: Sequence[Value | None], slot: int = 0) -> int | None:
    """The image axis of the input in `slot`, if it is the only one that depends on the images."""
    axes = [None if value is None else value.axis for value in inputs]
    return axes[slot] if all(axis is None for i, axis in enumerate(axes) if i != slot) else None


@_rule(*ELEMENTWISE, "CAST", "DEQUANTIZE")
def _elementwise(_sizes: Sizes, _op: Op, inputs: Sequence[Value | None]) -> Plan | None:
    axis = _first(inputs)
    return None if axis is None else Plan(_tensors(inputs), axis)


@_rule(*LAST_AXIS)
def _over_last_axis(_sizes: Sizes, op: Op, inputs: Sequence[Value | None]) -> Plan | None:
    axis = _first(inputs)
    return None if axis is None or axis == len(op.output.shape) - 1 else Plan(_tensors(inputs), axis)


@_rule("REVERSE_V2", "CUMSUM")
def _along_axes(_sizes: Sizes, op: Op, inputs: Sequence[Value | None]) -> Plan | None:
    axis = _first(inputs)
    taken = reduced_axes(len(op.output.shape), op.input(1))
    return None if axis is None or axis in taken else Plan(_tensors(inputs), axis)


@_rule(*ARITHMETIC, *COMPARISONS, "SELECT", "SELECT_V2")
def _broadcast(sizes: Sizes, op: Op, inputs: Sequence[Value | None]) -> Plan | None:
    """Axes are aligned at the right; a constant with a side of its own along the images is repeated for each."""
    rank = len(op.output.shape)
    given = [value for value in inputs if value is not None]
    if op.kind == "SELECT" and len({len(value.tensor.shape) for value in given}) > 1:  # a condition for each row
        return None
    axis = min(value.axis + rank - len(value.tensor.shape) for value in given if value.axis is not None)
    operands: list[Tensor | None] = []
    for value, tensor in zip(given, op.inputs, strict=True):
        assert tensor is not None
        own = axis - (rank - len(tensor.shape))
        if value.axis is not None:
            operands.append(_moved(sizes, value, (1,) * (rank - len(tensor.shape)) + tensor.shape, axis))
        elif own >= 0 and tensor.shape[own] != 1:
            operands.append(sizes.repeated(value.tensor, own))
        else:
            operands.append(value.tensor)
    return None if None in operands else Plan(operands, axis)


def _moved(sizes: Sizes, value: Value, shape: tuple[int, ...], axis: int) -> Tensor | None:
    """A value, which has `shape` for one image, with the images along `axis`, as far as a RESHAPE can do it."""
    assert value.axis is not None
    now = value.axis + len(shape) - len(value.tensor.shape)
    if any(side != sizes.old for side in shape[axis:now]):
        return None
    return sizes.b.reshape(value.tensor, sizes.grown_shape(shape, axis))


@_rule(
    "CONV_2D", "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR",
    "SPACE_TO_DEPTH", "DEPTH_TO_SPACE",
)  # fmt: skip
def _over_pixels(_sizes: Sizes, _op: Op, inputs: Sequence[Value | None]) -> Plan | None:
    return Plan(_tensors(inputs), 0) if _first(inputs) == 0 else None


@_rule("TRANSPOSE_CONV")
def _transpose_conv(sizes: Sizes, op: Op, inputs: Sequence[Value | None]) -> Plan | None:
    if _first(inputs, 2) != 0:
        return None
    shape = sizes.b.ints(sizes.grown_shape(op.output.shape, 0), "shape")
    return Plan([shape, *_tensors(inputs)[1:]], 0)


@_rule("FULLY_CONNECTED")
def _fully_connected(_sizes: Sizes, op: Op, inputs: Sequence[Value | None]) -> Plan | None:
    axis, x = _first(inputs), op.input(0)
    if axis is None:
        return None
    if op.options.flag("KeepNumDims"):
        return Plan(_tensors(inputs), axis) if axis < len(x.shape) - 1 else None
    return Plan(_tensors(inputs), 0) if math.prod(x.shape[:axis]) == 1 else None


@_rule("BATCH_MATMUL")
def _batch_matmul(_sizes: Sizes, op: Op, inputs: Sequence[Value | None]) -> Plan | None:
    """Images among the leading axes, or as rows of x against the same y, or as columns of y against the same x."""
    rank = len(op.output.shape)
    axes: list[int] = []
    for value, adjoint, own in zip(inputs, ("AdjX", "AdjY"), (0, 1), strict=True):
        assert value is not None
        if value.axis is None:
            continue
        axis = value.axis + rank - len(value.tensor.shape)
        kept = rank - 2 + own  # rows of x, columns of y
        if axis >= rank - 2:
            axis = 2 * rank - 3 - axis if op.options.flag(adjoint) else axis
            if axis != kept or _first(inputs, own) is None:
                return None
        axes.append(axis)
    return Plan(_tensors(inputs), axes[0]) if len(set(axes)) == 1 else None


@_rule("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
def _reshape(sizes: Sizes, op: Op, inputs: Sequence[Value | None]) -> Plan | None:
    axis, x = _first(inputs), _tensors(inputs)[0]
    if axis is None or x is None:
        return None
    return _reshaped(sizes, x, math.prod(x.shape[:axis]), op.output.shape)


def _reshaped(sizes: Sizes, x: Tensor, outer: int, target: tuple[int, ...]) -> Plan | None:
    """x in the shape `target`, grown; `outer` is how many blocks an image has in it.

    The values keep their order, so the images lie along an axis of the result that has as much before it. Axes of side
    1 leave a choice, which is free: an axis of the images' own is best.
    """
    fit = [i for i, side in enumerate(target) if math.prod(target[:i]) == outer and side % sizes.old == 0]
    if not fit:
        return None
    axis = next((i for i in fit if target[i] == sizes.old), fit[-1])
    shape = sizes.b.ints(sizes.grown_shape(target, axis), "shape")
    return Plan([x, shape], axis, "RESHAPE", Options("ReshapeOptions"))


@_rule("TRANSPOSE")
def _transpose(_sizes: Sizes, op: Op, inputs: Sequence[Value | None]) -> Plan | None:
    axis = _first(inputs)
    return None if axis is None else Plan(_tensors(inputs), constant_ints(op.input(1)).index(axis))


@_rule("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD")
def _reduce(sizes: Sizes, op: Op, inputs: Sequence[Value | None]) -> Plan | None:
    axis, x = _first(inputs), op.input(0)
    axes = reduced_axes(len(x.shape), op.input(1))
    if axis is None:
        return None
    if axis not in axes:
        dropped = 0 if op.options.flag("KeepDims") else sum(reduced < axis for reduced in axes)
        return Plan(_tensors(inputs), axis - dropped)
    if x.shape[axis] != 1:
        return None
    # Of one image, nothing is to be reduced along the image axis: over the others, and the axis goes by a RESHAPE.
    kept = _tensors(inputs)[0]
    assert kept is not None
    if others := [other for other in axes if other != axis]:
        kept = sizes.b.emit(op.kind, (kept, sizes.b.ints(others, "axes")), op.options.replace(KeepDims=True))
    return _reshaped(sizes, kept, math.prod(kept.shape[:axis]), op.output.shape)


@_rule("PAD", "PADV2", "MIRROR_PAD")
def _pad(_sizes: Sizes, op: Op, inputs: Sequence[Value | None]) -> Plan | None:
    axis = _first(inputs)
    pairs = constant_ints(op.input(1))
    return None if axis is None or pairs[2 * axis] or pairs[2 * axis + 1] else Plan(_tensors(inputs), axis)


@_rule("CONCATENATION", "PACK")
def _join(sizes: Sizes, op: Op, inputs: Sequence[Value | None]) -> Plan | None:
    given = [value for value in inputs if value is not None]
    axes = {value.axis for value in given if value.axis is not None}
    if len(axes) != 1:
        return None
    (axis,) = axes
    along = op.options.integer("Axis") % len(op.output.shape)
    if op.kind == "CONCATENATION" and along == axis:
        return None
    parts = [sizes.repeated(v.tensor, axis) if v.axis is None else v.tensor for v in given]
    return None if None in parts else Plan(parts, axis + (op.kind == "PACK" and along <= axis))


@_rule("SLICE")
def _slice(sizes: Sizes, op: Op, inputs: Sequence[Value | None]) -> Plan | None:
    axis, x = _first(inputs), op.input(0)
    begins = constant_ints(op.input(1))
    if axis is None or begins[axis] != 0 or op.output.shape[axis] != x.shape[axis]:
        return None
    lengths = sizes.b.ints(sizes.grown_shape(op.output.shape, axis), "lengths")
    return Plan([*_tensors(inputs)[:2], lengths], axis)


@_rule("STRIDED_SLICE")
def _strided_slice(sizes: Sizes, op: Op, inputs: Sequence[Value | None]) -> Plan | None:
    axis, x = _first(inputs), op.input(0)
    plan = slice_plan(op.inputs, op.options)
    if axis is None or plan.ranges[axis] != range(x.shape[axis]) or plan.results[axis] is None:
        return None
    operands, options, entry = _tensors(inputs), op.options, plan.entries[axis]
    if entry is not None:
        options = options.replace(EndMask=options.integer("EndMask") | 1 << entry)
    result = plan.results[axis]
    return None if result is None else Plan(operands, result, options=options)


@_rule("GATHER")
def _gather(_sizes: Sizes, op: Op, inputs: Sequence[Value | None]) -> Plan | None:
    axis, along = _first(inputs), op.options.integer("Axis") % len(op.input(0).shape)
    if axis is None or axis == along:
        return None
    return Plan(_tensors(inputs), axis if axis < along else axis + len(op.input(1).shape) - 1)


@_rule("TILE")
def _tile(_sizes: Sizes, op: Op, inputs: Sequence[Value | None]) -> Plan | None:
    axis = _first(inputs)
    return None if axis is None or constant_ints(op.input(1))[axis] != 1 else Plan(_tensors(inputs), axis)


@_rule("BROADCAST_TO")
def _broadcast_to(sizes: Sizes, op: Op, inputs: Sequence[Value | None]) -> Plan | None:
    axis, target = _first(inputs), op.output.shape
    if axis is None:
        return None
    axis += len(target) - len(op.input(0).shape)
    return Plan([_tensors(inputs)[0], sizes.b.ints(sizes.grown_shape(target, axis), "shape")], axis)
