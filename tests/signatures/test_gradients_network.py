"""MobileNetV2: the gradients of all layers together, and of every layer alone, against GradientTape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow as tf

from signatures.build import gradient_model
from signatures.graph import Array, Graph
from signatures.layers import find_layers
from signatures.subset import Subset
from tests.oracles import tensorflow_graph
from tests.oracles.gradient_check import relative_error
from tests.oracles.keras_mobilenet import CLASSES, KerasNetwork
from tests.oracles.kinks import away_from_kinks
from tests.oracles.other_runtime import Call, Job, Runner
from tests.oracles.variants import rebuilt

SIDE, BATCH = 96, 2
LAYERS = 53
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Problem:
    """A network, a batch whose values keep away from the kinks of its activations, and the oracle's answer."""

    graph: Graph
    x: Array
    y: Array
    loss: float
    gradients: dict[str, Array]


def problem(graph: Graph) -> Problem:
    random = np.random.default_rng(1)
    x = random.normal(size=(BATCH, SIDE, SIDE, 3)).astype(np.float32)
    y = random.integers(0, CLASSES, BATCH).astype(np.int32)
    graph = away_from_kinks(graph, x)
    parameters = tensorflow_graph.variables(graph, Subset(find_layers(graph)), "float64")
    return Problem(graph, x, y, *tensorflow_graph.loss_and_gradients(graph, x, y, parameters))


@pytest.fixture(scope="module")
def keras_problem(mobilenet: KerasNetwork) -> Problem:
    return problem(mobilenet.graph)


@pytest.fixture(scope="module")
def padded_problem(mobilenet: KerasNetwork) -> Problem:
    """Strided convolutions are VALID behind a PAD on all sides."""
    return problem(rebuilt(mobilenet.graph, SIDE, explicit_padding=True))


def gradient_job(problem: Problem, subset: Subset) -> Job:
    values = {p.name: problem.graph.ops[p.slot[0]].input(p.slot[1]).data for p in subset.parameters()}
    call = Call("gradients", {"x": problem.x, "y": problem.y, **values})
    return Job(subset.names[0], gradient_model(problem.graph, subset, BATCH), (call,))


def assert_right(got: dict[str, Array], problem: Problem, subset: Subset) -> None:
    assert abs(float(got["loss"]) - problem.loss) < 1e-5 * problem.loss
    assert set(got) == {"loss", *(p.name for p in subset.parameters())}
    errors = {p.name: relative_error(got[p.name], problem.gradients[p.name]) for p in subset.parameters()}
    assert max(errors.values()) < TOLERANCE, errors


def test_all_layers(keras_problem: Problem, run: Runner) -> None:
    subset = Subset(find_layers(keras_problem.graph))
    ((got,),) = run([gradient_job(keras_problem, subset)])
    assert len(got) == 1 + 2 * LAYERS
    assert_right(got, keras_problem, subset)


def test_all_layers_with_explicit_padding(padded_problem: Problem, run: Runner) -> None:
    assert [op.kind for op in padded_problem.graph.ops].count("PAD") == 5
    subset = Subset(find_layers(padded_problem.graph))
    ((got,),) = run([gradient_job(padded_problem, subset)])
    assert_right(got, padded_problem, subset)


@pytest.fixture(scope="module")
def alone(keras_problem: Problem, run: Runner) -> list[tuple[Subset, dict[str, Array]]]:
    """What the gradient model of each single layer returns."""
    subsets = [Subset((layer,)) for layer in find_layers(keras_problem.graph)]
    results = run([gradient_job(keras_problem, subset) for subset in subsets])
    return [(subset, got) for subset, (got,) in zip(subsets, results, strict=True)]


@pytest.mark.parametrize("number", range(LAYERS))
def test_layer_alone(number: int, alone: list[tuple[Subset, dict[str, Array]]], keras_problem: Problem) -> None:
    subset, got = alone[number]
    assert_right(got, keras_problem, subset)


def test_oracle(keras_problem: Problem) -> None:
    """GradientTape against a central difference of the loss along the gradient of all parameters together."""
    graph, step = keras_problem.graph, 1e-6
    gradients = keras_problem.gradients
    length = np.sqrt(sum(np.sum(g**2) for g in gradients.values()))

    def loss(at: float) -> float:
        values = tensorflow_graph.variables(graph, Subset(find_layers(graph)), "float64")
        for p, value in values.items():
            value.assign_add(at / length * gradients[p.name])
        z = tensorflow_graph.logits(graph, tf.constant(keras_problem.x, tf.float64), values)
        return float(tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(keras_problem.y, z)))

    assert (loss(step) - loss(-step)) / (2 * step) == pytest.approx(length, rel=1e-6)
