"""Every network of the zoo against TensorFlow: gradients of all layers, of each alone, and training of random subsets.

What `make test` runs is one size of the three networks that are quick; `make test-zoo` runs all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

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
from tests.oracles.kinks import within_rounding
from tests.oracles.other_runtime import Call, Job, Runner
from tests.zoo.problem import BATCH, Problem, loss_and_gradients, problem

SIDES = (64, 96)
QUICK = ("mobilenetv3_small", "mobilenetv2", "efficientnet_lite0")
TOLERANCE = 1e-4
SUBSETS, STEPS, RATE = 20, 5, 0.001
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
    assert abs(float(got["loss"]) - loss) < TOLERANCE * loss
    # Of a softmax over keys, a bias of all keys changes nothing: its gradient is 0 but for rounding.
    whole = np.sqrt(sum(np.sum(expected[p.name] ** 2) for p in subset.parameters()))
    felt = [p for p in subset.parameters() if np.linalg.norm(expected[p.name]) > 1e-7 * whole]
    return max((relative_error(got[p.name], expected[p.name]), p.name) for p in felt)


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
    """Steps of SGD with clipped gradients, against TensorFlow in float64: losses, and where parameters moved.

    They end after five, or before a value comes within float32 rounding of a kink: the side it falls on may move a
    gradient by a hundredth. A bias of 3 that moves by 1e-5 loses a hundredth of that to its own float32 digits, whoever
    computes it: ours may be as far off as TensorFlow is in float32, and TRAINING_TOLERANCE.
    """
    given = problem_of(problems, name, side)
    random = np.random.default_rng(11)
    found, steps = [], []
    for _ in range(SUBSETS):
        count = random.integers(1, max(2, len(given.layers) // 4))
        chosen = sorted(random.choice(len(given.layers), count, replace=False))
        subset = Subset(tuple(given.layers[i] for i in chosen))
        exact = train_by_tensorflow(given, subset, "float64")
        steps.append(len(exact.losses))
        ours = train(run, given, subset, steps[-1]).away_from(exact, given.values(subset))
        theirs = train_by_tensorflow(given, subset, "float32", steps[-1]).away_from(exact, given.values(subset))
        found.append((ours, theirs))
    print(f"{given.name} {SUBSETS} subsets, steps: {steps}")
    for i, what in enumerate(("losses", "moves")):
        ours, theirs = (np.concatenate([errors[who][i] for errors in found]) for who in (0, 1))
        beyond = (ours - 2 * theirs).max()
        print(f"{what}: worst {ours.max():.1e}, TensorFlow float32 {theirs.max():.1e}; beyond twice that {beyond:.1e}")
        assert (ours < 2 * theirs + TRAINING_TOLERANCE).all(), (what, ours, theirs)


@dataclass(frozen=True)
class Trained:
    """What some steps made of a network."""

    losses: list[float]
    weights: dict[str, Array]

    def away_from(self, exact: Trained, start: dict[str, Array]) -> tuple[list[float], list[float]]:
        """Relative errors of all losses, and of all moves."""
        losses = [abs(ours / theirs - 1) for ours, theirs in zip(self.losses, exact.losses, strict=True)]
        moves = [
            relative_error(self.weights[name].astype(np.float64) - start[name], value - start[name])
            for name, value in exact.weights.items()
        ]
        return losses, moves


def train(run: Runner, given: Problem, subset: Subset, steps: int) -> Trained:
    step = Call("train", {"x": given.x, "y": given.y, "learning_rate": np.array(RATE, np.float32)})
    model = train_model(given.graph, subset, BATCH, Optimizer())
    ((*made, weights),) = run([Job(subset.id, model, (*[step] * steps, Call("get_weights", {})))])
    return Trained([float(got["loss"]) for got in made], weights)


def train_by_tensorflow(given: Problem, subset: Subset, dtype: str, steps: int | None = None) -> Trained:
    """The optimizer written out; without `steps` as many, up to STEPS, as float32 can follow."""
    o, rate = Optimizer(), float(np.float32(RATE))
    weights = tensorflow_graph.variables(given.graph, subset, dtype)
    momentum = {p: tf.zeros(p.shape, dtype) for p in weights}
    losses: list[float] = []
    while len(losses) < (steps or STEPS):
        if steps is None and losses and within_rounding(given.graph, given.x, weights):
            break
        loss, found = loss_and_gradients(given.graph, given.x, given.y, weights)
        shrink = min(1.0, o.clip_norm / np.sqrt(sum(float(np.sum(g**2)) for g in found.values())))
        for p, weight in weights.items():
            momentum[p] = o.momentum * momentum[p] + tf.cast(shrink * found[p.name], dtype)
            weight.assign_sub(rate * momentum[p])
        losses.append(loss)
    return Trained(losses, {p.name: weight.numpy().astype(np.float64) for p, weight in weights.items()})
