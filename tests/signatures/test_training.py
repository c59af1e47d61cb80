"""Train files: ten steps, and what comes after them, against the same optimizer on the oracle's gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow as tf

from signatures.build import train_model
from signatures.graph import Array, Graph
from signatures.layers import Layer, find_layers
from signatures.optimizers import Optimizer
from signatures.subset import Subset
from tests.oracles import tensorflow_graph
from tests.oracles.gradient_check import relative_error
from tests.oracles.keras_mobilenet import CLASSES
from tests.oracles.kinks import away_from_kinks
from tests.oracles.other_runtime import Call, Job, Runner
from tests.oracles.training import Batch, batches, trainer
from tests.oracles.variants import smooth

BATCH, STEPS = 3, 10
UNCLIPPED = 1e9
SGD = Optimizer("sgd", 0.9, weight_decay=0.5)
ADAM = Optimizer("adam", 0.9, weight_decay=0.5)
"""Weight decay is a hundred times what one would use, so that a mistake in it shows in ten steps."""


@dataclass(frozen=True)
class Scenario:
    """What trains, and how."""

    name: str
    optimizer: Optimizer
    rate: float

    def subset(self, network: Graph) -> Subset:
        layers = find_layers(network)
        return Subset(chosen(self.name, layers))

    @property
    def id(self) -> str:
        return f"{self.name}-{self.optimizer.id}"

    @property
    def batches(self) -> list[Batch]:
        """Eleven of them, with a rate of its own for each: it is an input of the signature."""
        rates = [self.rate * (1 + k % 3) / 3 for k in range(STEPS + 1)]
        return batches(48, STEPS + 1, BATCH, CLASSES, rates)


def chosen(name: str, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    projections = [x for x in layers if x.kind == "conv" and x.weight_shape[0] < x.weight_shape[3]]
    depthwise = [x for x in layers if x.kind == "depthwise"]
    picked = {
        "head": (),
        "projections": projections[7:12],  # what b1 picks at ρ = 0.1
        "depthwise": depthwise[6:7],
        "first": layers[:1],
        "all": layers[:-1],
    }[name]
    return (*picked, layers[-1])


SCENARIOS = (
    *(Scenario(name, SGD, 0.03) for name in ("head", "projections", "depthwise", "first", "all")),
    *(Scenario(name, ADAM, 0.001) for name in ("projections", "all")),
    Scenario("projections", Optimizer("sgd", momentum=0.0, clip_norm=UNCLIPPED), 1e-4),
    Scenario("depthwise", Optimizer("adam", clip_norm=UNCLIPPED), 0.001),
)

Values = dict[str, dict[str, Array]]
"""Results of a scenario's calls, by the call's label."""


@pytest.fixture(scope="module")
def network(small: Graph) -> Graph:
    return smooth(small, SCENARIOS[0].batches[0].x)


@pytest.fixture(scope="module")
def initial(network: Graph) -> dict[str, Array]:
    """Weights of the network by parameter name."""
    parameters = Subset(find_layers(network)).parameters()
    return {p.name: network.ops[p.slot[0]].input(p.slot[1]).data for p in parameters}


def other_weights(scenario: Scenario, network: Graph) -> dict[str, Array]:
    """What set_weights gets: the network's weights, each a little longer."""
    parameters = scenario.subset(network).parameters()
    return {p.name: network.ops[p.slot[0]].input(p.slot[1]).data * np.float32(1.01) for p in parameters}


def calls(scenario: Scenario, network: Graph) -> dict[str, Call]:
    """Ten steps, infer, set_weights, an eleventh step; weights are asked for in between."""

    def train(batch: Batch) -> Call:
        return Call("train", {"x": batch.x, "y": batch.y, "learning_rate": np.array(batch.rate, np.float32)})

    get = Call("get_weights", {})
    steps = scenario.batches
    script = {"start": get}
    for k, batch in enumerate(steps[:STEPS]):
        script[f"step {k}"] = train(batch)
        if k in (0, STEPS - 1):
            script[f"after step {k}"] = get
    script["infer"] = Call("infer", {"x": steps[0].x})
    script["set"] = Call("set_weights", other_weights(scenario, network))
    script["after set"] = get
    script[f"step {STEPS}"] = train(steps[STEPS])
    script[f"after step {STEPS}"] = get
    return script


@pytest.fixture(scope="module")
def expected(network: Graph) -> dict[Scenario, Values]:
    """The same by the oracle, for the labels that have one."""
    return {scenario: oracle(scenario, network) for scenario in SCENARIOS}


def oracle(scenario: Scenario, network: Graph) -> Values:
    reference = trainer(network, scenario.subset(network), scenario.optimizer)
    values: Values = {}
    for k, batch in enumerate(scenario.batches):
        if k == STEPS:
            x = tf.constant(scenario.batches[0].x, tf.float64)
            values["infer"] = {"logits": tensorflow_graph.logits(network, x, reference.weights).numpy()}
            reference.set_values(other_weights(scenario, network))
        values[f"step {k}"] = {"loss": np.array(reference.step(batch))}
        if k in (0, STEPS - 1, STEPS):
            values[f"after step {k}"] = reference.values()
    return values


@pytest.fixture(scope="module")
def trained(network: Graph, run: Runner) -> dict[Scenario, Values]:
    """What a runtime returns for the calls of every scenario."""
    scripts = {scenario: calls(scenario, network) for scenario in SCENARIOS}
    jobs = [
        Job(scenario.id, train_model(network, scenario.subset(network), BATCH, scenario.optimizer), (*script.values(),))
        for scenario, script in scripts.items()
    ]
    results = run(jobs)
    return {s: dict(zip(scripts[s], result, strict=True)) for s, result in zip(SCENARIOS, results, strict=True)}


@pytest.fixture(params=SCENARIOS, ids=lambda scenario: scenario.id)
def scenario(request: pytest.FixtureRequest) -> Scenario:
    result: Scenario = request.param
    return result


def test_variables_start_with_the_weights_of_the_network(
    scenario: Scenario, trained: dict[Scenario, Values], initial: dict[str, Array]
) -> None:
    for name, value in trained[scenario]["start"].items():
        np.testing.assert_array_equal(value, initial[name])


def test_losses(scenario: Scenario, trained: dict[Scenario, Values], expected: dict[Scenario, Values]) -> None:
    for k in range(STEPS + 1):
        loss, right = trained[scenario][f"step {k}"]["loss"], expected[scenario][f"step {k}"]["loss"]
        assert loss == pytest.approx(right, rel=1e-3), f"step {k}"


@pytest.mark.parametrize("step", [0, STEPS - 1])
def test_weights(
    scenario: Scenario,
    step: int,
    trained: dict[Scenario, Values],
    expected: dict[Scenario, Values],
    initial: dict[str, Array],
) -> None:
    assert_updated(trained[scenario][f"after step {step}"], expected[scenario][f"after step {step}"], initial)


def assert_updated(got: dict[str, Array], right: dict[str, Array], before: dict[str, Array]) -> None:
    """New weights are right to 0.1 %, and how they differ from those `before` to 1 %.

    A change is a thousandth of a weight in some layers, and the weight has seven digits.
    """
    assert set(got) == set(right)
    for name, value in got.items():
        assert relative_error(value, right[name]) < 1e-3, name
        assert relative_error(value - before[name], right[name] - before[name]) < 1e-2, name


def test_infer_uses_the_trained_weights(
    scenario: Scenario, trained: dict[Scenario, Values], expected: dict[Scenario, Values]
) -> None:
    assert relative_error(trained[scenario]["infer"]["logits"], expected[scenario]["infer"]["logits"]) < 1e-3


def test_set_weights_is_exact(scenario: Scenario, trained: dict[Scenario, Values], network: Graph) -> None:
    assert trained[scenario]["set"] == {}
    given = other_weights(scenario, network)
    for name, value in trained[scenario]["after set"].items():
        np.testing.assert_array_equal(value, given[name])


def test_training_continues_after_set_weights(
    scenario: Scenario, trained: dict[Scenario, Values], expected: dict[Scenario, Values], network: Graph
) -> None:
    """From the new weights, with the optimizer's old state."""
    after = f"after step {STEPS}"
    assert_updated(trained[scenario][after], expected[scenario][after], other_weights(scenario, network))


def test_first_step_of_the_network_with_its_activations(small: Graph, run: Runner) -> None:
    """All layers of MobileNetV2 as it is; later steps would cross kinks of ReLU6 and part from any oracle."""
    batch = batches(48, 1, BATCH, CLASSES, [0.5])[0]
    network = away_from_kinks(small, batch.x)
    subset = Subset(find_layers(network))
    optimizer = Optimizer("sgd", 0.9, weight_decay=0.1, clip_norm=20.0)
    reference = trainer(network, subset, optimizer)
    before = reference.values()
    loss = reference.step(batch)
    arguments = {"x": batch.x, "y": batch.y, "learning_rate": np.array(batch.rate, np.float32)}
    script = (Call("train", arguments), Call("get_weights", {}))
    ((step, weights),) = run([Job("all", train_model(network, subset, BATCH, optimizer), script)])
    assert step["loss"] == pytest.approx(loss, rel=1e-5)
    after = reference.values()
    for name, value in weights.items():
        assert relative_error(value - before[name], after[name] - before[name]) < 1e-3, name
