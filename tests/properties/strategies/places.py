"""Ops that only move values: other shapes, borders, parts, orders."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from signatures.builder import GraphBuilder
from signatures.graph import Options, Tensor
from tests.oracles.gradient_check import Case
from tests.properties.strategies.sketch import Shape, Sketch

REFLECT, SYMMETRIC = 0, 1
MOST_AXES = 5
"""What the kernels of both runtimes take of SLICE, STRIDED_SLICE, PAD and TRANSPOSE."""


@st.composite
def reshape(draw: st.DrawFn) -> Case:
    """Sides merged and split, one of them perhaps left to be found; the target as an input or as an option."""
    s = Sketch(draw, "RESHAPE")
    shape = s.shape(0, 5)
    target: list[int] = []
    for side in s.draw(st.permutations(shape)):
        if target and s.flag():
            target[-1] *= side
        else:
            target.append(side)
    target += [1] * s.integer(0, 2) if target or not shape else []
    if target and s.flag():
        target[s.integer(0, len(target) - 1)] = -1
    x = s.x(shape)
    if s.flag() and target:
        return s.op("RESHAPE", [x], "ReshapeOptions", NewShape=tuple(target))
    return s.op("RESHAPE", [x, s.b.ints(target, "shape")], "ReshapeOptions")


@st.composite
def squeeze(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "SQUEEZE")
    shape = s.draw(st.permutations([1, *s.shape(0, 4, most=3)]))
    ones = [i for i, side in enumerate(shape) if side == 1]
    axes = s.draw(st.sets(st.sampled_from(ones)))  # none: all of them
    dims = tuple(s.either_sign(axis, len(shape)) for axis in axes)
    return s.op("SQUEEZE", [s.x(tuple(shape))], "SqueezeOptions", SqueezeDims=dims)


@st.composite
def expand_dims(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "EXPAND_DIMS")
    shape = s.shape(0, 4)
    axis = s.axis(len(shape) + 1)
    return s.op("EXPAND_DIMS", [s.x(shape), s.b.ints(s.pick(axis, [axis]), "axis")], "ExpandDimsOptions")


@st.composite
def transpose(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "TRANSPOSE")
    shape = s.shape(1, MOST_AXES)
    axes = s.draw(st.permutations(range(len(shape))))
    return s.op("TRANSPOSE", [s.x(shape), s.b.ints(axes, "axes")], "TransposeOptions")


def _pairs(s: Sketch, shape: Shape, less: int | None = None) -> list[tuple[int, int]]:
    """Entries to add before and behind, along some axes; with `less`, at most the side less that."""
    limits = [2 if less is None else min(side - less, 2) for side in shape]
    return [s.pair(0, limit) if s.flag() else (0, 0) for limit in limits]


@st.composite
def pad(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "PAD")
    shape = s.shape(1, MOST_AXES)
    return s.op("PAD", [s.x(shape), s.b.ints(_pairs(s, shape), "paddings")], "PadOptions")


@st.composite
def pad_v2(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "PADV2")
    shape = s.shape(1, MOST_AXES)
    value = s.b.scalar(s.pick(0.0, -1.5, 3.0))
    return s.op("PADV2", [s.x(shape), s.b.ints(_pairs(s, shape), "paddings"), value], "PadV2Options")


@st.composite
def mirror_pad(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "MIRROR_PAD")
    shape, mode = s.shape(1, 4), s.pick(REFLECT, SYMMETRIC)
    pairs = _pairs(s, shape, less=1 if mode == REFLECT else 0)
    return s.op("MIRROR_PAD", [s.x(shape), s.b.ints(pairs, "paddings")], "MirrorPadOptions", Mode=mode)


@st.composite
def concatenation(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "CONCATENATION")
    shape = s.shape(1, 4)
    axis = s.axis(len(shape))
    roles = s.roles(s.integer(1, 4))
    shapes = [(*shape[: axis % len(shape)], s.integer(1, 4), *shape[axis % len(shape) + 1 :]) for _ in roles]
    parts = [s.operand(role, f"part{i}", shapes[i]) for i, role in enumerate(roles)]
    return s.op("CONCATENATION", parts, "ConcatenationOptions", Axis=axis)


@st.composite
def pack(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "PACK")
    shape = s.shape(0, 4)
    roles = s.roles(s.integer(1, 4))
    parts = [s.operand(role, f"part{i}", shape) for i, role in enumerate(roles)]
    return s.op("PACK", parts, "PackOptions", ValuesCount=len(parts), Axis=s.axis(len(shape) + 1))


def _some(s: Sketch, parts: tuple[Tensor, ...]) -> Case:
    """The case of some of an op's results, in any order, so that each has a gradient of its own or none."""
    chosen = s.draw(st.lists(st.sampled_from(range(len(parts))), min_size=1, max_size=3))
    flat = [s.b.reshape(parts[i], [math.prod(parts[i].shape)]) for i in chosen]
    return s.case(s.b.concat(flat, 0) if len(flat) > 1 else s.b.unary("NEG", parts[chosen[0]]))


@st.composite
def split(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "SPLIT")
    count, shape = s.integer(1, 4), list(s.shape(1, 4))
    axis = s.axis(len(shape))
    shape[axis] *= count
    inputs = [s.b.ints(s.pick(axis, [axis]), "axis"), s.x(tuple(shape))]
    return _some(s, s.b.emit_many("SPLIT", inputs, Options("SplitOptions", {"NumSplits": count})))


@st.composite
def split_v(draw: st.DrawFn) -> Case:
    """Parts of different lengths, one of them perhaps left to be found."""
    s = Sketch(draw, "SPLIT_V")
    sizes, shape = list(s.shape(1, 4)), list(s.shape(1, 4))
    axis = s.axis(len(shape))
    shape[axis] = sum(sizes)
    if s.flag():
        sizes[s.integer(0, len(sizes) - 1)] = -1
    inputs = [s.x(tuple(shape)), s.b.ints(sizes, "sizes"), s.b.ints(s.pick(axis, [axis]), "axis")]
    return _some(s, s.b.emit_many("SPLIT_V", inputs, Options("SplitVOptions", {"NumSplits": len(sizes)})))


@st.composite
def unpack(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "UNPACK")
    shape = s.shape(1, 4)
    axis = s.axis(len(shape))
    options = Options("UnpackOptions", {"Num": shape[axis], "Axis": axis})
    return _some(s, s.b.emit_many("UNPACK", [s.x(shape)], options))


@st.composite
def slices(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "SLICE")
    shape = s.shape(1, MOST_AXES)
    begins = [s.integer(0, side - 1) for side in shape]
    sizes = [s.pick(-1, s.integer(1, side - begin)) for side, begin in zip(shape, begins, strict=True)]
    return s.op("SLICE", [s.x(shape), s.b.ints(begins, "begins"), s.b.ints(sizes, "sizes")], "SliceOptions")


@dataclass
class _Spec:
    """The operands of a STRIDED_SLICE, entry by entry, and its masks."""

    entries: list[tuple[int, int, int]]
    masks: dict[str, int]

    def add(self, entry: tuple[int, int, int], *masks: str) -> None:
        for mask in masks:
            self.masks[mask] = self.masks.get(mask, 0) | 1 << len(self.entries)
        self.entries.append(entry)

    def emit(self, b: GraphBuilder, x: Tensor) -> Tensor:
        bounds = [b.ints([entry[i] for entry in self.entries], "bounds") for i in range(3)]
        return b.emit("STRIDED_SLICE", (x, *bounds), Options("StridedSliceOptions", self.masks))


def _range(s: Sketch, side: int, spec: _Spec) -> None:
    """Every stride-th entry between two, as it may be written: from the end, out of bounds, or by a mask."""
    begin, stride = s.integer(0, side - 1), s.pick(1, 2, 3, -1, -2)
    end = s.integer(begin + 1, side) if stride > 0 else s.integer(-1, begin - 1)
    masks = []
    if begin == (0 if stride > 0 else side - 1) and s.flag():
        masks.append("BeginMask")
        begin = s.integer(-side, side)
    elif s.flag():
        begin -= side
    if end == (side if stride > 0 else -1):
        how = s.pick("mask", "beyond")
        end = s.integer(-side, side) if how == "mask" else s.pick(side, side + 2) if stride > 0 else -side - 1
        masks += ["EndMask"] * (how == "mask")
    elif s.flag():
        end -= side
    spec.add((begin, end, stride), *masks)


@st.composite
def strided_slice(draw: st.DrawFn) -> Case:
    """Ranges, single entries, new axes, an ellipsis, and axes that the operands do not mention."""
    s = Sketch(draw, "STRIDED_SLICE")
    shape = s.shape(1, 4)
    spec = _Spec([], {})
    skipped = s.integer(0, len(shape)) if s.flag() else 0
    where = s.integer(0, len(shape) - skipped)
    by_ellipsis = skipped > 0 and (where < len(shape) - skipped or s.flag())
    new_axes = MOST_AXES - len(shape)
    axis = 0
    while axis < len(shape):
        if new_axes and s.integer(0, 4) == 4:
            new_axes -= 1
            spec.add((s.integer(-2, 2), s.integer(-2, 2), 1), "NewAxisMask")
        elif axis == where and skipped:
            if by_ellipsis:
                spec.add((s.integer(-2, 2), s.integer(-2, 2), 1), "EllipsisMask")
            axis, skipped = axis + skipped, 0
        elif s.integer(0, 3) == 3:
            begin = s.integer(0, shape[axis] - 1)
            begin = s.pick(begin, begin - shape[axis])
            spec.add((begin, begin + 1, 1), "ShrinkAxisMask")
            axis += 1
        else:
            _range(s, shape[axis], spec)
            axis += 1
    if not spec.entries:
        spec.add((0, 0, 1), "EllipsisMask")
    return s.case(spec.emit(s.b, s.x(shape)))


@st.composite
def gather(draw: st.DrawFn) -> Case:
    """Entries taken once, several times, or never."""
    s = Sketch(draw, "GATHER")
    shape = s.shape(1, 4)
    axis = s.axis(len(shape))
    indices = s.draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=6))
    target = s.pick((len(indices),), (1, len(indices)), (len(indices), 1)) if len(indices) > 1 or s.flag() else ()
    places = s.b.const(np.reshape(np.array(indices, np.int32), target), "indices")
    return s.op("GATHER", [s.x(shape), places], "GatherOptions", Axis=axis)


@st.composite
def tile(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "TILE")
    shape = s.shape(1, 4)
    return s.op("TILE", [s.x(shape), s.b.ints([s.integer(1, 3) for _ in shape], "multiples")], "TileOptions")


@st.composite
def broadcast_to(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "BROADCAST_TO")
    shape = s.shape(0, 4)
    target = [*s.shape(0, 4 - len(shape)), *(s.integer(1, 4) if side == 1 else side for side in shape)]
    return s.op("BROADCAST_TO", [s.x(shape), s.b.ints(target, "shape")], "BroadcastToOptions")


@st.composite
def reverse(draw: st.DrawFn) -> Case:
    """Along one axis: tflite-runtime 2.14.0 is wrong on two at once (FACTS §1)."""
    s = Sketch(draw, "REVERSE_V2")
    shape = s.shape(1, 5)
    return s.op("REVERSE_V2", [s.x(shape), s.b.ints([s.axis(len(shape))], "axis")], "ReverseV2Options")


@st.composite
def space_to_depth(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "SPACE_TO_DEPTH")
    block = s.integer(2, 3)
    x = s.x((s.integer(1, 3), *(block * side for side in s.pair(1, 3)), s.integer(1, 3)))
    return s.op("SPACE_TO_DEPTH", [x], "SpaceToDepthOptions", BlockSize=block)


@st.composite
def depth_to_space(draw: st.DrawFn) -> Case:
    s = Sketch(draw, "DEPTH_TO_SPACE")
    block = s.integer(2, 3)
    x = s.x((s.integer(1, 3), *s.pair(1, 3), block * block * s.integer(1, 3)))
    return s.op("DEPTH_TO_SPACE", [x], "DepthToSpaceOptions", BlockSize=block)


STRATEGIES = {
    "RESHAPE": reshape(),
    "SQUEEZE": squeeze(),
    "EXPAND_DIMS": expand_dims(),
    "TRANSPOSE": transpose(),
    "PAD": pad(),
    "PADV2": pad_v2(),
    "MIRROR_PAD": mirror_pad(),
    "CONCATENATION": concatenation(),
    "PACK": pack(),
    "SPLIT": split(),
    "SPLIT_V": split_v(),
    "UNPACK": unpack(),
    "SLICE": slices(),
    "STRIDED_SLICE": strided_slice(),
    "GATHER": gather(),
    "TILE": tile(),
    "BROADCAST_TO": broadcast_to(),
    "REVERSE_V2": reverse(),
    "SPACE_TO_DEPTH": space_to_depth(),
    "DEPTH_TO_SPACE": depth_to_space(),
}
