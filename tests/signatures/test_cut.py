"""Cuts: the parts make the network again, what trains lies behind, and no other place is cheaper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signatures import cut as cuts
from signatures.build import inference_model
from signatures.builder import GraphBuilder
from signatures.cut import MACS_PER_BYTE, Cut, cut_before
from signatures.graph import Array, Graph, Model, Op, Options, Signature
from signatures.layers import find_layers
from signatures.subset import subset_of
from tests.oracles.other_runtime import Call, Job, Runner
from tests.signatures.branching import network, trained
from tests.signatures.example_model import network as small_network

Trained = tuple[Graph, frozenset[str]]
PRICES = st.sampled_from([0, 1, 4, 20, MACS_PER_BYTE])
"""Multiply-adds for a byte: at the real price, small networks are nearly always cut at the input."""


def cut_at(network: Graph, names: Sequence[str] | frozenset[str], price: int) -> Cut:
    with mock.patch.object(cuts, "MACS_PER_BYTE", price):
        return cut_before(network, names)


def model(graph: Graph) -> Model:
    """f(in0, in1 …) → out0, out1 …: the graph as it is."""
    inputs = {f"in{i}": tensor for i, tensor in enumerate(graph.inputs)}
    outputs = {f"out{i}": tensor for i, tensor in enumerate(graph.outputs)}
    return Model((graph,), (Signature("f", graph, inputs, outputs),))


def images(graph: Graph) -> Array:
    return np.random.default_rng(3).normal(size=graph.inputs[0].shape).astype(np.float32)


def results(run: Runner, graph: Graph, values: Sequence[Array]) -> list[Array]:
    call = Call("f", {f"in{i}": value for i, value in enumerate(values)})
    ((got,),) = run([Job(graph.name, model(graph), (call,))])
    return [got[f"out{i}"] for i in range(len(graph.outputs))]


# What the parts compute ----------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(trained(), PRICES)
def test_prefix_then_suffix_is_the_network(run: Runner, one: Trained, price: int) -> None:
    """To the last bit: the same kernels on the same values."""
    graph, names = one
    x = images(graph)
    ((expected,),) = run([Job(graph.name, inference_model(graph), (Call("infer", {"x": x}),))])
    cut = cut_at(graph, names, price)
    crossing = [x] if cut.at_input else results(run, cut.prefix, [x])
    (logits,) = results(run, cut.suffix, crossing)
    np.testing.assert_array_equal(logits, expected["logits"])


@given(trained(), PRICES)
def test_every_op_is_in_one_part_behind_what_it_reads(one: Trained, price: int) -> None:
    graph, names = one
    cut = cut_at(graph, names, price)
    assert sorted(map(id, (*cut.prefix.ops, *cut.suffix.ops))) == sorted(map(id, graph.ops))
    assert cut.prefix.inputs == graph.inputs
    assert cut.suffix.outputs == graph.outputs
    assert cut.prefix.outputs == cut.suffix.inputs
    for part in (cut.prefix, cut.suffix):
        known = set(part.inputs)
        for op in part.ops:
            assert {t for t in op.inputs if t is not None and t.data is None} <= known, op.kind
            known.update(op.outputs)
        assert known.issuperset(part.outputs)


@given(trained(), PRICES)
def test_what_crosses_is_needed_and_comes_once(one: Trained, price: int) -> None:
    cut = cut_at(*one, price)
    read = {tensor for op in cut.suffix.ops for tensor in op.inputs}
    assert read.issuperset(cut.suffix.inputs)
    assert len(set(cut.suffix.inputs)) == len(cut.suffix.inputs)


@given(trained(), PRICES)
def test_no_layer_before_the_cut_trains_or_depends_on_one_that_does(one: Trained, price: int) -> None:
    graph, names = one
    cut = cut_at(graph, names, price)
    assert changed_by(graph, names).isdisjoint(cut.prefix.ops)


def changed_by(graph: Graph, names: frozenset[str]) -> set[Op]:
    """The ops of the named layers and all from which a way leads back to one, found backwards."""
    makers = graph.producers()

    def depends(op: Op) -> bool:
        return op.output.name in names or any(depends(makers[t]) for t in op.inputs if t in makers)

    return {op for op in graph.ops if depends(op)}


@given(trained(), PRICES)
def test_layers_keep_their_names_and_their_order(one: Trained, price: int) -> None:
    """Weights are handed over by name, and a file in the cache is found by the subset's id."""
    graph, names = one
    cut = cut_at(graph, names, price)
    before = {layer.name: graph.ops[layer.op] for layer in find_layers(graph)}
    behind = find_layers(cut.suffix)
    assert all(cut.suffix.ops[layer.op] is before[layer.name] for layer in behind)
    assert names <= {layer.name for layer in behind}
    in_suffix, in_network = subset_of(behind, names), subset_of(find_layers(graph), names)
    assert in_suffix.id == in_network.id
    assert [p.name for p in in_suffix.parameters()] == [p.name for p in in_network.parameters()]


# Where it is ---------------------------------------------------------------------------------------------------------


def macs(op: Op) -> int:
    """Multiply-adds of an op of these networks, counted from the shapes of its operands."""
    if op.kind == "CONV_2D":
        units, height, width, channels = op.input(1).shape
        return math.prod(op.output.shape[1:3]) * units * height * width * channels
    if op.kind == "DEPTHWISE_CONV_2D":
        _, height, width, channels = op.input(1).shape
        return math.prod(op.output.shape[1:3]) * height * width * channels
    if op.kind == "FULLY_CONNECTED":
        return op.input(0).size * op.input(1).shape[0]
    if op.kind == "BATCH_MATMUL":
        return op.output.size * op.input(0).shape[-1]
    return op.output.size


def costs(graph: Graph, names: frozenset[str], price: int) -> list[int]:
    """What each place between the ops that no training changes would cost, the input first."""
    changed = changed_by(graph, names)
    frozen = [op for op in graph.ops if op not in changed]
    found = []
    for place in range(len(frozen) + 1):
        made = {graph.inputs[0], *(op.output for op in frozen[:place])}
        rest = [*frozen[place:], *changed]
        crossing = {tensor for op in rest for tensor in op.inputs if tensor in made} if rest else set(graph.outputs)
        n_bytes = sum(t.size * (1 if t is graph.inputs[0] else 4) for t in crossing)
        found.append(n_bytes * price + sum(map(macs, frozen[place:])))
    return found


@given(trained(), PRICES)
def test_no_place_is_cheaper(one: Trained, price: int) -> None:
    """By trying all of them."""
    graph, names = one
    cut = cut_at(graph, names, price)
    changed = changed_by(graph, names)
    kept_bytes = sum(t.size if t is graph.inputs[0] else 4 * t.size for t in cut.suffix.inputs)
    cost = kept_bytes * price + sum(macs(op) for op in cut.suffix.ops if op not in changed)
    assert cost == min(costs(graph, names, price))


def test_at_the_first_layer_the_images_go_in_as_they_are() -> None:
    graph = network(["residual", "gate"])
    first, *_, head = find_layers(graph)
    cut = cut_before(graph, {first.name, head.name})
    assert cut.at_input
    assert cut.suffix.inputs == graph.inputs
    assert cut.suffix.ops == graph.ops
    assert cut.prefix.ops == ()


def test_for_the_head_alone_its_features_are_kept() -> None:
    graph = network(["strided", "strided", "gate"])
    head = find_layers(graph)[-1]
    cut = cut_before(graph, {head.name})
    assert [op.output.name for op in cut.suffix.ops] == [head.name]
    assert [tensor.shape for tensor in cut.suffix.inputs] == [(1, 6)]
    assert not cut.at_input


def test_images_are_cheaper_than_large_maps_of_few_products() -> None:
    """At a byte a value, and at four bytes a value of the first map, which is one product a value."""
    b = GraphBuilder("wide")
    wide = b.depthwise_conv_2d(b.input("x", (1, 8, 8, 3)), b.const(np.ones((1, 1, 1, 3), np.float32)), None)
    y = b.conv_2d(wide, b.const(np.ones((2, 3, 3, 3), np.float32)), None)
    graph = b.graph([b.fully_connected(b.mean(y, [1, 2]), b.const(np.ones((2, 2), np.float32)))])
    assert cut_before(graph, {find_layers(graph)[1].name}).at_input


def test_the_second_of_two_branches_is_made_beforehand() -> None:
    """It comes after the trained one in the file, and does not depend on it."""
    graph = network(["strided", "branches"])
    _, _, first, second, _ = find_layers(graph)
    cut = cut_at(graph, {first.name}, 0)
    assert find_layers(cut.suffix)[0].name == first.name
    assert second.name in {op.output.name for op in cut.prefix.ops}
    assert len(cut.suffix.inputs) == 2


def test_a_residual_crosses_beside_what_it_is_added_to() -> None:
    graph = network(["strided", "residual"])
    *_, narrow, _ = find_layers(graph)
    cut = cut_at(graph, {narrow.name}, 0)
    assert sorted(tensor.shape for tensor in cut.suffix.inputs) == [(1, 4, 4, 6), (1, 4, 4, 7)]
    assert cut.suffix.ops[0].output.name == narrow.name


def test_the_gated_map_crosses_beside_the_gate() -> None:
    graph = network(["strided", "gate"])
    *_, excite, _ = find_layers(graph)
    cut = cut_at(graph, {excite.name}, 0)
    assert sorted(tensor.shape for tensor in cut.suffix.inputs) == [(1, 1, 1, 2), (1, 4, 4, 6)]


def test_the_order_of_what_crosses_does_not_depend_on_the_run() -> None:
    """It follows from the names; sets of tensors have another order in each process."""
    graph = network(["branches", "branches", "residual"])
    for layer in find_layers(graph):
        names = [tensor.name for tensor in cut_at(graph, {layer.name}, 0).suffix.inputs]
        assert names == sorted(names)


@pytest.mark.parametrize("kind", ["integers", "scalar"])
def test_only_rows_of_floats_cross(kind: str) -> None:
    """A row of a table is looked up, or a number is added to it: four bytes before, and twelve times that behind."""
    b = GraphBuilder("g")
    table = b.const(np.ones((4, 12), np.float32), "table")
    mean = b.mean(b.input("x", (1, 8, 8, 3)), [1, 2, 3])
    if kind == "integers":
        odd = b.emit("CAST", (mean,), Options("CastOptions", {"InDataType": 0, "OutDataType": 2}))
        row = b.emit("GATHER", (table, odd), Options("GatherOptions"))
    else:
        odd = b.reshape(mean, ())
        row = b.add(odd, b.const(np.ones((1, 12), np.float32)))
    graph = b.graph([b.fully_connected(row, b.const(np.ones((2, 12), np.float32)), name="head")])
    assert cut_at(graph, {"head"}, 1).suffix.inputs == (mean,)
    with mock.patch.object(cuts, "can_cross", return_value=True):
        assert cut_at(graph, {"head"}, 1).suffix.inputs == (odd,), "nothing is passed over: this tests nothing"


def test_the_network_itself_is_untouched() -> None:
    graph = small_network()
    before = graph.ops
    cut_before(graph, {find_layers(graph)[-1].name})
    assert graph.ops is before
