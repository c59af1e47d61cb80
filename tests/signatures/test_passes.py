"""Rewrites of whole graphs: replay, dynamic products, dead ops, constants, heads, names, softmax."""

from __future__ import annotations

import numpy as np
import pytest

from signatures.build import inference_model
from signatures.builder import RELU6, GraphBuilder
from signatures.errors import InputError
from signatures.graph import Graph, Op, Options, Tensor
from signatures.layers import find_layers, head_of
from signatures.passes import (
    dynamic_products,
    named_layers,
    replay,
    with_constants,
    with_new_head,
    without_dead_ops,
    without_softmax,
)
from signatures.shapes import SAME
from tests.oracles.other_runtime import Call, Job, Runner
from tests.signatures.example_model import network


def kinds(graph: Graph) -> list[str]:
    return [op.kind for op in graph.ops]


def with_softmax(graph: Graph) -> Graph:
    b = GraphBuilder(graph.name)
    b.ops, b.inputs = list(graph.ops), list(graph.inputs)
    return b.graph([b.emit("SOFTMAX", (graph.outputs[0],), Options("SoftmaxOptions", {"Beta": 1.0}))])


# Replay ---------------------------------------------------------------------------------------------------------


def flattened() -> Graph:
    """Convolution, flatten, head; the batch is spelled out in the RESHAPE."""
    b = GraphBuilder("flat")
    x = b.input("x", (1, 4, 4, 2))
    y = b.conv_2d(x, b.const(np.ones((3, 1, 1, 2), np.float32)), None)
    return b.graph([b.fully_connected(b.reshape(y, (1, 48)), b.const(np.ones((5, 48), np.float32)))])


def test_replay_changes_the_batch_everywhere() -> None:
    source = flattened()
    b = GraphBuilder("again")
    new = replay(b, source, b.input("x", (6, 4, 4, 2)))
    assert [new[op.output].shape for op in source.ops] == [(6, 4, 4, 3), (6, 48), (6, 5)]
    assert [t.shape for op in source.ops for t in op.outputs] == [(1, 4, 4, 3), (1, 48), (1, 5)], "source is untouched"


def test_replay_at_another_image_size_is_refused() -> None:
    b = GraphBuilder("again")
    with pytest.raises(InputError, match=r"takes \[4, 4, 2\], got \[5, 4, 2\]"):
        replay(b, flattened(), b.input("x", (1, 5, 4, 2)))


def test_a_reshape_that_folds_the_batch_is_refused_only_at_another_batch() -> None:
    b = GraphBuilder("folded")
    x = b.input("x", (1, 4, 2))
    graph = b.graph([b.fully_connected(b.reshape(x, (4, 2)), b.const(np.ones((3, 2), np.float32)))])
    again = GraphBuilder("again")
    assert replay(again, graph, again.input("x", (1, 4, 2)))[graph.outputs[0]].shape == (4, 3)
    again = GraphBuilder("again")
    with pytest.raises(InputError, match="folds the batch"):
        replay(again, graph, again.input("x", (2, 4, 2)))


def first_rows() -> Graph:
    """A SLICE as converters write it at batch 1: sizes spelled out, the batch's among them."""
    b = GraphBuilder("sliced")
    x = b.input("x", (1, 5, 4))
    row = b.emit("SLICE", (x, b.ints([0, 0, 0]), b.ints([1, 1, 4])), Options("SliceOptions"))
    return b.graph([b.fully_connected(b.add(x, row), b.const(np.ones((3, 4), np.float32)))])


def mean_over_the_batch() -> Graph:
    b = GraphBuilder("mean")
    x = b.input("x", (1, 4))
    return b.graph([b.fully_connected(b.mean(x, [0], keep=True), b.const(np.ones((3, 4), np.float32)))])


@pytest.mark.parametrize("graph", [first_rows(), mean_over_the_batch()], ids=lambda graph: graph.name)
def test_ops_that_do_not_keep_images_apart_are_refused(graph: Graph) -> None:
    """At batch 2 the first would add the first image's row to both, and nobody would notice."""
    for batch in (1, 2):
        b = GraphBuilder("again")
        x = b.input("x", (batch, *graph.inputs[0].shape[1:]))
        if batch == 1:
            assert len(replay(b, graph, x)) == 1 + len(graph.ops)
        else:
            with pytest.raises(InputError, match="mixes the images of a batch or takes some of them"):
                replay(b, graph, x)


def test_replay_substitutes_one_slot_of_a_shared_constant() -> None:
    b = GraphBuilder("shared")
    x = b.input("x", (1, 4))
    shared = b.const(np.ones((4, 4), np.float32))
    graph = b.graph([b.fully_connected(b.fully_connected(x, shared), shared)])
    again = GraphBuilder("again")
    x, w = again.input("x", (1, 4)), again.input("w", (4, 4))
    replay(again, graph, x, {(1, 1): w})
    assert [op.input(1) for op in again.ops] == [shared, w]


# Dynamic products -----------------------------------------------------------------------------------------------


def test_pointwise_products_of_variables_become_matmuls() -> None:
    b = GraphBuilder("g")
    x, w, bias, matrix = (
        b.input("x", (1, 4, 4, 2)),
        b.input("w", (3, 1, 1, 2)),
        b.input("b", (3,)),
        b.input("m", (5, 3)),
    )
    y = b.conv_2d(x, w, bias, FusedActivationFunction=RELU6)
    graph = dynamic_products(b.graph([b.fully_connected(b.mean(y, [1, 2]), matrix)]))
    assert not {"CONV_2D", "FULLY_CONNECTED"} & set(kinds(graph))
    assert kinds(graph).count("BATCH_MATMUL") == 2
    activations = [op.options.integer("FusedActivationFunction") for op in graph.ops if op.kind == "ADD"]
    assert activations == [RELU6, 0]


def test_other_convolutions_stay() -> None:
    """Constants, larger windows, strides, groups, and the product of a tensor with itself."""
    b = GraphBuilder("g")
    x = b.input("x", (1, 4, 4, 2))
    b.conv_2d(x, b.const(np.ones((3, 1, 1, 2), np.float32)), None)
    b.conv_2d(x, b.input("w3", (3, 3, 3, 2)), None)
    b.conv_2d(x, b.input("w1", (3, 1, 1, 2)), None, StrideH=2, StrideW=2)
    b.conv_2d(x, b.input("grouped", (4, 1, 1, 1)), None)
    rows = b.reshape(x, (4, 8))
    graph = b.graph([b.fully_connected(rows, rows)])
    assert dynamic_products(graph).ops == graph.ops


# Dead ops and constants -----------------------------------------------------------------------------------------


def test_dead_ops_go_and_assignments_stay() -> None:
    b = GraphBuilder("g")
    x = b.input("x", (2,))
    b.unary("EXP", b.unary("NEG", x))
    kept = b.unary("SQUARE", x)
    b.assign(b.variable("v"), b.unary("ABS", x))
    graph = without_dead_ops(b.graph([kept]))
    assert kinds(graph) == ["SQUARE", "VAR_HANDLE", "ABS", "ASSIGN_VARIABLE"]
    assert graph.inputs == (x,)


def test_with_constants_changes_one_slot_and_shares_the_rest() -> None:
    graph = network()
    index = find_layers(graph)[1].op
    value = np.full((1, 3, 3, 4), 7, np.float32)
    changed = with_constants(graph, {(index, 1): value})
    for i, (op, new) in enumerate(zip(graph.ops, changed.ops, strict=True)):
        assert op.outputs == new.outputs
        assert [a is b for a, b in zip(op.inputs, new.inputs, strict=True)] == [
            (i, slot) != (index, 1) for slot in range(len(op.inputs))
        ]
    np.testing.assert_array_equal(changed.ops[index].input(1).data, value)
    assert not np.array_equal(graph.ops[index].input(1).data, value)


@pytest.mark.parametrize("value", [np.zeros((1, 3, 3, 5), np.float32), np.zeros((1, 3, 3, 4), np.float64)])
def test_with_constants_keeps_shape_and_type(value: np.ndarray) -> None:
    graph = network()
    with pytest.raises(InputError, match=r"is float32\[1, 3, 3, 4\], got"):
        with_constants(graph, {(find_layers(graph)[1].op, 1): value})


# Heads and names ------------------------------------------------------------------------------------------------


def test_new_head_says_that_all_classes_are_equal(run: Runner) -> None:
    graph = with_softmax(network())
    layers = find_layers(graph)
    changed = with_new_head(graph, head_of(layers), 7)
    assert "SOFTMAX" not in kinds(changed)
    assert [t.shape for t in changed.outputs] == [(1, 7)]
    found = find_layers(changed)
    assert [layer.name for layer in found] == [layer.name for layer in layers]
    assert (found[-1].weight_shape, found[-1].bias_shape) == ((7, 4), (7,))
    for layer in layers[:-1]:
        assert changed.ops[layer.op].input(1) is graph.ops[layer.op].input(1)
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    ((got,),) = run([Job("head", inference_model(changed, 3), (Call("infer", {"x": x}),))])
    np.testing.assert_array_equal(got["logits"], np.zeros((3, 7)))


def test_new_head_needs_a_dense_layer() -> None:
    graph = network()
    with pytest.raises(InputError, match="is CONV_2D, expected FULLY_CONNECTED"):
        with_new_head(graph, find_layers(graph)[0], 7)


def test_softmax_at_the_end_is_dropped() -> None:
    graph = network()
    plain = without_softmax(with_softmax(graph))
    assert plain.ops == graph.ops
    assert plain.outputs == graph.outputs
    assert without_softmax(graph) is graph


def test_softmax_inside_stays() -> None:
    """Attention has them."""
    b = GraphBuilder("g")
    x = b.input("x", (1, 4))
    soft = b.emit("SOFTMAX", (x,), Options("SoftmaxOptions", {"Beta": 1.0}))
    graph = b.graph([b.fully_connected(soft, b.const(np.ones((2, 4), np.float32)))])
    assert without_softmax(graph) is graph
    branch = Graph("g", graph.ops[:1], graph.inputs, (x,))
    assert without_softmax(branch) is branch


def test_named_layers_are_called_so_from_then_on(run: Runner) -> None:
    graph = network()
    before = find_layers(graph)
    renamed = named_layers(graph, [layer.op for layer in before], ["first", "second", "head"])
    after = find_layers(renamed)
    assert [layer.name for layer in after] == ["first", "second", "head"]
    assert [(x.op, x.weight_shape, x.macs) for x in after] == [(x.op, x.weight_shape, x.macs) for x in before]
    assert renamed.outputs[0].name == "head"
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)
    jobs = [Job(g.name, inference_model(g), (Call("infer", {"x": x}),)) for g in (graph, renamed)]
    ((old,), (new,)) = run(jobs)
    np.testing.assert_array_equal(new["logits"], old["logits"])


# Ops that cannot be replayed ------------------------------------------------------------------------------------


def test_an_op_with_several_results_is_refused() -> None:
    x = Tensor("x", (1, 4), "float32")
    halves = (Tensor("a", (1, 2), "float32"), Tensor("b", (1, 2), "float32"))
    axis = GraphBuilder("g").const(np.array(1, np.int32))
    graph = Graph("g", (Op("SPLIT", (axis, x), halves, Options("SplitOptions", {"NumSplits": 2})),), (x,), halves[:1])
    b = GraphBuilder("again")
    with pytest.raises(InputError, match="SPLIT has 2 results"):
        replay(b, graph, b.input("x", (2, 4)))


def test_an_op_without_shape_rule_is_named() -> None:
    x = Tensor("x", (1, 4), "float32")
    y = Tensor("y", (1, 4), "float32")
    b = GraphBuilder("again")
    with pytest.raises(InputError, match="no shape rule for ROLL"):
        replay(b, Graph("g", (Op("ROLL", (x,), (y,)),), (x,), (y,)), b.input("x", (2, 4)))


def test_a_window_that_does_not_fit_is_refused() -> None:
    b = GraphBuilder("g")
    x = b.input("x", (1, 2, 2, 1))
    w = b.const(np.ones((1, 3, 3, 1), np.float32))
    with pytest.raises(InputError, match="a window of 3 does not fit into 2 pixels"):
        b.conv_2d(x, w, None)
    assert b.conv_2d(x, w, None, Padding=SAME).shape == (1, 2, 2, 1)
