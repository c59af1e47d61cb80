"""Layers and subsets: the numbers of MobileNetV2 against Keras, and identities that must not change."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from signatures.builder import GraphBuilder
from signatures.errors import InputError
from signatures.graph import Graph, Options
from signatures.layers import Layer, find_layers
from signatures.passes import named_layers
from signatures.subset import Subset, subset_of
from tests.oracles.keras_mobilenet import KerasLayer, KerasNetwork
from tests.signatures.example_model import network


def test_numbers_of_mobilenet(mobilenet: KerasNetwork) -> None:
    layers = find_layers(mobilenet.graph)
    found = [KerasLayer(x.parameters, x.activation_size, x.macs) for x in layers]
    assert found == list(mobilenet.layers)
    assert Counter(layer.kind for layer in layers) == {"conv": 35, "depthwise": 17, "dense": 1}


def test_sums_of_mobilenet(mobilenet: KerasNetwork) -> None:
    """Spelled out, for images of 96 pixels and 10 classes."""
    layers = find_layers(mobilenet.graph)
    assert len(layers) == 53
    assert sum(layer.parameters for layer in layers) == 2_219_626
    assert sum(layer.macs for layer in layers) == 55_021_952


def test_slots_point_at_the_parameters(mobilenet: KerasNetwork) -> None:
    layers = find_layers(mobilenet.graph)
    parameters = Subset(layers).parameters()
    assert [(p.slot, p.is_bias) for p in parameters] == [
        ((layer.op, 1 + is_bias), is_bias) for layer in layers for is_bias in (False, True)
    ]
    for p in parameters:
        assert mobilenet.graph.ops[p.slot[0]].input(p.slot[1]).shape == p.shape


def test_a_layer_without_bias_has_one_parameter() -> None:
    b = GraphBuilder("g")
    x = b.input("x", (1, 4))
    graph = b.graph([b.fully_connected(x, b.const(np.ones((2, 4), np.float32)), name="head")])
    (layer,) = find_layers(graph)
    assert (layer.bias_shape, layer.parameters, layer.macs) == (None, 8, 8)
    assert [p.name for p in Subset((layer,)).parameters()] == ["head/weight"]


def test_products_of_two_activations_are_no_layers() -> None:
    b = GraphBuilder("g")
    x = b.input("x", (2, 4))
    b.fully_connected(x, x, name="gram")
    graph = b.graph([b.fully_connected(x, b.const(np.ones((2, 4), np.float32)), name="head")])
    assert [layer.name for layer in find_layers(graph)] == ["head"]


def two_layers(first: str, second: str) -> Graph:
    b = GraphBuilder("g")
    x = b.input("x", (1, 4))
    outputs = [b.fully_connected(x, b.const(np.ones((2, 4), np.float32)), name="head") for _ in range(2)]
    return named_layers(b.graph(outputs), [0, 1], [first, second])


def test_layers_of_the_same_name_are_refused() -> None:
    assert len(find_layers(two_layers("a", "b"))) == 2
    with pytest.raises(InputError, match="several layers called a"):
        find_layers(two_layers("a", "a"))


def test_a_graph_without_layers_is_refused() -> None:
    b = GraphBuilder("g")
    graph = b.graph([b.unary("RELU", b.input("x", (1, 4)))])
    with pytest.raises(InputError, match="no convolution or dense layer"):
        find_layers(graph)


def transposed() -> Graph:
    b = GraphBuilder("g")
    x = b.input("x", (1, 4, 4, 3))
    w, bias = b.const(np.ones((2, 3, 3, 3), np.float32)), b.const(np.ones(2, np.float32))
    options = Options("TransposeConvOptions", {"Padding": 0, "StrideH": 2, "StrideW": 2})
    return b.graph([b.emit("TRANSPOSE_CONV", (b.ints([1, 8, 8, 2]), w, x, bias), options, "up")])


def product(left: bool) -> Graph:
    b = GraphBuilder("g")
    x = b.input("x", (1, 6, 8))
    w = b.const(np.ones((1, 5, 6) if left else (8, 5), np.float32))
    return b.graph([b.matmul(w, x, name="product") if left else b.matmul(x, w, name="product")])


@pytest.mark.parametrize(
    ("graph", "kind", "slots", "parameters", "macs"),
    [
        (transposed(), "transpose conv", [1, 3], 56, 4 * 4 * 3 * 9 * 2),
        (product(left=False), "matmul", [1], 40, 6 * 8 * 5),
        (product(left=True), "matmul", [0], 30, 5 * 6 * 8),
    ],
    ids=["transpose conv", "weights right", "weights left"],
)
def test_other_layers(graph: Graph, kind: str, slots: list[int], parameters: int, macs: int) -> None:
    (layer,) = find_layers(graph)
    assert (layer.kind, layer.parameters, layer.macs) == (kind, parameters, macs)
    assert [p.slot for p in Subset((layer,)).parameters()] == [(0, slot) for slot in slots]


def layer(name: str, weight_shape: tuple[int, ...] = (8, 3, 3, 4), op: int = 0) -> Layer:
    return Layer(name, "conv", op, 1, weight_shape, 2, (8,), 128, 4608)


def test_subset_ids_stay_as_they_are() -> None:
    """Checkpoints and bundles name their subset by it: a changed value makes old ones unreadable."""
    assert Subset((layer("block_1/conv"), layer("head", (10, 8)))).id == "b18a6c3f1f1a"


def test_subset_ids_depend_on_names_and_shapes_alone() -> None:
    one = Subset((layer("a"), layer("b")))
    assert Subset((layer("a", op=5), layer("b", op=9))).id == one.id
    others = [
        Subset((layer("a"),)),
        Subset((layer("b"), layer("a"))),
        Subset((layer("a"), layer("c"))),
        Subset((layer("a"), layer("b", (8, 1, 1, 4)))),
    ]
    assert len({one.id, *(other.id for other in others)}) == 5


def test_subset_by_names_keeps_model_order() -> None:
    layers = find_layers(network())
    names = [layer.name for layer in layers]
    assert subset_of(layers, reversed(names)).names == tuple(names)
    with pytest.raises(InputError, match=r"cannot train \['nonsense'\]"):
        subset_of(layers, [names[0], "nonsense"])
    with pytest.raises(InputError, match="cannot train nothing"):
        subset_of(layers, [])
