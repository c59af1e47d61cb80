"""The signatures of a bundle: infer, activations and gram at several batch sizes; and no op that is not builtin."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import tensorflow as tf

from signatures.build import activations, bundle_model, gradient_model, inference_model, probe_model, train_model
from signatures.builder import GraphBuilder
from signatures.cut import cut_before
from signatures.errors import InputError
from signatures.graph import Array, Graph, Model
from signatures.layers import find_layers
from signatures.micro_batches import prefix_model, suffix_model
from signatures.optimizers import Optimizer
from signatures.subset import Subset
from signatures.tflite_io import model_bytes
from tests.oracles import tensorflow_graph
from tests.oracles.gradient_check import relative_error
from tests.oracles.keras_mobilenet import KerasNetwork
from tests.oracles.other_runtime import Call, Job, Runner
from tests.oracles.schema_view import operator_codes
from tests.signatures.example_model import network

PROBED = 16
"""Batch of the Gram matrices."""
EMITTED = {
    "ADD", "ASSIGN_VARIABLE", "BATCH_MATMUL", "CALL_ONCE", "CEIL", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D",
    "DIV", "EXP", "FILL", "FULLY_CONNECTED", "LOG_SOFTMAX", "MEAN", "MINIMUM", "MUL", "ONE_HOT", "PAD", "READ_VARIABLE",
    "RESHAPE", "REVERSE_V2", "SOFTMAX", "SPACE_TO_DEPTH", "SQRT", "STRIDED_SLICE", "SUB", "SUM", "TRANSPOSE",
    "VAR_HANDLE",
}  # fmt: skip
"""All that MobileNetV2's files are made of: builtin ops that tflite-runtime 2.14 has too."""


@pytest.fixture(scope="module")
def images() -> Array:
    return np.random.default_rng(5).normal(size=(PROBED, 48, 48, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def probed(small: Graph, images: Array, run: Runner) -> list[Mapping[str, Array]]:
    """infer and activations of the first image and gram of all, from one file; activations of all, from another."""
    layers, one = find_layers(small), {"x": images[:1]}
    calls = (Call("infer", one), Call("activations", one), Call("gram", {"x": images}))
    single = activations(small, layers)
    ones = tuple(Call("activations", {"x": image[None]}) for image in images)
    jobs = [
        Job("bundle", bundle_model(small, layers, PROBED), calls),
        Job("activations", Model((single.graph,), (single,)), ones),
    ]
    bundle, apart = run(jobs)
    return [*bundle, {name: np.concatenate([one[name] for one in apart]) for name in apart[0]}]


@pytest.fixture(scope="module")
def exact(small: Graph, images: Array) -> dict[str, Array]:
    """The oracle's activations of all images, in float64."""
    values = tensorflow_graph.evaluate(small, {small.inputs[0]: tf.constant(images, tf.float64)})
    return {layer.name: values[small.ops[layer.op].output].numpy() for layer in find_layers(small)}


def test_infer_is_what_keras_computes(mobilenet: KerasNetwork, run: Runner) -> None:
    """Four images at once, and one by one."""
    images = mobilenet.images[:4]
    together = Job("4", inference_model(mobilenet.graph, 4), (Call("infer", {"x": images}),))
    apart = Job("1", inference_model(mobilenet.graph), tuple(Call("infer", {"x": image[None]}) for image in images))
    (batch,), singles = run([together, apart])
    assert relative_error(batch["logits"], mobilenet.logits[:4]) < 1e-5
    assert relative_error(np.concatenate([one["logits"] for one in singles]), batch["logits"]) < 1e-5


def test_activations_are_those_of_the_oracle(probed: list[Mapping[str, Array]], exact: dict[str, Array]) -> None:
    _, first, _, every = probed
    assert set(first) == set(every) == set(exact)
    for name, value in exact.items():
        assert relative_error(first[name], value[:1]) < 1e-5, name
        assert relative_error(every[name], value) < 1e-5, name


def test_gram_is_the_product_of_centred_activations(probed: list[Mapping[str, Array]], exact: dict[str, Array]) -> None:
    """Against the oracle's activations, and closer against those of the same runtime."""
    _, _, grams, every = probed
    assert set(grams) == set(exact)
    for name, got in grams.items():
        assert got.shape == (PROBED, PROBED)
        assert relative_error(got, centred_gram(every[name])) < 1e-5, name
        assert relative_error(got, centred_gram(exact[name])) < 5e-5, name


def centred_gram(activations: Array) -> Array:
    rows = activations.astype(np.float64).reshape(len(activations), -1)
    rows -= rows.mean(0)
    result: Array = rows @ rows.T
    return result


def test_gram_of_a_cloud_far_from_the_origin(run: Runner) -> None:
    """A bias of a hundred deviations: without centring, float32 would keep three digits of the distances."""
    b = GraphBuilder("far")
    x = b.input("x", (1, 8, 8, 3))
    weights = np.random.default_rng(0).normal(size=(4, 1, 1, 3)).astype(np.float32)
    y = b.conv_2d(x, b.const(weights), b.const(np.full(4, 200, np.float32)))
    graph = b.graph([b.fully_connected(b.mean(y, [1, 2]), b.const(np.ones((2, 4), np.float32)))])
    images = np.random.default_rng(1).normal(size=(8, 8, 8, 3)).astype(np.float32)
    layer = find_layers(graph)[0]
    job = Job("far", probe_model(graph, [graph.ops[layer.op].output], [], 8), (Call("gram", {"x0": images}),))
    ((got,),) = run([job])
    assert relative_error(got["gram0"], centred_gram(images @ weights[:, 0, 0].T)) < 1e-4


def test_only_builtin_ops_are_emitted(small: Graph) -> None:
    """For every subset that holds all of the network, and so every rule that the network needs."""
    layers = find_layers(small)
    subset = Subset(layers)
    models = [
        bundle_model(small, layers, 4),
        gradient_model(small, subset, 4),
        *(train_model(small, subset, 4, Optimizer(kind, weight_decay=0.1)) for kind in ("sgd", "adam")),
        prefix_model(cut_before(small, [layers[-1].name]).prefix, 4),
        suffix_model(small, subset, 2, 4),
    ]
    codes = set().union(*(operator_codes(model_bytes(model)) for model in models))
    assert "CUSTOM" not in codes
    assert codes == EMITTED


def test_signatures_and_their_arguments() -> None:
    """Names and shapes that an app relies on (docs/formats.md)."""
    graph = network()
    layers = find_layers(graph)
    model = train_model(graph, Subset(layers[-1:]), 5, Optimizer())
    head = layers[-1].name
    weights = {f"{head}/weight": (3, 4), f"{head}/bias": (3,)}

    def shapes(tensors: Mapping[str, object]) -> dict[str, object]:
        return {name: tensor.shape for name, tensor in tensors.items()}  # type: ignore[attr-defined]

    found = {s.name: (shapes(s.inputs), shapes(s.outputs)) for s in model.signatures}
    assert found == {
        "train": ({"x": (5, 8, 8, 3), "y": (5,), "learning_rate": ()}, {"loss": ()}),
        "infer": ({"x": (5, 8, 8, 3)}, {"logits": (5, 3)}),
        "get_weights": ({}, weights),
        "set_weights": (weights, {}),
    }
    assert model.signature("train").inputs["y"].dtype == "int32"
    bundle = bundle_model(graph, layers, 7)
    assert shapes(bundle.signature("infer").inputs) == {"x": (1, 8, 8, 3)}
    assert shapes(bundle.signature("gram").outputs) == {layer.name: (7, 7) for layer in layers}


def test_a_batch_of_nothing() -> None:
    with pytest.raises(InputError, match="a batch of 0"):
        inference_model(network(), 0)


def test_a_layer_that_the_output_does_not_need() -> None:
    """Its gradient does not exist; the message names the parameter."""
    b = GraphBuilder("g")
    x = b.input("x", (1, 4))
    w = np.ones((2, 4), np.float32)
    b.fully_connected(x, b.const(w + 1, "dead"), name="side")
    graph = b.graph([b.fully_connected(x, b.const(w, "live"), name="head")])
    with pytest.raises(InputError, match="does not depend on 'side/weight'"):
        train_model(graph, Subset(find_layers(graph)), 1, Optimizer())


def test_an_output_that_is_no_vector_of_logits() -> None:
    b = GraphBuilder("g")
    graph = b.graph([b.conv_2d(b.input("x", (1, 4, 4, 3)), b.const(np.ones((2, 1, 1, 3), np.float32)), None)])
    with pytest.raises(InputError, match=r"has shape \[1, 4, 4, 2\], expected \[1, classes\]"):
        inference_model(graph)
