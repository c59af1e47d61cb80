"""Shape inference: the output shape and dtype of every op that we emit or re-batch. One function an op family.

Source of the rules: the `Prepare` functions of TensorFlow Lite's builtin kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from signatures.errors import InputError
from signatures.graph import Options, Tensor

Shape = tuple[int, ...]
Value = tuple[Shape, str]
"""Shape and dtype of one output."""
Inputs = Sequence[Tensor | None]
ShapeRule = Callable[[Inputs, Options], Value]

SAME, VALID = 0, 1
_RULES: dict[str, ShapeRule] = {}


def infer(kind: str, inputs: Inputs, options: Options) -> Value:
    """Shape and dtype of the only output of op `kind`. InputError if the op is unknown or its inputs do not fit."""
    rule = _RULES.get(kind)
    if rule is None:
        raise InputError(f"no shape rule for {kind}: a network that uses it keeps the batch size of its file")
    return rule(inputs, options)


def can_infer(kind: str) -> bool:
    """Whether `infer` knows the op."""
    return kind in _RULES


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
    """The values of a constant integer tensor (axes, paddings, shapes), flat. InputError if it is computed."""
    if tensor.data is None:
        raise InputError(f"tensor {tensor.name!r} must be a constant: its value decides a shape")
    return tuple(int(v) for v in np.asarray(tensor.data).reshape(-1))


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


@_rule("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "POW")
def _broadcast(inputs: Inputs, _options: Options) -> Value:
    x, y = _at(inputs, 0), _at(inputs, 1)
    try:
        return np.broadcast_shapes(x.shape, y.shape), x.dtype
    except ValueError:
        raise InputError(f"shapes {list(x.shape)} and {list(y.shape)} do not broadcast") from None


@_rule(
    "RELU", "RELU6", "RELU_N1_TO_1", "LOGISTIC", "TANH", "EXP", "LOG", "SQRT", "RSQRT", "SQUARE", "ABS", "NEG", "SIGN",
    "SOFTMAX", "LOG_SOFTMAX",
)  # fmt: skip
def _unary(inputs: Inputs, _options: Options) -> Value:
    x = _at(inputs, 0)
    return x.shape, x.dtype


def reduced_axes(rank: int, axes: Tensor) -> tuple[int, ...]:
    """The reduction axes, non-negative and sorted."""
    return tuple(sorted({axis % rank for axis in constant_ints(axes)}))


@_rule("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")
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


@_rule("STRIDED_SLICE")
def _strided_slice(inputs: Inputs, options: Options) -> Value:
    x = _at(inputs, 0)
    begins, ends, strides = (constant_ints(_at(inputs, i)) for i in (1, 2, 3))
    if options.integer("EllipsisMask") or options.integer("NewAxisMask"):
        raise InputError("STRIDED_SLICE with an ellipsis or a new axis is not supported")
    shape = []
    for axis, side in enumerate(x.shape):
        if axis >= len(begins):
            shape.append(side)
            continue
        bit = 1 << axis
        begin = None if options.integer("BeginMask") & bit else begins[axis]
        end = None if options.integer("EndMask") & bit else ends[axis]
        if options.integer("ShrinkAxisMask") & bit:
            continue
        shape.append(len(range(*slice(begin, end, strides[axis]).indices(side))))
    return tuple(shape), x.dtype


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


@_rule("REVERSE_V2")
def _reverse(inputs: Inputs, _options: Options) -> Value:
    x = _at(inputs, 0)
    return x.shape, x.dtype


@_rule("ONE_HOT")
def _one_hot(inputs: Inputs, _options: Options) -> Value:
    (depth,) = constant_ints(_at(inputs, 1))
    return (*_at(inputs, 0).shape, depth), _at(inputs, 2).dtype


@_rule("FILL")
def _fill(inputs: Inputs, _options: Options) -> Value:
    return constant_ints(_at(inputs, 0)), _at(inputs, 1).dtype
