"""What ops are for, by the multiply-adds that each layer must have: forward, for its input, for its weights."""

from __future__ import annotations

from collections import Counter

import pytest

from profiling.ops.roles import FORWARD, LOSS, TO_INPUT, TO_WEIGHT, UPDATE, roles
from signatures.build import infer
from signatures.channels import with_channels
from signatures.cut import cut_before
from signatures.graph import Graph, Signature
from signatures.layers import Layer, find_layers, op_macs
from signatures.micro_batches import suffix_model
from signatures.subset import subset_of
from tests.end_to_end import tiny
from tests.signatures import example_model

BATCH = 2


def compiled(network: Graph, names: set[str], bias_only: bool = False) -> Signature:
    cut = cut_before(network, names)
    subset = subset_of(find_layers(cut.suffix), names, names if bias_only else ())
    (signature,) = suffix_model(cut.suffix, subset, BATCH, BATCH).signatures
    return signature


def macs(signature: Signature) -> Counter[tuple[str, str]]:
    """By layer and stage, for one image."""
    found: Counter[tuple[str, str]] = Counter()
    for op, role in roles(signature).items():
        found[role.layer, role.stage] += op_macs(op)
    return Counter({key: count // BATCH for key, count in found.items() if count})


def expected(layers: list[Layer], trained: set[str], bias_only: bool = False) -> Counter[tuple[str, str]]:
    """A product for the result, one as large for the input of all but the first trained layer, one for the weights;
    depthwise weights take no matrix product.
    """
    first = next(i for i, layer in enumerate(layers) if layer.name in trained)
    found: Counter[tuple[str, str]] = Counter()
    for i, layer in enumerate(layers):
        found[layer.name, FORWARD] = layer.macs
        if i > first:
            found[layer.name, TO_INPUT] = layer.macs
        if layer.name in trained and layer.kind != "depthwise" and not bias_only:
            found[layer.name, TO_WEIGHT] = layer.macs
    return found


@pytest.mark.parametrize("bias_only", [False, True])
@pytest.mark.parametrize(
    "trained", [{"a_project", "head"}, {"b_expand", "b_project", "last", "head"}, set(tiny.LAYERS[2:]), {"last"}]
)
def test_each_layer_has_its_products(trained: set[str], bias_only: bool) -> None:
    network = tiny.source().graph
    signature = compiled(network, trained, bias_only)
    suffix = list(find_layers(cut_before(network, trained).suffix))
    found, wanted = macs(signature), expected(suffix, trained, bias_only)
    strided = ("b_depthwise", TO_INPUT)  # with a stride, zeros are multiplied too
    assert found.pop(strided, 0) >= wanted.pop(strided, 0)
    assert found == wanted


def test_gradients_of_weights_are_those_that_nothing_else_needs() -> None:
    network = tiny.source().graph
    signature = compiled(network, set(tiny.LAYERS))
    by_stage = Counter(role.stage for role in roles(signature).values())
    assert set(by_stage) == {FORWARD, LOSS, TO_INPUT, TO_WEIGHT}
    for name, tensor in signature.outputs.items():
        (last,) = (op for op in signature.graph.ops if tensor in op.outputs)
        layer, _, what = name.rpartition("/")
        stage = TO_WEIGHT if what in ("weight", "bias") else FORWARD
        assert roles(signature)[last].stage == stage
        assert roles(signature)[last].layer == (layer or "head")


def test_loss_is_what_lies_between() -> None:
    signature = compiled(tiny.source().graph, {"last", "head"})
    kinds = [op.kind for op, role in roles(signature).items() if role.stage == LOSS]
    assert sorted(kinds) == ["SOFTMAX", "SUB"]


def test_some_channels_of_a_layer_are_that_layer() -> None:
    network = with_channels(tiny.source().graph, {"a_project": (1, 4)})
    found = macs(compiled(network, {"a_project", "head"}))
    assert found["a_project", FORWARD] > 0
    assert found["a_project", TO_WEIGHT] > 0


def test_a_graph_without_gradients_is_forward_all_over() -> None:
    signature = infer(tiny.source().graph, BATCH)
    found = roles(signature)
    assert {role.stage for role in found.values()} == {FORWARD}
    assert {role.layer for role in found.values()} == set(tiny.LAYERS)


def test_a_step_with_variables_is_forward_and_update() -> None:
    signature = example_model.training_model().signature("train")
    found = roles(signature)
    assert {role.stage for role in found.values()} == {FORWARD, UPDATE}
    assert all(role.stage == UPDATE for op, role in found.items() if op.kind == "ASSIGN_VARIABLE")
