"""Replay at another batch size gives for every image what the network gives for it alone, on both runtimes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from signatures.build import gram
from signatures.builder import GraphBuilder
from signatures.errors import InputError
from signatures.graph import Array, Graph, Model, Op, Options, Signature, Tensor
from signatures.layers import find_layers
from signatures.replay import replay
from tests.oracles.other_runtime import Call, Job, Results, Runner

BATCH = 3
Network = Callable[[GraphBuilder, Tensor], Tensor]


def constant(b: GraphBuilder, *shape: int) -> Tensor:
    return b.const(np.random.default_rng(len(b.ops)).normal(size=shape).astype(np.float32), "c")


def graph_of(name: str, shape: tuple[int, ...], body: Network) -> Graph:
    b = GraphBuilder(name)
    x = b.input("x", (1, *shape))
    return b.graph([body(b, x)])


def reducer(keep: bool) -> Options:
    return Options("ReducerOptions", {"KeepDims": keep})


def attention(b: GraphBuilder, x: Tensor) -> Tensor:
    """Two heads over six tokens; dense layers fold tokens into rows, as TensorFlow's converter does."""
    rows = b.reshape(x, (6, 8))
    heads = []
    for _ in range(3):
        dense = b.reshape(b.fully_connected(rows, constant(b, 8, 8)), (1, 6, 2, 4))
        heads.append(b.transpose(dense, (0, 2, 1, 3)))
    q, k, v = heads
    weights = b.emit("SOFTMAX", (b.matmul(q, k, adj_y=True),), Options("SoftmaxOptions", {"Beta": 1.0}))
    mixed = b.reshape(b.transpose(b.matmul(weights, v), (0, 2, 1, 3)), (6, 8))
    return b.add(b.fully_connected(mixed, constant(b, 8, 8)), x)  # [6, 8] + [1, 6, 8]


def tokens_first(b: GraphBuilder, x: Tensor) -> Tensor:
    """The image axis moves to the middle and is folded with the heads, as PyTorch's MultiheadAttention has it."""
    x = b.transpose(x, (1, 0, 2))  # [tokens, 1, features]
    q = b.transpose(b.reshape(x, (6, 2, 4)), (1, 0, 2))  # [1 · heads, tokens, features]
    mixed = b.transpose(b.matmul(b.matmul(q, q, adj_y=True), q), (1, 0, 2))
    return b.transpose(b.reshape(mixed, (6, 1, 8)), (1, 0, 2))


def class_token(b: GraphBuilder, x: Tensor) -> Tensor:
    joined = b.concat([constant(b, 1, 1, 8), x], axis=1)
    return b.emit("GATHER", (b.add(joined, constant(b, 1, 7, 8)), b.const(np.array(0, np.int32))),
                  Options("GatherOptions", {"Axis": 1}))  # fmt: skip


def first_row(b: GraphBuilder, x: Tensor) -> Tensor:
    row = b.emit("SLICE", (x, b.ints([0, 0, 0]), b.ints([1, 1, 8])), Options("SliceOptions"))
    return b.add(x, row)


def without_batch(b: GraphBuilder, x: Tensor) -> Tensor:
    """x[0] and back: no axis of the images' own in between."""
    options = Options("StridedSliceOptions", {"ShrinkAxisMask": 1, "EndMask": 6, "BeginMask": 6})
    one = b.emit("STRIDED_SLICE", (x, b.ints([0, 0, 0]), b.ints([1, 0, 0]), b.ints([1, 1, 1])), options)
    scaled = b.mul(one, constant(b, 6, 1))
    return b.emit("EXPAND_DIMS", (scaled, b.const(np.array(0, np.int32))), Options("ExpandDimsOptions"))


def along(kind: str, axes: list[int], keep: bool) -> Network:
    return lambda b, x: b.emit(kind, (x, b.ints(axes)), reducer(keep))


def masked(b: GraphBuilder, x: Tensor) -> Tensor:
    """Masks on the image axis, a dropped axis, an ellipsis, and a step."""
    options = Options("StridedSliceOptions", {"BeginMask": 1, "EndMask": 1, "EllipsisMask": 2, "ShrinkAxisMask": 4})
    bounds = [b.ints(v) for v in ([0, 0, 2], [0, 0, 3], [1, 1, 1])]
    return b.emit("STRIDED_SLICE", (x, *bounds), options)


def spelled_out(b: GraphBuilder, x: Tensor) -> Tensor:
    return b.strided_slice(x, (0, 1, 0), (1, 5, 8), (1, 2, 1))


def backwards(b: GraphBuilder, x: Tensor) -> Tensor:
    bounds = [b.ints(v) for v in ([0, 5, 0], [1, -7, 8], [1, -1, 1])]
    return b.emit("STRIDED_SLICE", (x, *bounds), Options("StridedSliceOptions"))


def squeezed(b: GraphBuilder, x: Tensor) -> Tensor:
    """SQUEEZE without axes takes the image axis too."""
    vector = b.emit("SQUEEZE", (b.mean(x, [1], keep=True),), Options("SqueezeOptions"))
    return b.mul(vector, constant(b, 8))


def top_two(b: GraphBuilder, x: Tensor) -> Tensor:
    """An op with two results and no rule of ours."""
    y = b.reshape(x, (1, 48))
    values, places = Tensor("values", (1, 2), "float32"), Tensor("places", (1, 2), "int32")
    b.ops.append(Op("TOPK_V2", (y, b.const(np.array(2, np.int32))), (values, places), Options("TopKV2Options")))
    return values


def pixels(b: GraphBuilder, x: Tensor) -> Tensor:
    x = b.reshape(x, (1, 4, 4, 3))
    up = b.emit("TRANSPOSE_CONV", (b.ints([1, 8, 8, 2]), constant(b, 2, 3, 3, 3), x),
                Options("TransposeConvOptions", {"Padding": 0, "StrideH": 2, "StrideW": 2}))  # fmt: skip
    size = b.emit("RESIZE_BILINEAR", (up, b.ints([5, 5])), Options("ResizeBilinearOptions"))
    return b.conv_2d(size, constant(b, 4, 3, 3, 2), None)


def stretched(b: GraphBuilder, x: Tensor) -> Tensor:
    wide = b.emit("BROADCAST_TO", (b.reshape(x, (1, 6, 1, 8)), b.ints([1, 6, 2, 8])), Options("BroadcastToOptions"))
    return b.emit("TILE", (wide, b.ints([1, 1, 2, 1])), Options("TileOptions"))


def packed(b: GraphBuilder, x: Tensor) -> Tensor:
    return b.emit("PACK", (x, constant(b, 1, 6, 8)), Options("PackOptions", {"ValuesCount": 2, "Axis": 0}))


def columns(b: GraphBuilder, x: Tensor) -> Tensor:
    """Images as rows of the left side, then as columns of the right side."""
    rows = b.matmul(b.reshape(x, (6, 8)), constant(b, 8, 5))
    turned = b.transpose(rows, (1, 0))
    return b.matmul(constant(b, 7, 5), turned)


def chosen(b: GraphBuilder, x: Tensor) -> Tensor:
    above = b.emit("GREATER", (x, b.scalar(0.0)))
    return b.emit("SELECT_V2", (above, x, constant(b, 6, 8)))


def over_images(b: GraphBuilder, x: Tensor) -> Tensor:
    """A softmax over an axis in which the file has folded the image axis: only image by image is it right."""
    flat = b.transpose(b.reshape(x, (6, 8)), (1, 0))
    return b.emit("SOFTMAX", (flat,), Options("SoftmaxOptions", {"Beta": 1.0}))


NETWORKS: dict[str, Network] = {
    "attention": attention,
    "tokens-first": tokens_first,
    "class-token": class_token,
    "first-row": first_row,
    "without-batch": without_batch,
    "masked": masked,
    "spelled-out": spelled_out,
    "backwards": backwards,
    "squeezed": squeezed,
    "top-two": top_two,
    "packed": packed,
    "columns": columns,
    "chosen": chosen,
    "over-images": over_images,
    "stretched": stretched,
    **{
        f"{kind.lower()}-{axes}{'-keep' * keep}": along(kind, axes, keep)
        for kind in ("MEAN", "SUM", "REDUCE_MAX")
        for axes in ([1], [2], [0, 2], [0], [-1, 0])
        for keep in (False, True)
    },
}


def graphs() -> Iterator[Graph]:
    for name, body in NETWORKS.items():
        yield graph_of(name, (6, 8), body)
    yield graph_of("pixels", (4, 12), pixels)


GRAPHS = {graph.name: graph for graph in graphs()}


def model(graph: Graph, batch: int) -> Model:
    """f(x [batch, …]) → y [batch, elements of one image]."""
    b = GraphBuilder(graph.name)
    x = b.input("x", (batch, *graph.inputs[0].shape[1:]))
    y = replay(b, graph, [x], batch, images=graph.inputs[0].shape[0]).by_image(b, graph.outputs[0])
    if y in b.inputs:
        y = b.scale(y, 1.0)
    again = b.graph([y])
    return Model((again,), (Signature("f", again, {"x": x}, {"y": y}),))


def images(graph: Graph) -> Array:
    return np.random.default_rng(5).normal(size=(BATCH, *graph.inputs[0].shape[1:])).astype(np.float32)


@pytest.fixture(scope="module")
def replayed(run: Runner) -> dict[str, tuple[Results, Results]]:
    """For every graph, what it gives for the batch, and for the images one by one."""
    jobs = []
    for name, graph in GRAPHS.items():
        x = images(graph)
        jobs.append(Job(name, model(graph, BATCH), (Call("f", {"x": x}),)))
        jobs.append(Job(name, model(graph, 1), tuple(Call("f", {"x": x[i : i + 1]}) for i in range(BATCH))))
    results = run(jobs)
    return {name: (results[2 * i], results[2 * i + 1]) for i, name in enumerate(GRAPHS)}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_batch_gives_what_its_images_give(name: str, replayed: dict[str, tuple[Results, Results]]) -> None:
    together, apart = replayed[name]
    expected = np.concatenate([result["y"] for result in apart])
    assert expected.std() > 0
    np.testing.assert_allclose(together[0]["y"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["attention", "tokens-first", "class-token", "masked", "columns", "pixels", "packed"])
def test_common_networks_run_as_a_whole(name: str) -> None:
    """Not image by image, which costs an op for each of them."""
    b = GraphBuilder("again")
    replay(b, GRAPHS[name], [b.input("x", images(GRAPHS[name]).shape)], BATCH)
    assert len(b.ops) <= len(GRAPHS[name].ops) + 2


def test_the_network_itself_is_untouched() -> None:
    graph = GRAPHS["attention"]
    before = [tensor.shape for tensor in graph.tensors()]
    model(graph, BATCH)
    assert [tensor.shape for tensor in graph.tensors()] == before


def test_at_its_own_batch_a_network_is_copied() -> None:
    """Any op, known or not."""
    x, y = Tensor("x", (1, 4), "float32"), Tensor("y", (1, 4), "float32")
    graph = Graph("g", (Op("ROLL", (x,), (y,)),), (x,), (y,))
    b = GraphBuilder("again")
    again = replay(b, graph, [b.input("x", (1, 4))], 1)
    assert [op.kind for op in b.ops] == ["ROLL"]
    assert again.values[y].tensor.shape == (1, 4)


def test_other_images_are_refused() -> None:
    graph = GRAPHS["attention"]
    b = GraphBuilder("again")
    with pytest.raises(InputError, match=r"takes \[1, 6, 8\], got \[1, 5, 8\]"):
        replay(b, graph, [b.input("x", (1, 5, 8))], 1)


def test_one_number_of_an_image_cannot_be_put_together() -> None:
    x, y = Tensor("x", (1, 4), "float32"), Tensor("rank", (), "int32")
    b = GraphBuilder("again")
    with pytest.raises(InputError, match="RANK, which makes 'rank', makes one number"):
        replay(b, Graph("g", (Op("RANK", (x,), (y,)),), (x,), (y,)), [b.input("x", (2, 4))], 2)


def test_a_file_for_several_images_that_mixes_them_is_refused() -> None:
    graph = Graph("g", *_softmax_over_images())
    b = GraphBuilder("again")
    with pytest.raises(InputError, match="SOFTMAX, which makes 'softmax', mixes the 2 images"):
        replay(b, graph, [b.input("x", (1, 4))], 1, images=2)


def _softmax_over_images() -> tuple[tuple[Op, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
    b = GraphBuilder("g")
    x = b.input("x", (2, 4))
    y = b.emit("SOFTMAX", (b.transpose(x, (1, 0)),), Options("SoftmaxOptions", {"Beta": 1.0}))
    return tuple(b.ops), (x,), (y,)


def test_a_file_for_several_images_runs_at_batch_one(run: Runner) -> None:
    b = GraphBuilder("two")
    x = b.input("x", (2, 4, 4, 3))
    pooled = b.mean(b.conv_2d(x, constant(b, 5, 3, 3, 3), None), [1, 2])
    graph = b.graph([b.reshape(pooled, (2, 5))])
    values = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    jobs = [
        Job(str(batch), model(graph, batch), tuple(Call("f", {"x": part}) for part in np.split(values, 2 // batch)))
        for batch in (2, 1)
    ]
    (two,), ones = run(jobs)
    np.testing.assert_allclose(np.concatenate([one["y"] for one in ones]), two["y"], rtol=1e-5)


def test_a_substitute_takes_one_slot_of_a_shared_constant() -> None:
    b = GraphBuilder("shared")
    x = b.input("x", (1, 4))
    shared = b.const(np.ones((4, 4), np.float32))
    graph = b.graph([b.fully_connected(b.fully_connected(x, shared), shared)])
    again = GraphBuilder("again")
    x, w = again.input("x", (2, 4)), again.input("w", (4, 4))
    replay(again, graph, [x], 2, {(1, 1): w})
    assert [op.input(1) for op in again.ops] == [shared, w]


def test_gram_matrices_of_folded_layers(run: Runner) -> None:
    """A layer whose result has the images folded into its rows, and one with them along another axis."""
    graph = GRAPHS["columns"]
    layers = find_layers(graph)
    assert [layer.kind for layer in layers] == ["matmul", "matmul"]
    signature = gram(graph, layers, BATCH)
    x = images(graph)
    ((got,),) = run([Job("gram", Model((signature.graph,), (signature,)), (Call("gram", {"x": x}),))])
    weights = [graph.ops[layer.op].input(layer.weight_slot).data.astype(np.float64) for layer in layers]
    first = x.reshape(BATCH, 6, 8) @ weights[0]
    second = weights[1] @ first.transpose(0, 2, 1)
    for layer, values in zip(layers, (first, second), strict=True):
        rows = values.reshape(BATCH, -1)
        rows = rows - rows.mean(0)
        np.testing.assert_allclose(got[layer.name], rows @ rows.T, rtol=1e-4, atol=1e-4)
