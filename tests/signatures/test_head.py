"""Classifiers: dense layers and convolutions are found and replaced, softmax and sigmoid go, features get a new one."""

from __future__ import annotations

import numpy as np
import pytest

from signatures.build import inference_model
from signatures.builder import RELU, GraphBuilder
from signatures.errors import InputError
from signatures.graph import Graph, Options, Tensor
from signatures.head import head_of, with_head_on, with_new_head, without_probabilities
from signatures.layers import find_layers
from tests.oracles.other_runtime import Call, Job, Runner
from tests.signatures.example_model import network

SOFTMAX = Options("SoftmaxOptions", {"Beta": 1.0})


def ones(b: GraphBuilder, *shape: int) -> Tensor:
    return b.const(np.ones(shape, np.float32))


def ending(graph: Graph, kind: str, options: Options = Options()) -> Graph:  # noqa: B008 (frozen)
    b = GraphBuilder(graph.name)
    b.ops, b.inputs = list(graph.ops), list(graph.inputs)
    return b.graph([b.emit(kind, (graph.outputs[0],), options)])


def last_convolution() -> Graph:
    """A convolution over what is left of the image, whose result is [1, 1, 1, classes]."""
    b = GraphBuilder("last")
    x = b.input("x", (1, 8, 8, 3))
    y = b.conv_2d(x, ones(b, 4, 3, 3, 3), None, StrideH=2, StrideW=2)
    return b.graph([b.conv_2d(y, ones(b, 5, 3, 3, 4), None)])


def convolution_head(pooled_first: bool) -> Graph:
    """MobileNetV1's classifier, a convolution behind the pool, or SqueezeNet's, before it."""
    b = GraphBuilder("convolutional")
    x = b.input("x", (1, 8, 8, 3))
    y = b.conv_2d(x, ones(b, 4, 3, 3, 3), None)
    if pooled_first:
        y = b.mean(y, [1, 2], keep=True)
    y = b.conv_2d(y, ones(b, 6, 1, 1, 4), None, FusedActivationFunction=RELU)
    if not pooled_first:
        window = {"Padding": 1, "FilterHeight": 6, "FilterWidth": 6, "StrideH": 6, "StrideW": 6}
        y = b.emit("AVERAGE_POOL_2D", (y,), Options("Pool2DOptions", window))
    y = b.emit("SQUEEZE", (y,), Options("SqueezeOptions", {"SqueezeDims": (1, 2)}))
    return b.graph([b.emit("SOFTMAX", (y,), SOFTMAX)])


NETWORKS = {
    "dense": network(),
    "softmax": ending(network(), "SOFTMAX", SOFTMAX),
    "sigmoid": ending(network(), "LOGISTIC"),
    "pool-conv": convolution_head(pooled_first=True),
    "conv-pool": convolution_head(pooled_first=False),
    "conv": last_convolution(),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_new_head_says_that_all_classes_are_equal(name: str, run: Runner) -> None:
    graph = without_probabilities(NETWORKS[name])
    layers = find_layers(graph)
    head = head_of(graph, layers)
    assert head is layers[-1]
    changed = with_new_head(graph, head, 7)
    assert [t.shape for t in changed.outputs] == [(1, 7)]
    found = find_layers(changed)
    assert [layer.name for layer in found] == [layer.name for layer in layers]
    assert (found[-1].weight_shape[0], found[-1].bias_shape) == (7, (7,))
    assert head_of(changed, found) is found[-1]
    for layer in layers[:-1]:
        assert changed.ops[layer.op].input(1) is graph.ops[layer.op].input(1)
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    ((got,),) = run([Job("head", inference_model(changed, 3), (Call("infer", {"x": x}),))])
    np.testing.assert_array_equal(got["logits"], np.zeros((3, 7)))


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_a_row(name: str) -> None:
    graph = without_probabilities(NETWORKS[name])
    assert not {"SOFTMAX", "LOGISTIC"} & {op.kind for op in graph.ops}
    (logits,) = graph.outputs
    assert len(logits.shape) == 2
    assert logits.shape[0] == 1


def test_a_reshape_behind_the_softmax_goes_with_it() -> None:
    graph = ending(network(), "SOFTMAX", SOFTMAX)
    b = GraphBuilder("g")
    b.ops, b.inputs = list(graph.ops), list(graph.inputs)
    graph = without_probabilities(b.graph([b.reshape(graph.outputs[0], (3,))]))
    assert graph.outputs == network().outputs or graph.outputs[0].shape == (1, 3)
    assert graph.ops[-1].kind == "FULLY_CONNECTED"


def test_softmax_inside_stays() -> None:
    """Attention has them."""
    b = GraphBuilder("g")
    x = b.input("x", (1, 4))
    soft = b.emit("SOFTMAX", (x,), SOFTMAX)
    graph = b.graph([b.fully_connected(soft, ones(b, 2, 4))])
    assert without_probabilities(graph).ops == graph.ops


def test_what_is_no_row_of_logits_is_refused() -> None:
    b = GraphBuilder("detector")
    x = b.input("x", (1, 8, 8, 3))
    graph = b.graph([b.conv_2d(x, ones(b, 4, 3, 3, 3), None)])
    with pytest.raises(InputError, match=r"shape \[1, 6, 6, 4\], which is no row of logits"):
        without_probabilities(graph)


def test_logits_that_come_from_no_layer_are_no_head() -> None:
    b = GraphBuilder("g")
    x = b.input("x", (1, 4))
    graph = b.graph([b.unary("EXP", b.fully_connected(x, ones(b, 2, 4)))])
    with pytest.raises(InputError, match="has no classifier to replace: its output 'exp' comes from EXP"):
        head_of(graph, find_layers(graph))


def test_a_classifier_on_features(run: Runner) -> None:
    graph = network()
    features = next(op.output for op in graph.ops if op.kind == "ADD")
    changed = with_head_on(graph, features.name, 5)
    layers = find_layers(changed)
    assert head_of(changed, layers).name == "classifier"
    assert [layer.kind for layer in layers] == ["conv", "depthwise", "dense"]
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    ((got,),) = run([Job("features", inference_model(changed, 2), (Call("infer", {"x": x}),))])
    np.testing.assert_array_equal(got["logits"], np.zeros((2, 5)))


def detector(skips: bool) -> Graph:
    """Two results on shared features; with `skips`, one of them also reads what came long before."""
    b = GraphBuilder("detector")
    x = b.input("x", (1, 32, 32, 3))
    early = b.conv_2d(x, ones(b, 4, 4, 4, 3), None, StrideH=4, StrideW=4)
    deep = b.emit("RELU", (b.conv_2d(early, ones(b, 6, 4, 4, 4), None, StrideH=4, StrideW=4),), name="deep")
    gate = b.mul(deep, b.mean(deep, [1, 2], keep=True))
    boxes = b.conv_2d(early if skips else gate, ones(b, 4, 1, 1, 4 if skips else 6), None)
    return b.graph([boxes, b.conv_2d(gate, ones(b, 2, 1, 1, 6), None)])


def test_features_that_a_classifier_may_stand_on_are_named() -> None:
    with pytest.raises(InputError, match=r"has 2 outputs .*: --head TENSOR, for example --head 'mul' \(\[1, 2, 2, 6\]"):
        without_probabilities(detector(skips=False))
    with pytest.raises(InputError, match=r"put a classifier on: --head TENSOR$"):
        without_probabilities(detector(skips=True))


def test_features_must_be_there_and_be_features() -> None:
    with pytest.raises(InputError, match="has no tensor 'nonsense'"):
        with_head_on(network(), "nonsense", 5)
    b = GraphBuilder("g")
    x = b.input("x", (2, 4))
    graph = b.graph([b.unary("EXP", x)])
    with pytest.raises(InputError, match=r"'exp' is float32\[2, 4\]: no features"):
        with_head_on(graph, "exp", 5)
