"""Rewrites of whole graphs: dynamic products, dead ops, constants, names, single results."""

from __future__ import annotations

import numpy as np
import pytest

from signatures.build import inference_model
from signatures.builder import RELU6, GraphBuilder
from signatures.errors import InputError
from signatures.graph import Graph, Model, Options, Signature
from signatures.layers import find_layers
from signatures.passes import dynamic_products, named_layers, with_constants, with_single_results, without_dead_ops
from signatures.shapes import SAME
from tests.oracles.other_runtime import Call, Job, Runner
from tests.signatures.example_model import network


def kinds(graph: Graph) -> list[str]:
    return [op.kind for op in graph.ops]


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


# Names ------------------------------------------------------------------------------------------------------


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


def test_a_window_that_does_not_fit_is_refused() -> None:
    b = GraphBuilder("g")
    x = b.input("x", (1, 2, 2, 1))
    w = b.const(np.ones((1, 3, 3, 1), np.float32))
    with pytest.raises(InputError, match="a window of 3 does not fit into 2 pixels"):
        b.conv_2d(x, w, None)
    assert b.conv_2d(x, w, None, Padding=SAME).shape == (1, 2, 2, 1)


# Single results -------------------------------------------------------------------------------------------------


def test_parts_become_slices(run: Runner) -> None:
    b = GraphBuilder("parts")
    x = b.input("x", (1, 6, 4))
    axis = b.const(np.array(1, np.int32))
    halves = b.emit_many("SPLIT", (axis, x), Options("SplitOptions", {"NumSplits": 2}))
    sizes = b.const(np.array([1, -1], np.int32))
    uneven = b.emit_many(
        "SPLIT_V", (x, sizes, b.const(np.array(-1, np.int32))), Options("SplitVOptions", {"NumSplits": 2})
    )
    rows = b.emit_many("UNPACK", (x,), Options("UnpackOptions", {"Num": 6, "Axis": 1}))
    graph = b.graph([*halves, *uneven, *rows])
    single = with_single_results(graph)
    assert set(kinds(single)) == {"SLICE", "RESHAPE"}
    assert single.outputs == graph.outputs
    values = np.random.default_rng(0).normal(size=(1, 6, 4)).astype(np.float32)
    names = {f"y{i}": tensor for i, tensor in enumerate(graph.outputs)}
    jobs = [
        Job(g.name, Model((g,), (Signature("f", g, {"x": x}, names),)), (Call("f", {"x": values}),))
        for g in (graph, single)
    ]
    ((expected,), (got,)) = run(jobs)
    assert len(got) == 10
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value)
