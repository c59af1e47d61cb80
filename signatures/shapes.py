"""Shape inference: the output shape and dtype of every op that we emit or re-batch. One function an op family.

Source of the rules: the `Prepare` functions of TensorFlow Lite's builtin kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from signatures.errors import InputError
from signatures.graph import Options, Tensor

Shape = tuple[int, ...]
Value = tuple[Shape, str]
"""Shape and dtype of one output."""
Inputs = Sequence[Tensor | None]
ShapeRule = Callable[[Inputs, Options], Value]


class ComputedShapeError(InputError):
    """A shape that a value decides which the network computes: only the runtime knows it."""


SAME, VALID = 0, 1
_RULES: dict[str, ShapeRule] = {}
BOOL = "bool"

ELEMENTWISE = (
    "RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "LEAKY_RELU", "ELU", "HARD_SWISH", "GELU", "LOGISTIC", "TANH",
    "EXP", "LOG", "SQRT", "RSQRT", "SQUARE", "ABS", "NEG", "SIGN", "SIN", "COS", "FLOOR", "CEIL", "ROUND",
    "LOGICAL_NOT",
)  # fmt: skip
"""Ops of one input that work value by value."""
LAST_AXIS = ("SOFTMAX", "LOG_SOFTMAX", "L2_NORMALIZATION")
"""Ops of one input that work over its last axis."""
ARITHMETIC = (
    "ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "POW", "PRELU", "FLOOR_DIV", "FLOOR_MOD",
)  # fmt: skip
COMPARISONS = (
    "EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "LOGICAL_AND", "LOGICAL_OR",
)  # fmt: skip
"""Both are value by value over two inputs, which are broadcast against each other."""


def infer(kind: str, inputs: Inputs, options: Options) -> Value:
    """Shape and dtype of the only output of op `kind`. InputError if the op is unknown or its inputs do not fit."""
    rule = _RULES.get(kind)
    if rule is None:
        raise InputError(f"no shape rule for {kind}: a network that uses it keeps the batch size of its file")
    return rule(inputs, options)


def can_infer(kind: str) -> bool:
    """Whether `infer` knows the op."""
    return kind in _RULES


def inferred_kinds() -> frozenset[str]:
    """The ops that `infer` knows."""
    return frozenset(_RULES)


def _rule(*kinds: str) -> Callable[[ShapeRule], ShapeRule]:
    def register(function: ShapeRule) -> ShapeRule:
        for kind in kinds:
            assert kind not in _RULES, kind
            _RULES[kind] = function
        return function

    return register


def _at(inputs: Inputs, index: int) -> Tensor:
    tensor = inputs[index] if index < len(inputs) else None
    if tensor is None:
        raise InputError(f"an op lacks its input {index}")
    return tensor


def constant_ints(tensor: Tensor) -> tuple[int, ...]:
    """The values of a constant integer tensor (axes, paddings, shapes), flat. InputError if it is anything else."""
    if tensor.data is None:
        raise ComputedShapeError(f"tensor {tensor.name!r} must be a constant: its value decides a shape")
    values = np.asarray(tensor.data)
    if not np.issubdtype(values.dtype, np.integer):
        raise InputError(f"tensor {tensor.name!r} holds {values.dtype}, expected integers: its value decides a shape")
    return tuple(int(v) for v in values.reshape(-1))


def window_output(size: int, window: int, stride: int, dilation: int, padding: int) -> int:
    """Length of a convolution's or pool's output along one axis, for padding SAME or VALID."""
    span = (window - 1) * dilation + 1
    length = -(-size // stride) if padding == SAME else (size - span) // stride + 1
    if length <= 0:
        raise InputError(f"a window of {span} does not fit into {size} pixels: the image size is too small")
    return length


def window_padding(size: int, window: int, stride: int, dilation: int, padding: int) -> tuple[int, int]:
    """Zeros before and after along one axis that SAME or VALID stands for (the odd one goes behind)."""
    if padding == VALID:
        return 0, 0
    span = (window - 1) * dilation + 1
    total = max(0, (window_output(size, window, stride, dilation, padding) - 1) * stride + span - size)
    return total // 2, total - total // 2


def _spatial(shape: Shape, window: tuple[int, int], options: Options) -> tuple[int, int]:
    padding = options.integer("Padding")
    strides = options.integer("StrideH", 1), options.integer("StrideW", 1)
    dilations = options.integer("DilationHFactor", 1), options.integer("DilationWFactor", 1)
    height, width = (window_output(shape[1 + i], window[i], strides[i], dilations[i], padding) for i in range(2))
    return height, width


@_rule("CONV_2D")
def _conv(inputs: Inputs, options: Options) -> Value:
    x, w = _at(inputs, 0), _at(inputs, 1)
    if len(x.shape) != 4 or len(w.shape) != 4 or x.shape[3] % w.shape[3]:
        raise InputError(f"CONV_2D cannot apply a filter {list(w.shape)} to {list(x.shape)}")
    return (x.shape[0], *_spatial(x.shape, (w.shape[1], w.shape[2]), options), w.shape[0]), x.dtype


@_rule("DEPTHWISE_CONV_2D")
def _depthwise(inputs: Inputs, options: Options) -> Value:
    x, w = _at(inputs, 0), _at(inputs, 1)
    if len(x.shape) != 4 or len(w.shape) != 4 or w.shape[3] % x.shape[3]:
        raise InputError(f"DEPTHWISE_CONV_2D cannot apply a filter {list(w.shape)} to {list(x.shape)}")
    return (x.shape[0], *_spatial(x.shape, (w.shape[1], w.shape[2]), options), w.shape[3]), x.dtype


@_rule("AVERAGE_POOL_2D", "MAX_POOL_2D")
def _pool(inputs: Inputs, options: Options) -> Value:
    x = _at(inputs, 0)
    window = options.integer("FilterHeight", 1), options.integer("FilterWidth", 1)
    return (x.shape[0], *_spatial(x.shape, window, options), x.shape[3]), x.dtype


@_rule("TRANSPOSE_CONV")
def _transpose_conv(inputs: Inputs, _options: Options) -> Value:
    return constant_ints(_at(inputs, 0)), _at(inputs, 2).dtype


@_rule("FULLY_CONNECTED")
def _fully_connected(inputs: Inputs, options: Options) -> Value:
    x, w = _at(inputs, 0), _at(inputs, 1)
    units, depth = w.shape
    if x.size % depth:
        raise InputError(f"FULLY_CONNECTED cannot apply weights {list(w.shape)} to {list(x.shape)}")
    lead = x.shape[:-1] if options.flag("KeepNumDims") else (x.size // depth,)
    return (*lead, units), x.dtype


@_rule("BATCH_MATMUL")
def _batch_matmul(inputs: Inputs, options: Options) -> Value:
    x, y = _at(inputs, 0), _at(inputs, 1)
    rows, inner = x.shape[-2:][:: -1 if options.flag("AdjX") else 1]
    inner_y, columns = y.shape[-2:][:: -1 if options.flag("AdjY") else 1]
    if inner != inner_y:
        raise InputError(f"BATCH_MATMUL cannot multiply {list(x.shape)} and {list(y.shape)} ({options.fields})")
    return (*np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), rows, columns), x.dtype


def broadcast(*shapes: Shape) -> Shape:
    """The common shape of operands. InputError if there is none."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise InputError(f"shapes {' and '.join(str(list(s)) for s in shapes)} do not broadcast") from None


@_rule(*ARITHMETIC)
def _broadcast(inputs: Inputs, _options: Options) -> Value:
    x, y = _at(inputs, 0), _at(inputs, 1)
    return broadcast(x.shape, y.shape), x.dtype


@_rule(*COMPARISONS)
def _comparison(inputs: Inputs, _options: Options) -> Value:
    return broadcast(_at(inputs, 0).shape, _at(inputs, 1).shape), BOOL


@_rule("SELECT")
def _select_rows(inputs: Inputs, options: Options) -> Value:
    condition, x, y = (_at(inputs, i) for i in range(3))
    if len(condition.shape) == 1 < len(x.shape) and condition.shape[0] == x.shape[0] and x.shape == y.shape:
        return x.shape, x.dtype  # a condition for each row
    return _select(inputs, options)


@_rule("SELECT_V2")
def _select(inputs: Inputs, _options: Options) -> Value:
    condition, x, y = (_at(inputs, i) for i in range(3))
    return broadcast(condition.shape, x.shape, y.shape), x.dtype


@_rule("CAST")
def _cast(inputs: Inputs, options: Options) -> Value:
    return _at(inputs, 0).shape, _CAST_TYPES.get(options.integer("OutDataType"), "an unknown type")


_CAST_TYPES = {0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: BOOL, 7: "int16", 9: "int8"}
"""The schema's TensorType, as far as casts between them concern us."""


@_rule("DEQUANTIZE")
def _dequantize(inputs: Inputs, _options: Options) -> Value:
    return _at(inputs, 0).shape, "float32"


@_rule(*ELEMENTWISE, *LAST_AXIS, "REVERSE_V2", "CUMSUM")
def _unary(inputs: Inputs, _options: Options) -> Value:
    x = _at(inputs, 0)
    return x.shape, x.dtype


def reduced_axes(rank: int, axes: Tensor) -> tuple[int, ...]:
    """The reduction axes, non-negative and sorted."""
    return tuple(sorted({axis % rank for axis in constant_ints(axes)}))


@_rule("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD")
def _reduce(inputs: Inputs, options: Options) -> Value:
    x = _at(inputs, 0)
    axes = reduced_axes(len(x.shape), _at(inputs, 1))
    if options.flag("KeepDims"):
        return tuple(1 if i in axes else side for i, side in enumerate(x.shape)), x.dtype
    return tuple(side for i, side in enumerate(x.shape) if i not in axes), x.dtype


@_rule("RESHAPE")
def _reshape(inputs: Inputs, options: Options) -> Value:
    x = _at(inputs, 0)
    wanted = constant_ints(_at(inputs, 1)) if len(inputs) > 1 else options.integers("NewShape")
    known = int(np.prod([side for side in wanted if side != -1], dtype=np.int64))
    shape = tuple(x.size // max(known, 1) if side == -1 else side for side in wanted)
    if int(np.prod(shape, dtype=np.int64)) != x.size:
        raise InputError(f"RESHAPE cannot turn {list(x.shape)} into {list(wanted)}")
    return shape, x.dtype


@_rule("TRANSPOSE")
def _transpose(inputs: Inputs, _options: Options) -> Value:
    x = _at(inputs, 0)
    return tuple(x.shape[axis] for axis in constant_ints(_at(inputs, 1))), x.dtype


@_rule("PAD", "PADV2", "MIRROR_PAD")
def _pad(inputs: Inputs, _options: Options) -> Value:
    x = _at(inputs, 0)
    pairs = np.reshape(constant_ints(_at(inputs, 1)), (-1, 2))
    return tuple(side + int(a) + int(b) for side, (a, b) in zip(x.shape, pairs, strict=True)), x.dtype


@_rule("SLICE")
def _slice(inputs: Inputs, _options: Options) -> Value:
    x, begins, sizes = _at(inputs, 0), constant_ints(_at(inputs, 1)), constant_ints(_at(inputs, 2))
    sides = zip(x.shape, begins, sizes, strict=True)
    return tuple(side - begin if size == -1 else size for side, begin, size in sides), x.dtype


@dataclass(frozen=True)
class SlicePlan:
    """What a STRIDED_SLICE takes, axis by axis of its input."""

    ranges: tuple[range, ...]
    """Positions taken."""
    entries: tuple[int | None, ...]
    """Which entry of begins, ends and strides speaks of the axis; None where none does, and everything is taken."""
    results: tuple[int | None, ...]
    """The axis of the output, None where it is dropped."""
    shape: Shape
    """Of the output."""


def slice_plan(inputs: Inputs, options: Options) -> SlicePlan:
    """Masks as in TensorFlow's `strided_slice`: bit i speaks of entry i of begins, ends and strides."""
    x = _at(inputs, 0)
    begins, ends, strides = (constant_ints(_at(inputs, i)) for i in (1, 2, 3))
    masks = {name: options.integer(f"{name}Mask") for name in ("Begin", "End", "Ellipsis", "NewAxis", "ShrinkAxis")}

    def has(mask: str, entry: int) -> bool:
        return bool(masks[mask] >> entry & 1)

    entries: list[int | None] = []
    results: list[int | None] = []
    ranges: list[range] = []
    shape: list[int] = []

    def take(axes: int) -> None:
        """Everything of the next axes."""
        for side in x.shape[len(ranges) : len(ranges) + axes]:
            ranges.append(range(side))
            entries.append(None)
            results.append(len(shape))
            shape.append(side)

    dense = [i for i in range(len(begins)) if not has("Ellipsis", i) and not has("NewAxis", i)]
    if len(dense) > len(x.shape):
        raise InputError(f"STRIDED_SLICE speaks of {len(dense)} axes of {list(x.shape)}")
    for i, (begin, end, stride) in enumerate(zip(begins, ends, strides, strict=True)):
        if has("Ellipsis", i):
            take(len(x.shape) - len(dense))
        elif has("NewAxis", i):
            shape.append(1)
        else:
            side = x.shape[len(ranges)]
            entries.append(i)
            if has("ShrinkAxis", i):
                position = begin + side if begin < 0 else begin
                ranges.append(range(position, position + 1))
                results.append(None)
                continue
            end = begin + end if options.flag("Offset") else end
            bounds = slice(None if has("Begin", i) else begin, None if has("End", i) else end, stride)
            ranges.append(range(*bounds.indices(side)))
            results.append(len(shape))
            shape.append(len(ranges[-1]))
    take(len(x.shape) - len(ranges))
    if any(len(r) == 0 or not 0 <= r[0] < side for r, side in zip(ranges, x.shape, strict=True)):
        raise ComputedShapeError(f"STRIDED_SLICE takes nothing of {list(x.shape)}")
    return SlicePlan(tuple(ranges), tuple(entries), tuple(results), tuple(shape))


@_rule("STRIDED_SLICE")
def _strided_slice(inputs: Inputs, options: Options) -> Value:
    return slice_plan(inputs, options).shape, _at(inputs, 0).dtype


@_rule("CONCATENATION")
def _concatenation(inputs: Inputs, options: Options) -> Value:
    parts = [_at(inputs, i) for i in range(len(inputs))]
    axis = options.integer("Axis") % len(parts[0].shape)
    total = sum(part.shape[axis] for part in parts)
    return (*parts[0].shape[:axis], total, *parts[0].shape[axis + 1 :]), parts[0].dtype


@_rule("SQUEEZE")
def _squeeze(inputs: Inputs, options: Options) -> Value:
    x = _at(inputs, 0)
    axes = {axis % len(x.shape) for axis in options.integers("SqueezeDims")}
    drop = axes or {i for i, side in enumerate(x.shape) if side == 1}
    return tuple(side for i, side in enumerate(x.shape) if i not in drop), x.dtype


@_rule("EXPAND_DIMS")
def _expand_dims(inputs: Inputs, _options: Options) -> Value:
    x = _at(inputs, 0)
    (axis,) = constant_ints(_at(inputs, 1))
    axis %= len(x.shape) + 1
    return (*x.shape[:axis], 1, *x.shape[axis:]), x.dtype


@_rule("TILE")
def _tile(inputs: Inputs, _options: Options) -> Value:
    x = _at(inputs, 0)
    return tuple(n * side for n, side in zip(constant_ints(_at(inputs, 1)), x.shape, strict=True)), x.dtype


@_rule("BROADCAST_TO")
def _broadcast_to(inputs: Inputs, _options: Options) -> Value:
    x = _at(inputs, 0)
    shape = constant_ints(_at(inputs, 1))
    if broadcast(x.shape, shape) != shape:
        raise InputError(f"BROADCAST_TO cannot stretch {list(x.shape)} to {list(shape)}")
    return shape, x.dtype


@_rule("GATHER")
def _gather(inputs: Inputs, options: Options) -> Value:
    x, positions = _at(inputs, 0), _at(inputs, 1)
    if options.integer("BatchDims"):
        raise ComputedShapeError("GATHER with batch dimensions is not supported")
    axis = options.integer("Axis") % len(x.shape)
    return (*x.shape[:axis], *positions.shape, *x.shape[axis + 1 :]), x.dtype


@_rule("PACK")
def _pack(inputs: Inputs, options: Options) -> Value:
    x = _at(inputs, 0)
    axis = options.integer("Axis") % (len(x.shape) + 1)
    return (*x.shape[:axis], len(inputs), *x.shape[axis:]), x.dtype


@_rule("SPACE_TO_DEPTH")
def _space_to_depth(inputs: Inputs, options: Options) -> Value:
    x, block = _at(inputs, 0), options.integer("BlockSize", 1)
    n, height, width, channels = x.shape
    if height % block or width % block:
        raise InputError(f"SPACE_TO_DEPTH cannot cut {list(x.shape)} into blocks of {block}")
    return (n, height // block, width // block, channels * block * block), x.dtype


@_rule("DEPTH_TO_SPACE")
def _depth_to_space(inputs: Inputs, options: Options) -> Value:
    x, block = _at(inputs, 0), options.integer("BlockSize", 1)
    n, height, width, channels = x.shape
    if channels % (block * block):
        raise InputError(f"DEPTH_TO_SPACE cannot make blocks of {block} of {list(x.shape)}")
    return (n, height * block, width * block, channels // (block * block)), x.dtype


@_rule("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
def _resize(inputs: Inputs, _options: Options) -> Value:
    x = _at(inputs, 0)
    height, width = constant_ints(_at(inputs, 1))
    return (x.shape[0], height, width, x.shape[3]), x.dtype


@_rule("ONE_HOT")
def _one_hot(inputs: Inputs, _options: Options) -> Value:
    (depth,) = constant_ints(_at(inputs, 1))
    return (*_at(inputs, 0).shape, depth), _at(inputs, 2).dtype


@_rule("FILL")
def _fill(inputs: Inputs, _options: Options) -> Value:
    return constant_ints(_at(inputs, 0)), _at(inputs, 1).dtype


# Ops with several results --------------------------------------------------------------------------------------------


def infer_parts(kind: str, inputs: Inputs, options: Options) -> tuple[Value, ...]:
    """Shapes and dtypes of the results of SPLIT, SPLIT_V or UNPACK. InputError if the inputs do not fit."""
    if kind == "UNPACK":
        x = _at(inputs, 0)
        axis = options.integer("Axis") % len(x.shape)
        return (((*x.shape[:axis], *x.shape[axis + 1 :]), x.dtype),) * x.shape[axis]
    x, axis, lengths = split_lengths(kind, inputs, options)
    return tuple(((*x.shape[:axis], length, *x.shape[axis + 1 :]), x.dtype) for length in lengths)


def split_lengths(kind: str, inputs: Inputs, options: Options) -> tuple[Tensor, int, tuple[int, ...]]:
    """What is split by a SPLIT or SPLIT_V, along which axis, into parts of which lengths."""
    x = _at(inputs, 1 if kind == "SPLIT" else 0)
    (axis,) = constant_ints(_at(inputs, 0 if kind == "SPLIT" else 2))
    axis %= len(x.shape)
    side = x.shape[axis]
    if kind == "SPLIT":
        count = options.integer("NumSplits", 1)
        lengths = (side // count,) * count
    else:
        lengths = constant_ints(_at(inputs, 1))
        rest = side - sum(length for length in lengths if length != -1)
        lengths = tuple(rest if length == -1 else length for length in lengths)
    if sum(lengths) != side or min(lengths) < 1:
        raise InputError(f"{kind} cannot cut {side} into {list(lengths)}")
    return x, axis, lengths
