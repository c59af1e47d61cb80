"""Strips: pieces of a graph make what it makes in one piece, and every row belongs to one of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from signatures.build import probe_model
from signatures.builder import RELU6, GraphBuilder
from signatures.graph import Array, Graph, Options, Tensor
from signatures.layers import find_layers
from signatures.segments import Segment, stretch
from signatures.shapes import SAME, VALID
from signatures.strips import Strip, row_steps, strip_graph, strips
from tests.oracles.gradient_check import relative_error
from tests.oracles.other_runtime import Call, Job, Runner
from tests.signatures.branching import Sketch

IMAGES = 4


def depthwise(s: Sketch, x: Tensor, window: int, **fields: int) -> Tensor:
    return s.b.depthwise_conv_2d(x, s.weights(1, window, window, x.shape[3]), s.bias(x.shape[3]), **fields)


def pool(s: Sketch, kind: str, x: Tensor, padding: int = VALID) -> Tensor:
    fields = {"Padding": padding, "FilterHeight": 2, "FilterWidth": 2, "StrideH": 2, "StrideW": 2}
    return s.b.emit(kind, (x,), Options("Pool2DOptions", fields))


def strided(s: Sketch, x: Tensor) -> Tensor:
    """Strides over odd sides, SAME and by an explicit padding."""
    x = s.conv(x, 4, 3, RELU6, stride=2)
    return depthwise(s, s.b.pad(x, [(0, 0), (2, 1), (0, 1), (0, 0)]), 3, StrideH=2, StrideW=2)


def residual(s: Sketch, x: Tensor) -> Tensor:
    """A value is read before and behind a window."""
    x = s.conv(x, 5)
    return s.conv(s.b.add(depthwise(s, s.conv(x, 5, activation=RELU6), 5, Padding=SAME), x), 3)


def pooled(s: Sketch, x: Tensor) -> Tensor:
    x = pool(s, "MAX_POOL_2D", s.conv(x, 4, 3))
    return s.conv(pool(s, "AVERAGE_POOL_2D", x), 3, 3)


def dilated(s: Sketch, x: Tensor) -> Tensor:
    return depthwise(s, s.conv(x, 4), 3, Padding=SAME, DilationHFactor=2, DilationWFactor=2)


def branches(s: Sketch, x: Tensor) -> Tensor:
    """Different halos, joined along the channels, multiplied by constants of each channel and of everything."""
    joined = s.b.concat([s.conv(x, 2), s.conv(x, 3, 7)], axis=3)
    return s.conv(s.b.mul(s.b.scale(joined, 0.7), s.bias(5)), 2)


def padding_alone(s: Sketch, x: Tensor) -> Tensor:
    """More padding than a strip is high, which pointwise layers turn into rows of their bias."""
    return s.conv(s.b.pad(s.conv(x, 3), [(0, 0), (3, 2), (0, 0), (0, 0)]), 4)


def normalised(s: Sketch, x: Tensor) -> Tensor:
    return s.conv(s.b.sub(x, s.b.mean(x, [3], keep=True)), 3, 3)


NETWORKS = (strided, residual, pooled, dilated, branches, padding_alone, normalised)


def segment_of(make: object, shape: tuple[int, ...] = (1, 19, 7, 3)) -> Segment:
    """A network as one segment, of which the layers are probed and the last value is read by others."""
    s = Sketch(7)
    y = make(s, s.b.input("x", shape))  # type: ignore[operator]
    graph = s.b.graph([y])
    probed = [graph.ops[layer.op].output for layer in find_layers(graph)]
    made = stretch(graph, probed)
    whole = made.segment(0, len(graph.ops))
    return Segment(Graph("all", whole.graph.ops, graph.inputs, (y,)), whole.probed, made.n_bytes)


def run_strip(run: Runner, segment: Segment, strip: Strip | None, images: Array) -> dict[str, Array]:
    graph, probed, kept = segment.graph, segment.probed, segment.graph.outputs
    if strip is not None:
        assert segment.steps is not None
        graph = strip_graph(graph, segment.steps, strip, segment.wanted)
        probed, kept = graph.outputs[: len(probed)], graph.outputs[len(probed) :]
        first, end = strip.needed[segment.graph.inputs[0]]
        images = np.ascontiguousarray(images[:, first:end])
    ((got,),) = run([Job("strip", probe_model(graph, probed, kept, len(images)), (Call("gram", {"x0": images}),))])
    return got


@pytest.mark.parametrize("height", [1, 2, 5])
@pytest.mark.parametrize("make", NETWORKS, ids=lambda make: make.__name__)
def test_strips_make_what_the_graph_makes(run: Runner, make: object, height: int) -> None:
    segment = segment_of(make)
    assert segment.steps is not None
    images = np.random.default_rng(0).normal(size=(IMAGES, 19, 7, 3)).astype(np.float32)
    whole = run_strip(run, segment, None, images)
    (last,) = segment.graph.outputs
    every = strips(segment.graph, segment.steps, segment.wanted, height)
    pieces = [run_strip(run, segment, strip, images) for strip in every]
    for i in range(len(segment.probed)):
        assert relative_error(np.sum([piece[f"gram{i}"] for piece in pieces], 0), whole[f"gram{i}"]) < 1e-5
    for strip, piece in zip(every, pieces, strict=True):
        first, end = strip.own[last]
        rows = whole["y0"].reshape(IMAGES, *last.shape[1:])[:, first:end].reshape(IMAGES, -1)
        np.testing.assert_allclose(piece["y0"], rows, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("height", [1, 2, 3, 7])
@pytest.mark.parametrize("make", NETWORKS, ids=lambda make: make.__name__)
def test_every_row_belongs_to_one_strip(make: object, height: int) -> None:
    segment = segment_of(make, (1, 23, 9, 3))
    assert segment.steps is not None
    every = strips(segment.graph, segment.steps, segment.wanted, height)
    for tensor in segment.wanted:
        owned = Counter(row for strip in every for row in range(*strip.own[tensor]))
        assert owned == Counter(range(tensor.shape[1]))
        assert all(first < end for first, end in (strip.own[tensor] for strip in every))


def test_strips_in_the_middle_have_one_shape() -> None:
    """So that they are one model."""
    segment = segment_of(strided, (1, 64, 8, 3))
    assert segment.steps is not None
    every = strips(segment.graph, segment.steps, segment.wanted, 2)
    assert len(every) == 8
    assert len({strip.shape(segment.graph) for strip in every[1:-1]}) == 1


def test_tokens_are_rows() -> None:
    s = Sketch(0)
    x = s.b.input("x", (1, 9, 4))
    options = Options("FullyConnectedOptions", {"KeepNumDims": True})
    y = s.b.emit("FULLY_CONNECTED", (s.b.sub(x, s.b.mean(x, [2], keep=True)), s.weights(5, 4)), options)
    graph = s.b.graph([y])
    steps = row_steps(graph)
    assert steps is not None
    piece = strip_graph(graph, steps, strips(graph, steps, [y], 4)[1], [y])
    assert [t.shape for t in (*piece.inputs, *piece.outputs)] == [(1, 4, 4), (1, 4, 5)]


@pytest.mark.parametrize(
    "make",
    [
        lambda s, x: s.conv(s.b.mean(x, [1, 2], keep=True), 2),
        lambda s, x: s.conv(pool(s, "MAX_POOL_2D", x, SAME), 2),
        lambda s, x: s.conv(s.b.add(x, s.weights(*x.shape)), 2),
        lambda s, x: s.conv(s.b.transpose(x, (0, 2, 1, 3)), 2),
        lambda s, x: s.b.reshape(s.conv(x, 2), (1, x.shape[1] * x.shape[2], 2)),
    ],
    ids=["mean", "pool beyond the edge", "constants of rows", "transpose", "reshape"],
)
def test_what_mixes_rows_has_no_strips(make: object) -> None:
    s = Sketch(0)
    assert row_steps(s.b.graph([make(s, s.b.input("x", (1, 7, 5, 3)))])) is None  # type: ignore[operator]


def test_a_gate_of_each_channel_is_used_whole() -> None:
    b = GraphBuilder("gated")
    x, gate = b.input("x", (1, 8, 8, 3)), b.input("gate", (1, 1, 1, 3))
    y = b.mul(x, gate)
    graph = b.graph([y])
    steps = row_steps(graph)
    assert steps is not None
    piece = strip_graph(graph, steps, strips(graph, steps, [y], 4)[0], [y])
    assert [t.shape for t in piece.inputs] == [(1, 4, 8, 3), (1, 1, 1, 3)]
