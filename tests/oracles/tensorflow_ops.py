"""Oracle: every op that has a gradient, by TensorFlow's own kernels, in the dtype of its inputs.

What matters is TFLite's semantics, in float64 and differentiable: where TensorFlow's kernel has no such form, another
that says the same stands here, and the tests compare it with both runtimes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from signatures.graph import Array, Op, Options

ACTIVATIONS: Mapping[int, Callable[[tf.Tensor], tf.Tensor]] = {
    0: lambda x: x,
    1: tf.nn.relu,
    2: lambda x: tf.clip_by_value(x, -1.0, 1.0),
    3: tf.nn.relu6,
    4: tf.tanh,
}
KINKS: Mapping[int, tuple[float, ...]] = {0: (), 1: (0.0,), 2: (-1.0, 1.0), 3: (0.0, 6.0), 4: ()}
ACTIVATION_OPS = {"RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}
PADDINGS = {0: "SAME", 1: "VALID"}
MIRRORS = {0: "REFLECT", 1: "SYMMETRIC"}

ELEMENTWISE: Mapping[str, Callable[..., tf.Tensor]] = {
    "ABS": tf.abs,
    "ADD": tf.add,
    "CEIL": tf.math.ceil,
    "COS": tf.cos,
    "DIV": tf.divide,
    "ELU": tf.nn.elu,
    "EXP": tf.exp,
    "FLOOR": tf.floor,
    "GREATER": tf.greater,
    "HARD_SWISH": lambda x: x * tf.nn.relu6(x + 3.0) / 6.0,
    "LESS": tf.less,
    "LOG": tf.math.log,
    "LOGISTIC": tf.sigmoid,
    "LOG_SOFTMAX": tf.nn.log_softmax,
    "MAXIMUM": tf.maximum,
    "MINIMUM": tf.minimum,
    "MUL": tf.multiply,
    "NEG": tf.negative,
    "POW": tf.pow,
    "PRELU": lambda x, alpha: tf.where(x > 0.0, x, alpha * x),
    "RELU": tf.identity,  # the activation itself comes after, as of ops that fuse it
    "RELU6": tf.identity,
    "RELU_0_TO_1": lambda x: tf.clip_by_value(x, 0.0, 1.0),
    "RELU_N1_TO_1": tf.identity,
    "ROUND": tf.round,
    "RSQRT": tf.math.rsqrt,
    "SIGN": tf.sign,
    "SIN": tf.sin,
    "SQRT": tf.sqrt,
    "SQUARE": tf.square,
    "SQUARED_DIFFERENCE": tf.math.squared_difference,
    "SUB": tf.subtract,
    "TANH": tf.tanh,
}


def activation_of(op: Op) -> int:
    """The schema's number of the activation that `op` is or fuses."""
    return ACTIVATION_OPS.get(op.kind, op.options.integer("FusedActivationFunction"))


def results(op: Op, inputs: Sequence[Any]) -> list[tf.Tensor]:
    """What `op` makes before its activation. Inputs: tensors, integer constants as arrays, None if omitted."""
    x, options = inputs[0], op.options
    if op.kind in ELEMENTWISE:
        return [ELEMENTWISE[op.kind](*inputs)]
    match op.kind:
        case "SPLIT":
            return list(tf.split(inputs[1], options.integer("NumSplits"), int(np.ravel(x)[0])))
        case "SPLIT_V":
            axis = int(np.ravel(inputs[2])[0])
            lengths = [int(n) for n in inputs[1]]
            rest = x.shape[axis] - sum(n for n in lengths if n != -1)
            return list(tf.split(x, [rest if n == -1 else n for n in lengths], axis))
        case "UNPACK":
            return list(tf.unstack(x, options.integer("Num"), options.integer("Axis")))
    return [_result(op, x, inputs, options)]


def _result(op: Op, x: Any, inputs: Sequence[Any], options: Options) -> tf.Tensor:
    match op.kind:
        # Products
        case "CONV_2D":
            return _with_bias(_grouped(op, x, tf.transpose(inputs[1], (1, 2, 3, 0))), inputs, 2)
        case "DEPTHWISE_CONV_2D":
            kernel = tf.reshape(inputs[1], (*inputs[1].shape[1:3], x.shape[3], -1))
            return _with_bias(_convolution(op, tf.nn.depthwise_conv2d, x, kernel), inputs, 2)
        case "TRANSPOSE_CONV":
            return _with_bias(_transposed_convolution(op, x, inputs[1], inputs[2]), inputs, 3)
        case "FULLY_CONNECTED":
            y = tf.matmul(tf.reshape(x, (-1, inputs[1].shape[1])), inputs[1], transpose_b=True)
            y = _with_bias(y, inputs, 2)
            return tf.reshape(y, (*x.shape[:-1], y.shape[1])) if options.flag("KeepNumDims") else y
        case "BATCH_MATMUL":
            return tf.matmul(x, inputs[1], options.flag("AdjX"), options.flag("AdjY"))
        # Windows and axes
        case "AVERAGE_POOL_2D":
            return tf.nn.avg_pool2d(x, *_pool(options))
        case "MAX_POOL_2D":
            return tf.nn.max_pool2d(x, *_pool(options))
        case "MEAN":
            return tf.reduce_mean(x, inputs[1], keepdims=options.flag("KeepDims"))
        case "SUM":
            return tf.reduce_sum(x, inputs[1], keepdims=options.flag("KeepDims"))
        case "REDUCE_MAX":
            return tf.reduce_max(x, inputs[1], keepdims=options.flag("KeepDims"))
        case "REDUCE_MIN":
            return tf.reduce_min(x, inputs[1], keepdims=options.flag("KeepDims"))
        case "SOFTMAX":
            return tf.nn.softmax(options.fields.get("Beta", 0.0) * x)
        case "L2_NORMALIZATION":
            return tf.math.l2_normalize(x, -1, epsilon=1e-12)  # of the squared norm: TFLite has 1e-6 for the norm
        # Values
        case "LEAKY_RELU":
            return tf.nn.leaky_relu(x, options.fields.get("Alpha", 0.0))
        case "GELU":
            return tf.nn.gelu(x, options.flag("Approximate"))
        case "SELECT":
            return tf.compat.v1.where(inputs[0], inputs[1], inputs[2])
        case "SELECT_V2":
            return tf.where(inputs[0], inputs[1], inputs[2])
        case "CAST":
            kept = op.input(0).dtype == op.output.dtype
            return tf.identity(x) if kept else tf.cast(x, op.output.dtype)
        case "RESIZE_BILINEAR":
            return _resize_bilinear(op, x)
        case "RESIZE_NEAREST_NEIGHBOR":
            corners, centers = options.flag("AlignCorners"), options.flag("HalfPixelCenters")
            return tf.raw_ops.ResizeNearestNeighbor(
                images=x, size=inputs[1], align_corners=corners, half_pixel_centers=centers
            )
        # Places
        case "RESHAPE":  # a network's graph has batch 1, x may have another
            batched = x.shape.num_elements() != op.output.size
            return tf.reshape(x, (x.shape[0], *op.output.shape[1:]) if batched else op.output.shape)
        case "SQUEEZE":
            return tf.squeeze(x, options.integers("SqueezeDims"))
        case "EXPAND_DIMS":
            return tf.expand_dims(x, int(np.ravel(inputs[1])[0]))
        case "TRANSPOSE":
            return tf.transpose(x, inputs[1])
        case "CONCATENATION":
            return tf.concat(inputs, options.integer("Axis"))
        case "PACK":
            return tf.stack(inputs, options.integer("Axis"))
        case "PAD":
            return tf.pad(x, inputs[1])
        case "PADV2":
            return tf.pad(x, inputs[1], constant_values=tf.reshape(inputs[2], ()))
        case "MIRROR_PAD":
            return tf.pad(x, inputs[1], MIRRORS[options.integer("Mode")])
        case "SLICE":
            return tf.slice(x, inputs[1], inputs[2])
        case "STRIDED_SLICE":
            return _strided_slice(x, inputs, options)
        case "GATHER":
            return tf.gather(x, inputs[1], axis=options.integer("Axis"))
        case "TILE":
            return tf.tile(x, inputs[1])
        case "BROADCAST_TO":
            return tf.broadcast_to(x, inputs[1])
        case "REVERSE_V2":
            return tf.reverse(x, inputs[1])
        case "SPACE_TO_DEPTH":
            return tf.nn.space_to_depth(x, options.integer("BlockSize"))
        case "DEPTH_TO_SPACE":
            return tf.nn.depth_to_space(x, options.integer("BlockSize"))
    raise AssertionError(f"the oracle does not know {op.kind}")


def _with_bias(y: tf.Tensor, inputs: Sequence[Any], slot: int) -> tf.Tensor:
    return y if len(inputs) <= slot or inputs[slot] is None else y + inputs[slot]


def _pool(options: Options) -> tuple[list[int], list[int], str]:
    window = [options.integer("FilterHeight", 1), options.integer("FilterWidth", 1)]
    return window, [options.integer("StrideH", 1), options.integer("StrideW", 1)], PADDINGS[options.integer("Padding")]


# Convolutions --------------------------------------------------------------------------------------------------------


def _grouped(op: Op, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """One convolution a group: TensorFlow has no gradient of a grouped one on CPU."""
    groups = x.shape[3] // kernel.shape[2]
    parts = zip(tf.split(x, groups, 3), tf.split(kernel, groups, 3), strict=True)
    return tf.concat([_convolution(op, tf.nn.conv2d, part, own) for part, own in parts], 3)


def _convolution(op: Op, convolve: Callable[..., tf.Tensor], x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """TensorFlow's kernel as it is; where it has no float64 CPU form (dilation, unequal strides), the same
    convolution at every pixel with zeros between the taps, and then every stride-th pixel.
    """
    stride = [op.options.integer("StrideH", 1), op.options.integer("StrideW", 1)]
    dilation = [op.options.integer("DilationHFactor", 1), op.options.integer("DilationWFactor", 1)]
    padding = PADDINGS[op.options.integer("Padding")]
    if dilation == [1, 1] and stride[0] == stride[1]:
        return convolve(x, kernel, [1, *stride, 1], padding)
    kernel = _with_zeros_between(_with_zeros_between(kernel, 0, dilation[0]), 1, dilation[1])
    if padding == "SAME":
        x = tf.pad(x, [(0, 0), *(same_padding(x.shape[1 + i], kernel.shape[i], stride[i]) for i in (0, 1)), (0, 0)])
    return convolve(x, kernel, [1, 1, 1, 1], "VALID")[:, :: stride[0], :: stride[1]]


def _transposed_convolution(op: Op, shape: Array, w: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Each pixel of x stamps the filter onto an empty image, a stride apart; padding is cut off, as it is defined by
    the convolution that this one is the transpose of.
    """
    stride = [op.options.integer("StrideH", 1), op.options.integer("StrideW", 1)]
    size = w.shape[1:3]
    rows, columns = x.shape[1:3]
    full = [max((x.shape[1 + i] - 1) * stride[i] + size[i], int(shape[1 + i])) for i in (0, 1)]
    stamps = tf.einsum("nrci,ohwi->nrchwo", x, w)
    image = tf.zeros((x.shape[0], *full, w.shape[0]), x.dtype)
    for r in range(rows):
        for c in range(columns):
            top, left = r * stride[0], c * stride[1]
            behind = (full[0] - top - size[0], full[1] - left - size[1])
            image += tf.pad(stamps[:, r, c], [(0, 0), (top, behind[0]), (left, behind[1]), (0, 0)])
    cut = [0, 0]
    if PADDINGS[op.options.integer("Padding")] == "SAME":
        cut = [same_padding(int(shape[1 + i]), size[i], stride[i])[0] for i in (0, 1)]
    image = tf.pad(image, [(0, 0), (0, cut[0]), (0, cut[1]), (0, 0)])
    return image[:, cut[0] : cut[0] + int(shape[1]), cut[1] : cut[1] + int(shape[2])]


def _with_zeros_between(kernel: tf.Tensor, axis: int, dilation: int) -> tf.Tensor:
    parts: list[tf.Tensor] = []
    for tap in tf.split(kernel, kernel.shape[axis], axis):
        parts += [tap] + [tf.zeros_like(tap)] * (dilation - 1)
    return tf.concat(parts[: len(parts) - (dilation - 1)], axis)


def same_padding(size: int, span: int, stride: int) -> tuple[int, int]:
    """SAME padding as TensorFlow's guide defines it (tf.nn, "Notes on padding")."""
    total = max(span - (size % stride or stride), 0)
    return total // 2, total - total // 2


# Indexing and resizing -----------------------------------------------------------------------------------------------


def _strided_slice(x: tf.Tensor, inputs: Sequence[Any], options: Options) -> tf.Tensor:
    masks = ("BeginMask", "EndMask", "EllipsisMask", "NewAxisMask", "ShrinkAxisMask")
    begin, end, ellipsis, new_axis, shrink = (options.integer(mask) for mask in masks)
    return tf.strided_slice(x, *inputs[1:4], begin, end, ellipsis, new_axis, shrink)


def _resize_bilinear(op: Op, x: tf.Tensor) -> tf.Tensor:
    """TensorFlow's kernel makes float32 of everything, so it makes the weights only: the images of unit columns."""
    rows, columns = (_resize_matrix(op, x.shape[1 + i], op.output.shape[1 + i]) for i in (0, 1))
    return tf.einsum("ph,qw,nhwc->npqc", tf.cast(rows, x.dtype), tf.cast(columns, x.dtype), x)


def _resize_matrix(op: Op, old: int, new: int) -> tf.Tensor:
    units = tf.reshape(tf.eye(old), (old, old, 1, 1))
    corners, centers = op.options.flag("AlignCorners"), op.options.flag("HalfPixelCenters")
    images = tf.raw_ops.ResizeBilinear(images=units, size=(new, 1), align_corners=corners, half_pixel_centers=centers)
    return tf.transpose(tf.reshape(images, (old, new)))


# Kinks ---------------------------------------------------------------------------------------------------------------

POINTS: Mapping[str, tuple[float, ...]] = {
    "ABS": (0.0,),
    "HARD_SWISH": (-3.0, 3.0),
    "LEAKY_RELU": (0.0,),
    "PRELU": (0.0,),
    "RELU_0_TO_1": (0.0, 1.0),
    "SIGN": (0.0,),
}
"""Where the derivative of an elementwise op jumps, or the op itself."""

STEPS = {"CEIL": 0.0, "FLOOR": 0.0, "ROUND": 0.5}
"""Ops that jump once a unit, and where: this much before each whole number."""


def distance_to_kink(op: Op, inputs: Sequence[Any], before: Sequence[Any]) -> float:
    """How far the nearest value is from where `op`, with its fused activation, has no derivative; infinite if nowhere.

    Between two inputs or two entries of which the larger counts, it is their difference.
    """
    distances = [np.inf]
    distances += [_nearest(value, KINKS[activation_of(op)]) for value in before if activation_of(op)]
    if op.kind in POINTS:
        distances.append(_nearest(inputs[0], POINTS[op.kind]))
    if op.kind in STEPS:
        steps = inputs[0] + STEPS[op.kind]
        distances.append(_nearest(steps - tf.round(steps), (0.0,)))
    if op.kind in ("MAXIMUM", "MINIMUM", "GREATER", "LESS"):
        distances.append(_nearest(inputs[0] - inputs[1], (0.0,)))
    if op.kind in ("REDUCE_MAX", "REDUCE_MIN"):
        x = inputs[0].numpy()
        axes = tuple(int(axis) % x.ndim for axis in np.ravel(inputs[1]))
        kept = [i for i in range(x.ndim) if i not in axes]
        rows = x.transpose(*kept, *dict.fromkeys(axes)).reshape(*(x.shape[i] for i in kept), -1)
        distances.append(np.min(leads(rows if op.kind == "REDUCE_MAX" else -rows)))
    if op.kind == "MAX_POOL_2D":
        distances.append(np.min(leads(windows(inputs[0].numpy(), op.options))))
    return min(distances)


def _nearest(value: Any, points: Sequence[float]) -> float:
    return min((float(np.min(np.abs(np.asarray(value) - point))) for point in points), default=np.inf)


def leads(rows: Array) -> Array:
    """By how much the largest of each row exceeds the second; infinite where a row has one entry."""
    if rows.shape[-1] < 2:
        return np.full(rows.shape[:-1], np.inf)
    ordered = np.sort(rows, axis=-1)
    return np.asarray(ordered[..., -1] - ordered[..., -2])


def windows(x: Array, options: Options) -> Array:
    """The pixels under each window of a pool, −∞ where there are none: [n, rows, columns, channels, taps]."""
    size, stride, padding = _pool(options)
    if padding == "SAME":
        borders = [same_padding(x.shape[1 + i], size[i], stride[i]) for i in (0, 1)]
        x = np.pad(x, [(0, 0), *borders, (0, 0)], constant_values=-1e30)
    views = np.lib.stride_tricks.sliding_window_view(x, size, (1, 2))[:, :: stride[0], :: stride[1]]
    return views.reshape(*views.shape[:4], -1)
