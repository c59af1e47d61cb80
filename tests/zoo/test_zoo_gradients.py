"""Every network of the zoo against TensorFlow: gradients of all layers, of each alone, and training of random subsets.

What `make test` runs is one size of the four networks that are quick; `make test-zoo` runs all of it.
"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from converter.zoo import MODULES
from signatures.build import gradient_model, train_model
from signatures.graph import Array
from signatures.optimizers import Optimizer
from signatures.subset import Subset
from tests.oracles import tensorflow_graph
from tests.oracles.gradient_check import relative_error
from tests.oracles.other_runtime import Call, Job, Runner
from tests.zoo.problem import BATCH, Problem, loss_and_gradients, problem

SIDES = (64, 96)
QUICK = ("mobilenetv3_small", "mobilenetv2", "efficientnet_lite0")
TOLERANCE = 1e-4
SUBSETS, STEPS, RATE = 20, 5, 0.01
TRAINING_TOLERANCE = 1e-3

CASES = [
    pytest.param(name, side, marks=() if name in QUICK and side == SIDES[0] else pytest.mark.slow, id=f"{name}-{side}")
    for name in MODULES
    for side in SIDES
]
ALL_CASES = [
    pytest.param(name, side, marks=pytest.mark.slow, id=f"{name}-{side}") for name in MODULES for side in SIDES
]


@pytest.fixture(scope="session")
def problems() -> dict[tuple[str, int], Problem]:
    """The one problem in use; the networks are large."""
    return {}


def problem_of(problems: dict[tuple[str, int], Problem], name: str, side: int) -> Problem:
    if (name, side) not in problems:
        problems.clear()
        problems[name, side] = problem(name, side)
    return problems[name, side]


def gradients(run: Runner, given: Problem, subset: Subset) -> dict[str, Array]:
    call = Call("gradients", {"x": given.x, "y": given.y, **given.values(subset)})
    ((got,),) = run([Job(f"{given.name} {subset.id}", gradient_model(given.graph, subset, BATCH), (call,))])
    return got


def worst_error(got: dict[str, Array], given: Problem, subset: Subset) -> tuple[float, str]:
    loss, expected = given.expected
    assert set(got) == {"loss", *(p.name for p in subset.parameters())}
    assert abs(float(got["loss"]) - loss) < 1e-5 * loss
    return max((relative_error(got[p.name], expected[p.name]), p.name) for p in subset.parameters())


@pytest.mark.parametrize(("name", "side"), CASES)
def test_all_layers(name: str, side: int, run: Runner, problems: dict[tuple[str, int], Problem]) -> None:
    given = problem_of(problems, name, side)
    subset = Subset(given.layers)
    error, where = worst_error(gradients(run, given, subset), given, subset)
    print(f"{given.name} all {len(given.layers)} layers: worst {error:.1e} ({where})")
    assert error < TOLERANCE, where


@pytest.mark.parametrize(("name", "side"), ALL_CASES)
def test_each_layer_alone(name: str, side: int, run: Runner, problems: dict[tuple[str, int], Problem]) -> None:
    given = problem_of(problems, name, side)
    errors = []
    for layer in given.layers:
        subset = Subset((layer,))
        errors.append(worst_error(gradients(run, given, subset), given, subset))
    error, where = max(errors)
    print(f"{given.name} each layer alone: worst {error:.1e} ({where})")
    assert error < TOLERANCE, where


@pytest.mark.parametrize(("name", "side"), ALL_CASES)
def test_random_subsets_train(name: str, side: int, run: Runner, problems: dict[tuple[str, int], Problem]) -> None:
    """Five steps of SGD with clipped gradients: losses, and how far every parameter moved where to."""
    given = problem_of(problems, name, side)
    random = np.random.default_rng(11)
    worst = (0.0, "")
    for _ in range(SUBSETS):
        count = random.integers(1, max(2, len(given.layers) // 4))
        chosen = sorted(random.choice(len(given.layers), count, replace=False))
        worst = max(worst, training_error(run, given, Subset(tuple(given.layers[i] for i in chosen))))
    print(f"{given.name} {SUBSETS} subsets, {STEPS} steps: worst {worst[0]:.1e} ({worst[1]})")
    assert worst[0] < TRAINING_TOLERANCE, worst[1]


def training_error(run: Runner, given: Problem, subset: Subset) -> tuple[float, str]:
    optimizer = Optimizer()
    step = Call("train", {"x": given.x, "y": given.y, "learning_rate": np.array(RATE, np.float32)})
    job = Job(subset.id, train_model(given.graph, subset, BATCH, optimizer), (*[step] * STEPS, Call("get_weights", {})))
    ((*steps, weights),) = run([job])
    losses, expected = train_by_tensorflow(given, subset, optimizer)
    np.testing.assert_allclose([float(got["loss"]) for got in steps], losses, rtol=TRAINING_TOLERANCE)
    start = given.values(subset)
    return max(
        (relative_error(weights[name].astype(np.float64) - start[name], value - start[name]), f"{name} of {subset.id}")
        for name, value in expected.items()
    )


def train_by_tensorflow(given: Problem, subset: Subset, o: Optimizer) -> tuple[list[float], dict[str, Array]]:
    """In float64, the optimizer written out."""
    weights = tensorflow_graph.variables(given.graph, subset, "float64")
    momentum = {p: tf.zeros(p.shape, tf.float64) for p in weights}
    losses = []
    for _ in range(STEPS):
        loss, found = loss_and_gradients(given.graph, given.x, given.y, weights)
        shrink = min(1.0, o.clip_norm / np.sqrt(sum(float(np.sum(g**2)) for g in found.values())))
        for p, weight in weights.items():
            momentum[p] = o.momentum * momentum[p] + shrink * found[p.name]
            weight.assign_sub(float(np.float32(RATE)) * momentum[p])
        losses.append(loss)
    return losses, {p.name: weight.numpy() for p, weight in weights.items()}
