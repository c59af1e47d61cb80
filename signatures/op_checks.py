"""Ops of a file, checked for what kernels take on trust: which ops, which options, and constants that steer a kernel.

The kernels of TFLite check much of what they are given, but not all of it: a stride of 0 is divided by, an omitted
input is followed. What a network may say of an op is therefore written down here, a function an op family, and every op
of a file goes through it before any interpreter sees the file. Shapes are `shapes`' affair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from signatures.errors import InputError
from signatures.graph import Op, Tensor
from signatures.shapes import (
    ARITHMETIC,
    COMPARISONS,
    ELEMENTWISE,
    LAST_AXIS,
    ComputedShapeError,
    can_infer,
    constant_ints,
)

SPLITS = ("SPLIT", "SPLIT_V", "UNPACK")
STATE = ("CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE")
OTHERS = (
    "SHAPE", "RANK", "RANGE", "ZEROS_LIKE", "ADD_N", "ARG_MAX", "ARG_MIN", "TOPK_V2", "GATHER_ND", "BROADCAST_ARGS",
    "REDUCE_ANY", "REDUCE_ALL", "L2_POOL_2D", "LOCAL_RESPONSE_NORMALIZATION",
)  # fmt: skip
"""Ops without a shape rule that the frozen part of a network may use."""

_HANDLE = "resource"
_ACTIVATIONS = 6
"""Values of the schema's ActivationFunctionType: NONE, RELU, RELU_N1_TO_1, RELU6, TANH, SIGN_BIT."""
_LONGEST_STEP = 1 << 12
"""Of strides, dilations and windows: their products stay far from where 32 bits end."""
_SMALL_WINDOW = 16
"""Windows of pools reach up to twice as far as the image, or this far: their gradients take an op a pixel."""

_OPTIONS: dict[str, str] = {
    "CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions", "TRANSPOSE_CONV": "TransposeConvOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions", "MAX_POOL_2D": "Pool2DOptions", "L2_POOL_2D": "Pool2DOptions",
    "SOFTMAX": "SoftmaxOptions", "SPACE_TO_DEPTH": "SpaceToDepthOptions", "DEPTH_TO_SPACE": "DepthToSpaceOptions",
    "SPLIT": "SplitOptions", "SPLIT_V": "SplitVOptions", "UNPACK": "UnpackOptions", "PACK": "PackOptions",
    "CALL_ONCE": "CallOnceOptions", "VAR_HANDLE": "VarHandleOptions",
    "LOCAL_RESPONSE_NORMALIZATION": "LocalResponseNormalizationOptions",
}  # fmt: skip
"""The options that an op has to have: without them, kernels and our rules take different defaults."""
_MAY_HAVE: dict[str, str] = {
    "ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions", "DIV": "DivOptions", "RESHAPE": "ReshapeOptions",
    "SQUEEZE": "SqueezeOptions", "GELU": "GeluOptions", "CUMSUM": "CumsumOptions", "CAST": "CastOptions",
    "L2_NORMALIZATION": "L2NormOptions", "ARG_MAX": "ArgMaxOptions", "ARG_MIN": "ArgMinOptions",
    "SHAPE": "ShapeOptions", "FULLY_CONNECTED": "FullyConnectedOptions", "BATCH_MATMUL": "BatchMatMulOptions",
    "ONE_HOT": "OneHotOptions", "CONCATENATION": "ConcatenationOptions", "GATHER": "GatherOptions",
    "STRIDED_SLICE": "StridedSliceOptions", "LEAKY_RELU": "LeakyReluOptions", "MIRROR_PAD": "MirrorPadOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions", "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "MEAN": "ReducerOptions", "SUM": "ReducerOptions", "REDUCE_MAX": "ReducerOptions", "REDUCE_MIN": "ReducerOptions",
    "REDUCE_PROD": "ReducerOptions", "REDUCE_ANY": "ReducerOptions", "REDUCE_ALL": "ReducerOptions",
}  # fmt: skip
"""The only options that an op may have; all zero without them."""
_MAY_OMIT: dict[str, int] = {"FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}
"""From which input on they may be omitted. Without a bias ai-edge-litert 2.3.0 refuses a CONV_2D, and crashes on a
DEPTHWISE_CONV_2D."""
_INPUTS: dict[str, tuple[int, int]] = {
    "CONV_2D": (3, 3), "DEPTHWISE_CONV_2D": (3, 3), "FULLY_CONNECTED": (2, 3), "TRANSPOSE_CONV": (3, 4),
    "CONCATENATION": (1, 1 << 16), "PACK": (1, 1 << 16), "ADD_N": (1, 1 << 16), "RESHAPE": (1, 2),
    "SELECT": (3, 3), "SELECT_V2": (3, 3), "SLICE": (3, 3), "STRIDED_SLICE": (4, 4), "ONE_HOT": (4, 4),
    "PADV2": (3, 3), "SPLIT": (2, 2), "SPLIT_V": (3, 3), "RANGE": (3, 3), "CALL_ONCE": (0, 0), "VAR_HANDLE": (0, 0),
}  # fmt: skip
"""How many inputs an op takes, from and to; others take two, or one."""
_UNARY = (
    *ELEMENTWISE, *LAST_AXIS, "CAST", "DEQUANTIZE", "AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D", "SQUEEZE",
    "SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "SHAPE", "RANK", "ZEROS_LIKE", "READ_VARIABLE", "UNPACK",
    "LOCAL_RESPONSE_NORMALIZATION",
)  # fmt: skip
_OUTPUTS: dict[str, int] = {"CALL_ONCE": 0, "ASSIGN_VARIABLE": 0, "TOPK_V2": 2}

_Check = Callable[[Op], None]
_CHECKS: dict[str, _Check] = {}


def check_op(op: Op, certain: bool) -> None:
    """Raise InputError where `op` is none that a network may have, or says what no kernel can do.

    `certain`: whether the shapes of its inputs are those that they will have; else what depends on them is not checked.
    """
    if not (can_infer(op.kind) or op.kind in (*SPLITS, *STATE, *OTHERS)):
        raise InputError(
            f"the op {op.kind} is not among those of plain networks: no control flow, tables, text, or quantisation"
        )
    _check_form(op)
    _check_handles(op)
    if op.kind == "ASSIGN_VARIABLE" and not certain:
        raise InputError("ASSIGN_VARIABLE of a value whose shape is not known beforehand")
    check_activation(op)
    for name in ("StrideW", "StrideH", "DilationWFactor", "DilationHFactor", "FilterWidth", "FilterHeight"):
        if name in op.options.fields:
            _within(op, name, op.options.integer(name), 1, _LONGEST_STEP)
    if "Padding" in op.options.fields:
        _within(op, "Padding", op.options.integer("Padding"), 0, 1)
    check = _CHECKS.get(op.kind)
    if certain and check is not None:
        try:
            check(op)
        except ComputedShapeError:  # what steers it is computed: the kernel looks at it then
            return


def _check_form(op: Op) -> None:
    table, needed, possible = op.options.table, _OPTIONS.get(op.kind), _MAY_HAVE.get(op.kind)
    if (needed is not None and table != needed) or (possible is not None and table not in (possible, "NONE")):
        raise InputError(f"{op.kind} has options {table}, expected {needed or possible}")
    least, most = _INPUTS.get(op.kind, (1, 1) if op.kind in _UNARY else (2, 2))
    if not least <= len(op.inputs) <= most:
        expected = f"{least} to {most}" if least < most else str(least)
        raise InputError(f"{op.kind} has {len(op.inputs)} inputs, expected {expected}")
    first = _MAY_OMIT.get(op.kind, most)
    if any(tensor is None for tensor in op.inputs[:first]):
        raise InputError(f"{op.kind} omits an input that it needs")
    outputs = _OUTPUTS.get(op.kind, 1)
    if op.kind not in SPLITS and len(op.outputs) != outputs:
        raise InputError(f"{op.kind} has {len(op.outputs)} outputs, expected {outputs}")


def _check_handles(op: Op) -> None:
    """Handles of variables go from their op to those that read or set, and nowhere else: they are no values."""
    handles = {i for i, tensor in enumerate(op.inputs) if tensor is not None and tensor.dtype == _HANDLE}
    expected = {0} if op.kind in ("READ_VARIABLE", "ASSIGN_VARIABLE") else set()
    made = any(tensor.dtype == _HANDLE for tensor in op.outputs)
    if handles != expected or made != (op.kind == "VAR_HANDLE"):
        raise InputError(f"{op.kind} takes or makes a handle of a variable as if it were a value")


def check_activation(op: Op) -> None:
    """Raise InputError for a fused activation that is none."""
    if "FusedActivationFunction" in op.options.fields:
        value = op.options.integer("FusedActivationFunction")
        _within(op, "FusedActivationFunction", value, 0, _ACTIVATIONS - 1)


def _within(op: Op, what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InputError(f"{op.kind} has {what} {value}, expected {least} to {most}")


def _axes(op: Op, values: Sequence[int], rank: int, what: str = "axis") -> None:
    for value in values:
        _within(op, what, value, -rank, rank - 1)


def _check(*kinds: str) -> Callable[[_Check], _Check]:
    def register(function: _Check) -> _Check:
        for kind in kinds:
            assert kind not in _CHECKS, kind
            _CHECKS[kind] = function
        return function

    return register


def _of_rank(op: Op, index: int, rank: int) -> Tensor:
    tensor = op.input(index)
    if len(tensor.shape) != rank:
        raise InputError(f"{op.kind} takes {list(tensor.shape)} as input {index}, expected {rank} axes")
    return tensor


def _same_types(op: Op, *indices: int) -> None:
    types = {tensor.dtype for i in indices if (tensor := op.optional(i)) is not None}
    if len(types) > 1:
        raise InputError(f"{op.kind} takes values of different types: {', '.join(sorted(types))}")


def _bias(op: Op, index: int, channels: int) -> None:
    bias = op.optional(index)
    if bias is not None and bias.size != channels:
        raise InputError(f"{op.kind} has a bias of {list(bias.shape)} for {channels} channels")


@_check(*ARITHMETIC, *COMPARISONS)
def _pair(op: Op) -> None:
    op.input(1)
    _same_types(op, 0, 1)


@_check("CONV_2D")
def _conv(op: Op) -> None:
    x, w = _of_rank(op, 0, 4), _of_rank(op, 1, 4)
    _same_types(op, 0, 1, 2)
    _bias(op, 2, w.shape[0])
    if x.shape[3] % w.shape[3] or w.shape[0] % (x.shape[3] // w.shape[3]):
        raise InputError(f"CONV_2D cannot part {x.shape[3]} channels for filters {list(w.shape)}")


@_check("DEPTHWISE_CONV_2D")
def _depthwise(op: Op) -> None:
    x, w = _of_rank(op, 0, 4), _of_rank(op, 1, 4)
    _same_types(op, 0, 1, 2)
    _bias(op, 2, w.shape[3])
    multiplier = op.options.integer("DepthMultiplier")
    if w.shape[0] != 1 or (multiplier != 0 and multiplier * x.shape[3] != w.shape[3]):
        raise InputError(
            f"DEPTHWISE_CONV_2D has DepthMultiplier {multiplier} and filters {list(w.shape)} for {x.shape[3]} channels"
        )


@_check("TRANSPOSE_CONV")
def _transpose_conv(op: Op) -> None:
    w, x = _of_rank(op, 1, 4), _of_rank(op, 2, 4)
    shape = constant_ints(op.input(0))
    _same_types(op, 1, 2, 3)
    _bias(op, 3, w.shape[0])
    strides = op.options.integer("StrideH"), op.options.integer("StrideW")
    padding = op.options.integer("Padding")
    fits = len(shape) == 4 and min(shape) > 0 and w.shape[3] == x.shape[3]
    for axis, stride in enumerate(strides, 1):
        if fits:  # the sides that its opposite, a convolution, would make of the result
            reach = shape[axis] - (w.shape[axis] if padding else 1)
            fits = reach >= 0 and reach // stride + 1 == x.shape[axis]
    if not fits or (shape[0], shape[3]) != (x.shape[0], w.shape[0]):
        raise InputError(f"TRANSPOSE_CONV cannot make {list(shape)} of {list(x.shape)} with filters {list(w.shape)}")


@_check("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D")
def _pool(op: Op) -> None:
    x = _of_rank(op, 0, 4)
    for name, side in (("FilterHeight", x.shape[1]), ("FilterWidth", x.shape[2])):
        _within(op, name, op.options.integer(name), 1, max(2 * side, _SMALL_WINDOW))


@_check("FULLY_CONNECTED")
def _fully_connected(op: Op) -> None:
    w = _of_rank(op, 1, 2)
    _same_types(op, 0, 1, 2)
    _bias(op, 2, w.shape[0])
    _within(op, "WeightsFormat", op.options.integer("WeightsFormat"), 0, 0)


@_check("BATCH_MATMUL")
def _batch_matmul(op: Op) -> None:
    _same_types(op, 0, 1)
    _within(op, "axes", min(len(op.input(0).shape), len(op.input(1).shape)), 2, 5)


@_check("SELECT", "SELECT_V2")
def _select(op: Op) -> None:
    _same_types(op, 1, 2)
    if op.input(0).dtype != "bool":
        raise InputError(f"{op.kind} chooses by {op.input(0).dtype}, expected bool")


@_check("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "REDUCE_ANY", "REDUCE_ALL")
def _reduce(op: Op) -> None:
    _axes(op, constant_ints(op.input(1)), len(op.input(0).shape))


@_check("REVERSE_V2", "CUMSUM", "EXPAND_DIMS", "ARG_MAX", "ARG_MIN")
def _along(op: Op) -> None:
    rank = len(op.input(0).shape)
    _axes(op, constant_ints(op.input(1)), rank + (op.kind == "EXPAND_DIMS"))


@_check("TRANSPOSE")
def _transpose(op: Op) -> None:
    axes = constant_ints(op.input(1))
    if sorted(axes) != list(range(len(op.input(0).shape))):
        raise InputError(f"TRANSPOSE of {list(op.input(0).shape)} orders its axes as {list(axes)}")


@_check("RESHAPE")
def _reshape(op: Op) -> None:
    wanted = constant_ints(op.input(1)) if len(op.inputs) > 1 else op.options.integers("NewShape")
    if wanted.count(-1) > 1 or min(wanted, default=0) < -1:
        raise InputError(f"RESHAPE to {list(wanted)}")


@_check("PAD", "PADV2", "MIRROR_PAD")
def _pad(op: Op) -> None:
    x, pads = op.input(0), constant_ints(op.input(1))
    if op.input(1).shape != (len(x.shape), 2) or min(pads) < 0:
        raise InputError(f"{op.kind} of {list(x.shape)} by {list(pads)}")
    if op.kind == "MIRROR_PAD":
        _within(op, "Mode", mode := op.options.integer("Mode"), 0, 1)
        for axis, side in enumerate(x.shape):
            _within(op, "padding", max(pads[2 * axis : 2 * axis + 2]), 0, side - (mode == 0))


@_check("SLICE")
def _slice(op: Op) -> None:
    _same_types(op, 1, 2)
    x, begins = op.input(0), constant_ints(op.input(1))
    if len(begins) != len(x.shape):  # also where the sizes are computed: a gradient needs no more than the beginnings
        raise InputError(f"SLICE of {list(x.shape)} from {list(begins)}")
    sizes = constant_ints(op.input(2))
    if len(sizes) != len(x.shape):
        raise InputError(f"SLICE of {list(x.shape)} from {list(begins)}, sizes {list(sizes)}")
    for side, begin, size in zip(x.shape, begins, sizes, strict=True):
        if begin < 0 or size < -1 or begin + max(size, 1) > side:
            raise InputError(f"SLICE of {list(x.shape)} from {list(begins)}, sizes {list(sizes)}")


@_check("STRIDED_SLICE")
def _strided_slice(op: Op) -> None:
    bounds = [constant_ints(op.input(i)) for i in (1, 2, 3)]
    if len({len(values) for values in bounds}) != 1 or 0 in bounds[2] or len(bounds[0]) > len(op.input(0).shape) + 4:
        raise InputError(f"STRIDED_SLICE of {list(op.input(0).shape)} by {bounds}")


@_check("CONCATENATION")
def _concatenation(op: Op) -> None:
    parts = [op.input(i) for i in range(len(op.inputs))]
    rank, axis = len(parts[0].shape), op.options.integer("Axis")
    _axes(op, [axis], rank)
    rests = {(*t.shape[: axis % rank], *t.shape[axis % rank + 1 :], t.dtype) for t in parts}
    if len(rests) > 1 or any(len(t.shape) != rank for t in parts):
        raise InputError(f"CONCATENATION of {' and '.join(str(list(t.shape)) for t in parts[:4])} along axis {axis}")


@_check("PACK")
def _pack(op: Op) -> None:
    parts = [op.input(i) for i in range(len(op.inputs))]
    _axes(op, [op.options.integer("Axis")], len(parts[0].shape) + 1)
    _within(op, "ValuesCount", op.options.integer("ValuesCount"), len(parts), len(parts))
    if len({(t.shape, t.dtype) for t in parts}) > 1:
        raise InputError("PACK of values of different shapes or types")


@_check("UNPACK")
def _unpack(op: Op) -> None:
    x, axis = op.input(0), op.options.integer("Axis")
    _axes(op, [axis], len(x.shape))
    if len(op.outputs) != x.shape[axis] or op.options.integer("Num") != x.shape[axis]:
        raise InputError(f"UNPACK of {list(x.shape)} into {len(op.outputs)} along axis {axis}")


@_check("SPLIT", "SPLIT_V")
def _split(op: Op) -> None:
    x, axis = (op.input(1), op.input(0)) if op.kind == "SPLIT" else (op.input(0), op.input(2))
    _axes(op, constant_ints(axis), len(x.shape))
    count = op.options.integer("NumSplits")
    _within(op, "NumSplits", count, len(op.outputs), len(op.outputs))


@_check("GATHER")
def _gather(op: Op) -> None:
    x, positions, axis = op.input(0), op.input(1), op.options.integer("Axis")
    _axes(op, [axis], len(x.shape))
    _within(op, "BatchDims", op.options.integer("BatchDims"), 0, len(positions.shape))
    if positions.data is not None and positions.size:
        side = x.shape[axis]
        _within(op, "position", int(positions.data.min()), 0, side - 1)
        _within(op, "position", int(positions.data.max()), 0, side - 1)


@_check("SQUEEZE")
def _squeeze(op: Op) -> None:
    x, axes = op.input(0), op.options.integers("SqueezeDims")
    _axes(op, axes, len(x.shape))
    if any(x.shape[axis] != 1 for axis in axes):
        raise InputError(f"SQUEEZE of {list(x.shape)} drops axes {list(axes)}")


@_check("TILE")
def _tile(op: Op) -> None:
    copies = constant_ints(op.input(1))
    if len(copies) != len(op.input(0).shape) or min(copies, default=1) < 1:
        raise InputError(f"TILE of {list(op.input(0).shape)} by {list(copies)}")


@_check("BROADCAST_TO", "FILL")
def _to_shape(op: Op) -> None:
    shape = constant_ints(op.input(1 if op.kind == "BROADCAST_TO" else 0))
    if min(shape, default=1) < 1 or len(shape) > 8:
        raise InputError(f"{op.kind} to {list(shape)}")


@_check("SPACE_TO_DEPTH", "DEPTH_TO_SPACE")
def _blocks(op: Op) -> None:
    _of_rank(op, 0, 4)
    _within(op, "BlockSize", op.options.integer("BlockSize"), 1, _LONGEST_STEP)


@_check("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
def _resize(op: Op) -> None:
    _of_rank(op, 0, 4)
    sizes = constant_ints(op.input(1))
    if len(sizes) != 2 or min(sizes) < 1 or (op.options.flag("AlignCorners") and op.options.flag("HalfPixelCenters")):
        raise InputError(f"{op.kind} to {list(sizes)} ({dict(op.options.fields)})")


@_check("ONE_HOT")
def _one_hot(op: Op) -> None:
    (depth,) = constant_ints(op.input(1))
    _within(op, "depth", depth, 1, 1 << 24)
    _axes(op, [op.options.integer("Axis")], len(op.input(0).shape) + 1)
    if op.input(2).size != 1 or op.input(3).size != 1:
        raise InputError("ONE_HOT takes one value for on and one for off")
