"""Blocks of real networks as converters write them: gradients through many ops at once, and sums over branches."""

from __future__ import annotations

import pytest

from signatures.builder import RELU, RELU6, GraphBuilder
from signatures.graph import Model, Options, Signature, Tensor
from signatures.overwrites import without_overwrites
from signatures.shapes import SAME
from tests.oracles.gradient_check import Case, check_differences, check_gradients, relative_error
from tests.oracles.memory_planner import overwritten
from tests.oracles.other_runtime import TFLITE214, Call, Job, Results, Runtimes


def layer_norm(b: GraphBuilder, x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """(x − mean) / √(variance + ε) · scale + offset, in the order in which TensorFlow's converter emits it."""
    axis = [len(x.shape) - 1]
    mean = b.mean(x, axis, keep=True)
    squares = b.emit("SQUARED_DIFFERENCE", (x, mean), Options("SquaredDifferenceOptions"))
    factor = b.mul(b.unary("RSQRT", b.add(b.mean(squares, axis, keep=True), b.scalar(1e-3))), scale)
    return b.add(b.mul(x, factor), b.sub(offset, b.mul(mean, factor)))


def layer_norms(shape: tuple[int, ...]) -> Case:
    b = GraphBuilder(f"layer-norm-{len(shape)}")
    x, scale, offset = b.input("x", shape), b.input("scale", shape[-1:]), b.input("offset", shape[-1:])
    return Case(b.name, b.graph([layer_norm(b, x, scale, offset)]), (x, scale, offset))


def batch_norm() -> Case:
    """Statistics of the batch itself, then a ReLU6 that is fused into the last sum."""
    b = GraphBuilder("batch-norm")
    x, scale, offset = b.input("x", (3, 4, 3, 2)), b.input("scale", (2,)), b.input("offset", (2,))
    mean = b.mean(x, [0, 1, 2], keep=True)
    variance = b.mean(b.unary("SQUARE", b.sub(x, mean)), [0, 1, 2], keep=True)
    normal = b.div(b.sub(x, mean), b.unary("SQRT", b.add(variance, b.scalar(1e-3))))
    return Case(b.name, b.graph([b.add(b.mul(normal, scale), offset, RELU6)]), (x, scale, offset))


def frozen_batch_norm() -> Case:
    """Statistics are constants, folded or not: x · factor + offset behind a convolution without a bias."""
    b = GraphBuilder("frozen-batch-norm")
    x, w = b.input("x", (2, 5, 5, 3)), b.input("w", (4, 3, 3, 3))
    factor, offset = b.input("factor", (4,)), b.input("offset", (4,))
    y = b.conv_2d(x, w, None, Padding=SAME, StrideH=2, StrideW=2)
    return Case(b.name, b.graph([b.add(b.mul(y, factor), offset, RELU)]), (x, w, factor, offset))


def dense(b: GraphBuilder, x: Tensor, name: str, units: int, wanted: list[Tensor]) -> Tensor:
    w, bias = b.input(f"{name}/w", (units, x.shape[-1])), b.input(f"{name}/bias", (units,))
    wanted += [w, bias]
    return b.emit("FULLY_CONNECTED", (x, w, bias), Options("FullyConnectedOptions", {"KeepNumDims": True}), name)


def attention(b: GraphBuilder, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q · kᵀ / √d) · v over the last two axes."""
    scores = b.mul(b.matmul(q, k, adj_y=True), b.scalar(q.shape[-1] ** -0.5))
    return b.matmul(b.emit("SOFTMAX", (scores,), Options("SoftmaxOptions", {"Beta": 1.0})), v)


def transformer() -> Case:
    """A whole block of a vision transformer: attention of two heads and an MLP with GELU, each with its residual."""
    b = GraphBuilder("transformer")
    batch, tokens, heads, depth = 2, 5, 2, 3
    width = heads * depth
    x = b.input("x", (batch, tokens, width))
    wanted = [x]

    def normalised(y: Tensor, name: str) -> Tensor:
        scale, offset = b.input(f"{name}/scale", (width,)), b.input(f"{name}/offset", (width,))
        wanted.extend((scale, offset))
        return layer_norm(b, y, scale, offset)

    def by_head(name: str, y: Tensor) -> Tensor:
        return b.transpose(b.reshape(dense(b, y, name, width, wanted), (batch, tokens, heads, depth)), (0, 2, 1, 3))

    y = normalised(x, "norm1")
    seen = attention(b, *(by_head(name, y) for name in ("query", "key", "value")))
    joined = b.reshape(b.transpose(seen, (0, 2, 1, 3)), (batch, tokens, width))
    x = b.add(x, dense(b, joined, "out", width, wanted))
    hidden = b.emit("GELU", (dense(b, normalised(x, "norm2"), "up", 8, wanted),), Options("GeluOptions"))
    y = b.add(x, dense(b, hidden, "down", width, wanted))
    # What all keys have in common changes no softmax: that gradient is zero, and all one could see is rounding.
    return Case(b.name, b.graph([y]), tuple(tensor for tensor in wanted if tensor.name != "key/bias"))


def packed_attention() -> Case:
    """Query, key and value in one product, taken apart by UNPACK."""
    b = GraphBuilder("packed-attention")
    x = b.input("x", (2, 4, 6))
    wanted = [x]
    packed = b.reshape(dense(b, x, "qkv", 18, wanted), (2, 4, 3, 2, 3))
    apart = b.transpose(packed, (2, 0, 3, 1, 4))
    q, k, v = b.emit_many("UNPACK", (apart,), Options("UnpackOptions", {"Num": 3, "Axis": 0}))
    return Case(b.name, b.graph([attention(b, q, k, v)]), tuple(wanted))  # a third of the bias is the keys'


def squeeze_excite(hard: bool) -> Case:
    """Channels weighed by what the whole image says of them, with a sigmoid or MobileNetV3's piecewise one."""
    b = GraphBuilder(f"squeeze-excite{'-hard' * hard}")
    x = b.input("x", (2, 4, 4, 4))
    down, up = b.input("down", (2, 1, 1, 4)), b.input("up", (4, 1, 1, 2))
    pooled = b.mean(x, [1, 2], keep=True)
    gate = b.conv_2d(b.conv_2d(pooled, down, None, FusedActivationFunction=RELU), up, None)
    gate = b.mul(b.add(gate, b.scalar(3.0), RELU6), b.scalar(1 / 6)) if hard else b.unary("LOGISTIC", gate)
    y = b.unary("HARD_SWISH", x)
    return Case(b.name, b.graph([b.mul(y, gate)]), (x, down, up))


def shuffle() -> Case:
    """ShuffleNetV2: half of the channels pass unchanged, then both halves are shuffled."""
    b = GraphBuilder("shuffle")
    x = b.input("x", (2, 4, 3, 6))
    w, v = b.input("w", (3, 1, 1, 3)), b.input("v", (1, 3, 3, 3))
    kept, other = b.emit_many("SPLIT", (b.ints(3), x), Options("SplitOptions", {"NumSplits": 2}))
    other = b.conv_2d(other, w, None, FusedActivationFunction=RELU)
    other = b.depthwise_conv_2d(other, v, None, Padding=SAME)
    y = b.reshape(b.concat([kept, other], 3), (2, 4, 3, 2, 3))
    return Case(b.name, b.graph([b.reshape(b.transpose(y, (0, 1, 2, 4, 3)), (2, 4, 3, 6))]), (x, w, v))


def decoder() -> Case:
    """U-Net: down by a pool, up by resizing and by a transposed convolution, beside what was there before."""
    b = GraphBuilder("decoder")
    x, w, v = b.input("x", (1, 4, 6, 2)), b.input("w", (3, 3, 3, 2)), b.input("v", (2, 2, 2, 3))
    pool = {"FilterHeight": 2, "FilterWidth": 2, "StrideH": 2, "StrideW": 2}
    small = b.conv_2d(b.emit("AVERAGE_POOL_2D", (x,), Options("Pool2DOptions", pool)), w, None, Padding=SAME)
    size = b.ints((4, 6))
    resized = b.emit("RESIZE_BILINEAR", (small, size), Options("ResizeBilinearOptions", {"HalfPixelCenters": True}))
    stride = {"StrideH": 2, "StrideW": 2}
    stamped = b.emit("TRANSPOSE_CONV", (b.ints((1, 4, 6, 2)), v, small), Options("TransposeConvOptions", stride))
    return Case(b.name, b.graph([b.concat([x, resized, stamped], 3)]), (x, w, v))


def read_again() -> Case:
    """A value that two ops in a row may compute in place, and that is read again after an alias of it was."""
    b = GraphBuilder("read-again")
    x, y, z, w = *(b.input(name, (4, 6)) for name in "xyz"), b.input("w", (4, 2, 3))
    value = b.mul(x, b.mul(y, z))
    alias = b.mul(w, b.reshape(value, (4, 2, 3)))
    return Case(b.name, b.graph([b.concat([b.reshape(b.sum(alias, [0]), (6,)), b.sum(value, [0])], 0)]), ())


CASES = (
    layer_norms((3, 6)),
    layer_norms((2, 3, 6)),
    layer_norms((2, 2, 3, 6)),
    batch_norm(),
    frozen_batch_norm(),
    transformer(),
    packed_attention(),
    squeeze_excite(hard=False),
    squeeze_excite(hard=True),
    shuffle(),
    decoder(),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradients(case: Case, results: dict[Case, Results]) -> None:
    check_gradients(case, results[case])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_oracle(case: Case) -> None:
    check_differences(case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nothing_is_overwritten_that_is_read_again(case: Case) -> None:
    (graph,) = case.job.model.graphs
    assert not overwritten(graph)


def test_tflite_214_overwrites_a_value_that_is_read_again(runtimes: Runtimes) -> None:
    """When the first half fails, its memory planner was mended. Without XNNPACK, ai-edge-litert 2.3.0 is as wrong."""
    case = read_again()
    graph = case.graph
    assert [tensor.name for tensor in overwritten(graph)] == ["mul_1"]
    assert not overwritten(without_overwrites(graph))
    errors = []
    for form in (graph, without_overwrites(graph)):
        names = {tensor.name: tensor for tensor in form.inputs}
        model = Model((form,), (Signature("f", form, names, {"y": form.outputs[0]}),))
        call = Call("f", {name: case.inputs[tensor] for name, tensor in names.items()})
        ((got,),) = runtimes.runner_of(TFLITE214)([Job(case.name, model, (call,))])
        errors.append(relative_error(got["y"], case.expected[0]))
    assert not errors[0] < 0.1
    assert errors[1] < 1e-6
