"""Micro-batches: what the device trains with adds up to the gradient of the whole batch, on both runtimes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from signatures import cut as cuts
from signatures.build import gradient_model
from signatures.builder import GraphBuilder
from signatures.cut import Cut, cut_before
from signatures.errors import InputError
from signatures.graph import Array, Graph, Tensor
from signatures.layers import find_layers
from signatures.micro_batches import input_name, prefix_model, suffix_model
from signatures.subset import Subset, subset_of, values_of
from tests.oracles import tensorflow_graph
from tests.oracles.gradient_check import relative_error
from tests.oracles.kinks import away_from_kinks
from tests.oracles.other_runtime import Call, Job, Runner
from tests.signatures.branching import CLASSES, network, trained

BATCH = 6
MICRO_BATCHES = (1, 2, 3, 6)
TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class Problem:
    """A network, the layers that train, and a batch."""

    graph: Graph
    names: frozenset[str]
    x: Array
    y: Array

    @cached_property
    def cut(self) -> Cut:
        """As deep as it can be: keeping costs nothing."""
        with mock.patch.object(cuts, "MACS_PER_BYTE", 0):
            return cut_before(self.graph, self.names)

    @cached_property
    def subset(self) -> Subset:
        """Of the suffix."""
        return subset_of(find_layers(self.cut.suffix), self.names)

    @cached_property
    def weights(self) -> dict[str, Array]:
        return values_of(self.cut.suffix, self.subset)

    @cached_property
    def whole(self) -> Subset:
        """Of the whole network."""
        return subset_of(find_layers(self.graph), self.names)

    @cached_property
    def exact(self) -> tuple[float, dict[str, Array]]:
        """Loss and gradients in float64, by GradientTape: means over the images, each of which goes through alone."""
        values = tensorflow_graph.variables(self.graph, self.whole, "float64")
        losses, gradients = zip(
            *(
                tensorflow_graph.loss_and_gradients(self.graph, self.x[i : i + 1], self.y[i : i + 1], values)
                for i in range(BATCH)
            ),
            strict=True,
        )
        return float(np.mean(losses)), {name: np.mean([g[name] for g in gradients], axis=0) for name in gradients[0]}

    @cached_property
    def crossing(self) -> list[Array]:
        """What crosses, by TensorFlow: a row an image, float32."""
        rows = []
        for image in self.x:
            values = tensorflow_graph.evaluate(self.graph, {self.graph.inputs[0]: tf.constant(image[None], tf.float32)})
            rows.append([values[tensor].numpy().ravel() for tensor in self.cut.suffix.inputs])
        return [np.stack(column) for column in zip(*rows, strict=True)]

    def inputs(self, first: int, count: int) -> dict[str, Array]:
        """Arguments of `gradients` for some images of the batch."""
        xs = {
            input_name(i): rows[first : first + count].reshape(count * tensor.shape[0], *tensor.shape[1:])
            for i, (rows, tensor) in enumerate(zip(self.crossing, self.cut.suffix.inputs, strict=True))
        }
        truth = np.zeros((count, CLASSES), np.float32)
        truth[np.arange(count), self.y[first : first + count]] = 1
        return {**xs, "truth": truth, **self.weights}

    def job(self, micro_batch: int) -> Job:
        """The whole batch, micro-batch by micro-batch."""
        model = suffix_model(self.cut.suffix, self.subset, micro_batch, BATCH)
        calls = tuple(Call("gradients", self.inputs(first, micro_batch)) for first in range(0, BATCH, micro_batch))
        return Job(f"{self.graph.name} {micro_batch}", model, calls)

    @property
    def whole_job(self) -> Job:
        """The whole network and batch in one graph, as `verify` checks it."""
        call = Call("gradients", {"x": self.x, "y": self.y, **self.weights})
        return Job(self.graph.name, gradient_model(self.graph, self.whole, BATCH), (call,))


def problem(graph: Graph, names: Sequence[str] | frozenset[str]) -> Problem:
    random = np.random.default_rng(2)
    x = random.normal(size=(BATCH, *graph.inputs[0].shape[1:])).astype(np.float32)
    return Problem(away_from_kinks(graph, x), frozenset(names), x, random.integers(0, CLASSES, BATCH).astype(np.int32))


def middle_layers(*blocks: str) -> Problem:
    """The layers of the last block and the head."""
    graph = network(blocks)
    before = len(find_layers(network(blocks[:-1]))) - 1
    return problem(graph, [layer.name for layer in find_layers(graph)[before:]])


def added(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """The sum of what the micro-batches give, as the device adds it up."""
    return {name: np.sum([part[name] for part in parts], axis=0) for name in parts[0] if name != "logits"}


PROBLEMS = {
    "residual": middle_layers("strided", "residual"),
    "gate": middle_layers("strided", "gate"),
    "branches": middle_layers("plain", "branches"),
    "tokens": middle_layers("strided", "tokens"),
    "attention": middle_layers("strided", "attention"),
    "depthwise": middle_layers("strided", "depthwise"),
    "all layers": problem(graph := network(["residual", "gate"]), [layer.name for layer in find_layers(graph)]),
}


@pytest.fixture(scope="module")
def by_micro_batch(run: Runner) -> dict[tuple[str, int], list[dict[str, Array]]]:
    """What every problem gives in micro-batches of each size."""
    jobs = {(name, size): p.job(size) for name, p in PROBLEMS.items() for size in MICRO_BATCHES}
    return dict(zip(jobs, run(list(jobs.values())), strict=True))


@pytest.fixture(scope="module")
def in_one_graph(run: Runner) -> dict[str, dict[str, Array]]:
    """What every problem gives as a whole."""
    results = run([p.whole_job for p in PROBLEMS.values()])
    return {name: got for name, (got,) in zip(PROBLEMS, results, strict=True)}


@pytest.mark.parametrize("size", MICRO_BATCHES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_gradients_add_up_to_the_batchs(
    name: str,
    size: int,
    by_micro_batch: dict[tuple[str, int], list[dict[str, Array]]],
    in_one_graph: dict[str, dict[str, Array]],
) -> None:
    """To those of one graph for the whole batch on the same runtime, and to GradientTape's in float64."""
    _, exact = PROBLEMS[name].exact
    found = added(by_micro_batch[name, size])
    assert found.keys() == exact.keys()
    for parameter, gradient in found.items():
        assert relative_error(gradient, exact[parameter]) < TOLERANCE, parameter
        assert relative_error(gradient, in_one_graph[name][parameter]) < TOLERANCE, parameter


@pytest.mark.parametrize("size", MICRO_BATCHES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_loss_follows_from_the_logits(
    name: str, size: int, by_micro_batch: dict[tuple[str, int], list[dict[str, Array]]]
) -> None:
    p = PROBLEMS[name]
    logits = np.concatenate([part["logits"] for part in by_micro_batch[name, size]]).astype(np.float64)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(BATCH), p.y]
    assert losses.mean() == pytest.approx(p.exact[0], rel=1e-5)


def test_the_problems_cross_in_every_way() -> None:
    """One value and several, images and features, rows that images share with others of the same image."""
    crossing = {name: [t.shape for t in p.cut.suffix.inputs] for name, p in PROBLEMS.items()}
    assert crossing["all layers"] == [(1, 8, 8, 3)]
    assert len(crossing["tokens"]) == 2
    assert {shape[0] for shape in crossing["tokens"]} == {1, 16}, "no value has more than one row an image"
    assert {len(shapes) for shapes in crossing.values()} == {1, 2}


@settings(max_examples=12)
@given(trained(), st.sampled_from(MICRO_BATCHES[:-1]))
def test_any_subset_of_any_network(run: Runner, one: tuple[Graph, frozenset[str]], size: int) -> None:
    """Frozen ops between trained ones, branches of which one trains, heads that stay as they are."""
    p = problem(*one)
    (got,) = run([p.job(size)])
    _, exact = p.exact
    scale = max(np.linalg.norm(gradient) for gradient in exact.values())
    for parameter, gradient in added(got).items():
        assert np.linalg.norm(gradient - exact[parameter]) < 1e-5 * scale, parameter


# What the prefix gives -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, p in PROBLEMS.items() if not p.cut.at_input])
def test_the_prefix_gives_what_the_suffix_takes(name: str, run: Runner) -> None:
    """A row an image, the same at every batch, and what TensorFlow computes."""
    p = PROBLEMS[name]
    jobs = [
        Job(
            f"{name} {size}",
            prefix_model(p.cut.prefix, size),
            tuple(Call("prefix", {"x": p.x[first : first + size]}) for first in range(0, BATCH, size)),
        )
        for size in MICRO_BATCHES
    ]
    for got in run(jobs):
        for i, expected in enumerate(p.crossing):
            rows = np.concatenate([part[input_name(i)] for part in got])
            assert rows.shape == expected.shape
            np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)


# What apps and the cache rely on ------------------------------------------------------------------------------------


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    assert all(tensor.dtype == "float32" for tensor in tensors.values())
    return {name: tensor.shape for name, tensor in tensors.items()}


def test_arguments_and_results_of_gradients() -> None:
    p = PROBLEMS["tokens"]
    weights = {parameter.name: parameter.shape for parameter in p.subset.parameters()}
    assert len(weights) == 4
    model = suffix_model(p.cut.suffix, p.subset, 2, BATCH)
    assert [signature.name for signature in model.signatures] == ["gradients"]
    assert len(model.graphs) == 1
    signature = model.signature("gradients")
    first, second = ((2 * t.shape[0], *t.shape[1:]) for t in p.cut.suffix.inputs)
    assert shapes(signature.inputs) == {"x0": first, "x1": second, "truth": (2, CLASSES), **weights}
    assert shapes(signature.outputs) == {"logits": (2, CLASSES), **weights}


def test_arguments_and_results_of_prefix() -> None:
    p = PROBLEMS["tokens"]
    model = prefix_model(p.cut.prefix, 3)
    assert [signature.name for signature in model.signatures] == ["prefix"]
    signature = model.signature("prefix")
    assert shapes(signature.inputs) == {"x": (3, 8, 8, 3)}
    assert shapes(signature.outputs) == {f"x{i}": (3, t.size) for i, t in enumerate(p.cut.suffix.inputs)}


def test_a_layer_that_the_output_does_not_need_is_named() -> None:
    p = PROBLEMS["branches"]
    b = GraphBuilder("beside")
    b.ops = list(p.cut.suffix.ops)
    (source,) = p.cut.suffix.inputs
    b.conv_2d(source, b.const(np.ones((2, 1, 1, source.shape[3]), np.float32)), None)
    beside = Graph("suffix", tuple(b.ops), p.cut.suffix.inputs, p.cut.suffix.outputs)
    dead = find_layers(beside)[-1]
    with pytest.raises(InputError, match=f"does not depend on '{dead.name}/weight'"):
        suffix_model(beside, Subset((dead,)), 1, 1)
