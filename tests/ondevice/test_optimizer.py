"""The optimizer of the device takes the steps that the train files for apps take in their graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.optimizer import Trainee
from signatures.builder import GraphBuilder
from signatures.graph import Array, Model, Signature
from signatures.layers import find_layers
from signatures.optimizers import Optimizer, Trained, step
from signatures.subset import Subset
from tests.oracles.other_runtime import Call, Job, Runner
from tests.signatures.example_model import network

STEPS = 6
TOLERANCE = 1e-6
"""Relative, as a norm. Steps are a tenth of the weights and more, so that what a step changes is held to it as well."""
ADAM_RATE = 0.03
"""Part of the rates with which Adam is compared with its graph. There, 1 − β2 is what float32 leaves of 1 − 0.999: five
digits, and the first step is 7e-6 too long.
"""

SUBSET = Subset(find_layers(network()))
PARAMETERS = SUBSET.parameters()
UNCLIPPED = 1e9
Values = dict[str, Array]


@dataclass(frozen=True)
class Step:
    """What goes into one step."""

    gradients: Values
    rate: float


def drawn(seed: Sequence[int], scale: float = 1.0) -> Values:
    random = np.random.default_rng(seed)
    return {p.name: (scale * random.normal(size=p.shape)).astype(np.float32) for p in PARAMETERS}


def steps(scale: float) -> list[Step]:
    """Gradients of several lengths, with a learning rate of its own for each."""
    return [Step(drawn([k], scale * (1 + k % 3)), 0.1 * (1 + k % 4)) for k in range(STEPS)]


SCENARIOS = {
    "plain sgd": (Optimizer(momentum=0.0, clip_norm=UNCLIPPED), 1.0),
    "sgd with momentum": (Optimizer(clip_norm=UNCLIPPED), 1.0),
    "sgd with weight decay": (Optimizer(weight_decay=0.5, clip_norm=UNCLIPPED), 1.0),
    "sgd, every step clipped": (Optimizer(weight_decay=0.1, clip_norm=10.0), 50.0),
    "sgd, some steps clipped": (Optimizer(clip_norm=25.0), 1.0),
    "adam": (Optimizer("adam", clip_norm=UNCLIPPED), 1.0),
    "adam with weight decay": (Optimizer("adam", weight_decay=0.5, clip_norm=UNCLIPPED), 1.0),
    "adam, every step clipped": (Optimizer("adam", clip_norm=1.0), 50.0),
    "adam with other betas": (Optimizer("adam", 0.5, clip_norm=UNCLIPPED, beta2=0.9, epsilon=1e-3), 1.0),
}


def graph_of_a_step(optimizer: Optimizer) -> Model:
    """f(rate, weights, gradients, state, counters) → weights, state and counters after one step."""
    b = GraphBuilder("step")
    kinds = ("weight", "gradient", *optimizer.slots)
    inputs = {f"{p.name}/{kind}": b.input(f"{p.name}/{kind}", p.shape) for p in PARAMETERS for kind in kinds}
    counters = {name: b.input(name, ()) for name in optimizer.counters}
    rate = b.input("rate", ())
    trained = [
        Trained(
            inputs[f"{p.name}/weight"],
            inputs[f"{p.name}/gradient"],
            tuple(inputs[f"{p.name}/{slot}"] for slot in optimizer.slots),
            decays=not p.is_bias,
        )
        for p in PARAMETERS
    ]
    updates, powers = step(b, optimizer, trained, list(counters.values()), rate)
    outputs = {f"new {name}": power for name, power in zip(counters, powers, strict=True)}
    for p, update in zip(PARAMETERS, updates, strict=True):
        outputs[f"new {p.name}/weight"] = update.value
        for slot, state in zip(optimizer.slots, update.state, strict=True):
            outputs[f"new {p.name}/{slot}"] = state
    graph = b.graph(list(outputs.values()))
    return Model((graph,), (Signature("f", graph, {**inputs, **counters, "rate": rate}, outputs),))


def by_graph(run: Runner, optimizer: Optimizer, script: Sequence[Step]) -> list[Values]:
    """Weights and state after each step, state called <parameter>/<slot>."""
    model, history = graph_of_a_step(optimizer), []
    values = {f"{name}/weight": value for name, value in drawn([99]).items()}
    values |= {f"{p.name}/{slot}": np.zeros(p.shape, np.float32) for p in PARAMETERS for slot in optimizer.slots}
    values |= {name: np.array(1, np.float32) for name in optimizer.counters}
    for one in script:
        gradients = {f"{name}/gradient": value for name, value in one.gradients.items()}
        arguments = {**values, **gradients, "rate": np.array(one.rate, np.float32)}
        ((got,),) = run([Job(optimizer.id, model, (Call("f", arguments),))])
        values = {name.removeprefix("new "): value for name, value in got.items()}
        history.append(values)
    return history


def exactly(optimizer: Optimizer, script: Sequence[Step]) -> list[Values]:
    """Weights after each step in float64, as the papers have it (signatures/optimizers.py says which)."""
    weights = {name: value.astype(np.float64) for name, value in drawn([99]).items()}
    first, second, history = dict.fromkeys(weights, 0.0), dict.fromkeys(weights, 0.0), []
    for t, one in enumerate(script, 1):
        norm = np.sqrt(sum(np.square(g.astype(np.float64)).sum() for g in one.gradients.values()))
        for p in PARAMETERS:
            gradient = one.gradients[p.name].astype(np.float64) * min(1, optimizer.clip_norm / norm)
            if optimizer.kind == "sgd":
                direction = first[p.name] = optimizer.momentum * first[p.name] + gradient
            else:
                beta1, beta2 = optimizer.momentum, optimizer.beta2
                first[p.name] = beta1 * first[p.name] + (1 - beta1) * gradient
                second[p.name] = beta2 * second[p.name] + (1 - beta2) * gradient**2
                corrected = first[p.name] * np.sqrt(1 - beta2**t) / (1 - beta1**t)
                direction = corrected / (np.sqrt(second[p.name]) + optimizer.epsilon)
            decay = 0 if p.is_bias else one.rate * optimizer.weight_decay
            weights[p.name] = weights[p.name] * (1 - decay) - one.rate * direction
        history.append({f"{name}/weight": value for name, value in weights.items()})
    return history


def by_trainee(optimizer: Optimizer, script: Sequence[Step]) -> list[Values]:
    """The same of the class that is tested."""
    trainee, history = Trainee(optimizer, drawn([99]), SUBSET), []
    for one in script:
        trainee.add(one.gradients)
        trainee.step(one.rate)
        after = {f"{name}/weight": value.copy() for name, value in trainee.weights.items()}
        for slot, state in trainee.state.items():
            after |= {f"{name}/{slot}": value.copy() for name, value in state.items()}
        history.append({**after, **{name: np.array(power) for name, power in trainee.powers.items()}})
    return history


def difference(got: Array, expected: Array) -> float:
    assert got.shape == expected.shape
    return float(np.linalg.norm(got.astype(np.float64) - expected) / np.linalg.norm(expected.astype(np.float64)))


@pytest.mark.parametrize("name", SCENARIOS)
def test_steps_are_those_of_the_graph(run: Runner, name: str) -> None:
    """Weights and state, after each of six steps."""
    optimizer, scale = SCENARIOS[name]
    part = ADAM_RATE if optimizer.kind == "adam" else 1.0
    script = [replace(one, rate=one.rate * part) for one in steps(scale)]
    for k, (got, expected) in enumerate(
        zip(by_trainee(optimizer, script), by_graph(run, optimizer, script), strict=True)
    ):
        assert got.keys() == expected.keys()
        for key, value in got.items():
            assert difference(value, expected[key]) < TOLERANCE, f"{key} after step {k + 1}"


@pytest.mark.parametrize("name", SCENARIOS)
def test_steps_are_right(name: str) -> None:
    """Against float64."""
    optimizer, scale = SCENARIOS[name]
    script = steps(scale)
    for k, (got, expected) in enumerate(zip(by_trainee(optimizer, script), exactly(optimizer, script), strict=True)):
        for key, value in expected.items():
            assert difference(got[key], value) < TOLERANCE, f"{key} after step {k + 1}"


def test_the_scenarios_clip_as_they_say() -> None:
    """All steps, some, or none."""
    for name, (optimizer, scale) in SCENARIOS.items():
        norms = [np.sqrt(sum(np.square(g).sum() for g in one.gradients.values())) for one in steps(scale)]
        clipped = sum(norm > optimizer.clip_norm for norm in norms)
        expected = {"every": [STEPS], "some": range(1, STEPS)}
        assert clipped in next((counts for word, counts in expected.items() if word in name), [0]), name


@given(st.sampled_from(list(SCENARIOS)), st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 99))
def test_parts_add_up_to_the_gradient_of_a_step(name: str, parts: list[int], seed: int) -> None:
    """Steps of several micro-batches each, and steps of their sums."""
    optimizer, _ = SCENARIOS[name]
    whole, apart = (Trainee(optimizer, drawn([99]), SUBSET) for _ in range(2))
    for number, count in enumerate(parts):
        gradients = [drawn([seed, number, part]) for part in range(count)]
        for gradient in gradients:
            apart.add(gradient)
        whole.add({p.name: sum((g[p.name] for g in gradients), np.zeros(p.shape, np.float32)) for p in PARAMETERS})
        for trainee in (whole, apart):
            trainee.step(0.1)
            assert not any(total.any() for total in trainee.gradients.values())
    for key, value in whole.weights.items():
        np.testing.assert_array_equal(apart.weights[key], value)


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_it_starts_from_and_is_given_stays_as_it_is(name: str) -> None:
    """Weights may be views of a mapped file, which cannot be written, and gradients belong to the interpreter."""
    optimizer, _ = SCENARIOS[name]
    weights, gradients = drawn([99]), drawn([1])
    for array in (*weights.values(), *gradients.values()):
        array.flags.writeable = False
    trainee = Trainee(optimizer, weights, SUBSET)
    trainee.add(gradients)
    trainee.step(0.1)
    assert all(np.abs(trainee.weights[key] - value).max() > 1e-3 for key, value in weights.items())


@pytest.mark.parametrize("name", SCENARIOS)
def test_everything_stays_float32(name: str) -> None:
    """An array of float64 would double the memory, and the interpreter would refuse it."""
    optimizer, scale = SCENARIOS[name]
    trainee = Trainee(optimizer, drawn([99]), SUBSET)
    for one in steps(scale):
        trainee.add(one.gradients)
        trainee.step(one.rate)
    arrays: list[Mapping[str, Array]] = [trainee.weights, trainee.gradients, *trainee.state.values()]
    assert {value.dtype for values in arrays for value in values.values()} == {np.dtype(np.float32)}


def test_weights_decay_and_biases_do_not() -> None:
    """Without gradients nothing else moves them."""
    trainee = Trainee(Optimizer(weight_decay=0.5), drawn([99]), SUBSET)
    trainee.step(0.2)
    for p in PARAMETERS:
        factor = 1.0 if p.is_bias else 0.9
        np.testing.assert_allclose(trainee.weights[p.name], factor * drawn([99])[p.name], rtol=1e-6)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_no_gradient_is_no_step(kind: str) -> None:
    """And no division by the norm, which is zero."""
    trainee = Trainee(replace(Optimizer(kind), weight_decay=0.0), drawn([99]), SUBSET)
    trainee.step(0.1)
    for key, value in drawn([99]).items():
        np.testing.assert_array_equal(trainee.weights[key], value)
