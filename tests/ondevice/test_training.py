"""Training: the schedule's shape, what is fed to the file for micro-batches, and how divergence is told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stnp

from ondevice.dataset import shuffled_batches
from ondevice.optimizer import Trainee
from ondevice.packed import read_packed
from ondevice.replay import Pixels
from ondevice.runtime import LoadedModel
from ondevice.training import (
    WARM_UP,
    Schedule,
    TrainingSet,
    check_trains,
    cross_entropy,
    train_epoch,
)
from signatures.cut import cut_before
from signatures.errors import DivergedError, InputError
from signatures.graph import Array
from signatures.layers import find_layers
from signatures.micro_batches import suffix_model
from signatures.optimizers import Optimizer
from signatures.passes import named_layers
from signatures.subset import Subset, subset_of, values_of
from signatures.tflite_io import write_model
from tests.end_to_end import tiny

PICKED = ("b_project", "head")


@given(st.floats(1e-6, 10), st.integers(1, 3000))
def test_the_rate_warms_up_and_decays_within_its_bounds(rate: float, steps: int) -> None:
    rates = [Schedule(rate, steps).at(step) for step in range(steps)]
    warm = max(1, round(WARM_UP * steps))
    assert all(0 < value <= rate * (1 + 1e-12) for value in rates)
    assert rates[warm - 1] == pytest.approx(rate)
    assert rates[:warm] == sorted(rates[:warm])
    assert rates[warm:] == sorted(rates[warm:], reverse=True)


def test_the_warm_up_is_linear_and_the_decay_a_half_cosine() -> None:
    schedule = Schedule(2.0, 110)
    warm, decay = 11, 99
    np.testing.assert_allclose([schedule.at(s) for s in range(warm)], 2.0 * np.arange(1, warm + 1) / warm)
    expected = [1 + math.cos(math.pi * t / decay) for t in range(decay)]
    np.testing.assert_allclose([schedule.at(warm + t) for t in range(decay)], expected)
    assert schedule.at(109) < 0.001


def test_a_single_step_runs_at_the_full_rate() -> None:
    assert Schedule(0.5, 1).at(0) == 0.5


# An epoch, with everything around it replaced -------------------------------------------------------------------------

IMAGES, BATCH, CLASSES, SEED = 17, 4, 3, 7
STEPS = IMAGES // BATCH
LABELS = (np.arange(IMAGES) % CLASSES).astype(np.int32)


class Rows:
    """In place of features: hands out what it is asked for."""

    def take(self, rows: Array, flipped: Array) -> Mapping[str, Array]:
        return {"x0": rows.astype(np.float32), "x1": flipped.astype(np.float32)}


class Spy:
    """In place of a model: notes its inputs; the logits of image i are row i of a table, gradients are 1, 2, 3 …"""

    def __init__(self, logits: Array) -> None:
        self.logits = logits
        self.inputs: list[dict[str, Array]] = []

    def call(self, name: str, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        assert name == "gradients"
        self.inputs.append({key: value.copy() for key, value in inputs.items()})
        gradient = np.full(2, len(self.inputs), np.float32)
        return {"logits": self.logits[inputs["x0"].astype(int)], "head/weight": gradient}


class Notebook:
    """In place of weights that train: notes what is added and the rates, and changes the weights in each step."""

    def __init__(self) -> None:
        self.weights = {"head/weight": np.zeros(2, np.float32)}
        self.added: list[list[float]] = [[]]
        self.rates: list[float] = []

    def add(self, gradients: Mapping[str, Array]) -> None:
        self.added[-1].append(float(gradients["head/weight"][0]))

    def step(self, rate: float) -> None:
        self.rates.append(rate)
        self.added.append([])
        self.weights["head/weight"] += 1


def training_set(micro_batch: int, mirror: bool = False) -> TrainingSet:
    return TrainingSet(Rows(), LABELS, CLASSES, BATCH, micro_batch, mirror, SEED)


def table(seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(IMAGES, CLASSES)).astype(np.float32)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_an_epoch_feeds_its_batches_part_by_part(micro_batch: int, mirror: bool) -> None:
    """The rows of an epoch in their order, labels as rows of zeros and a one, and the weights of the moment."""
    spy, notebook = Spy(table()), Notebook()
    train_epoch(spy, notebook, training_set(micro_batch, mirror), 1, Schedule(0.1, 8), lambda step, loss: None)
    batches = list(shuffled_batches(IMAGES, BATCH, 1, SEED))
    assert len(batches) == STEPS == training_set(micro_batch).steps
    rows = np.concatenate([rows for rows, _ in batches])
    assert {len(one["x0"]) for one in spy.inputs} == {micro_batch}
    np.testing.assert_array_equal(np.concatenate([one["x0"] for one in spy.inputs]), rows)
    flipped = np.concatenate([flipped for _, flipped in batches])
    assert flipped.any()
    np.testing.assert_array_equal(np.concatenate([one["x1"] for one in spy.inputs]), flipped & mirror)
    truth = np.concatenate([one["truth"] for one in spy.inputs])
    assert truth.dtype == np.float32
    np.testing.assert_array_equal(truth, np.eye(CLASSES)[LABELS[rows]])
    parts = BATCH // micro_batch
    assert [one["head/weight"][0] for one in spy.inputs] == [k // parts for k in range(STEPS * parts)]


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_a_step_has_the_gradients_of_all_its_parts_and_its_own_rate(micro_batch: int) -> None:
    notebook, parts = Notebook(), BATCH // micro_batch
    train_epoch(Spy(table()), notebook, training_set(micro_batch), 1, Schedule(0.1, 8), lambda step, loss: None)
    assert notebook.added == [[1.0 + parts * k + i for i in range(parts)] for k in range(STEPS)] + [[]]
    assert notebook.rates == [Schedule(0.1, 8).at(STEPS + k) for k in range(STEPS)]


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_the_loss_is_the_mean_over_the_batch_and_is_told(micro_batch: int) -> None:
    told: list[tuple[int, float]] = []
    losses = train_epoch(
        Spy(table()), Notebook(), training_set(micro_batch), 1, Schedule(0.1, 8), lambda *each: told.append(each)
    )
    expected = [
        cross_entropy(table()[rows], LABELS[rows]).mean() for rows, _ in shuffled_batches(IMAGES, BATCH, 1, SEED)
    ]
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    assert told == [(STEPS + k, loss) for k, loss in enumerate(losses)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_the_epoch(value: float) -> None:
    """Before the step that it would make."""
    logits = table()
    (_, _), (second, _) = list(shuffled_batches(IMAGES, BATCH, 0, SEED))[:2]
    logits[second[-1]] = value
    notebook = Notebook()
    with pytest.raises(DivergedError, match=r"at step 2: .*Try --lr 0\.01"):
        train_epoch(Spy(logits), notebook, training_set(2), 0, Schedule(0.1, 8), lambda step, loss: None)
    assert len(notebook.rates) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_stop_the_epoch(value: float) -> None:
    """Nobody is told of the step that made them: what was kept before stays the last good state."""

    class Overflowing(Notebook):
        def step(self, rate: float) -> None:
            super().step(rate)
            if len(self.rates) == 2:
                self.weights["head/weight"][1] = value

    told: list[int] = []
    with pytest.raises(DivergedError, match=r"head/weight is not finite after step 2: .* Try --lr 0\.01"):
        train_epoch(
            Spy(table()), Overflowing(), training_set(2), 0, Schedule(0.1, 8), lambda step, loss: told.append(step)
        )
    assert told == [0]


def test_an_epoch_goes_on_where_it_was_left() -> None:
    whole, rest = Notebook(), Notebook()
    losses = train_epoch(Spy(table()), whole, training_set(2), 1, Schedule(0.1, 8), lambda step, loss: None)
    told: list[int] = []
    again = train_epoch(
        Spy(table()), rest, training_set(2), 1, Schedule(0.1, 8), lambda step, loss: told.append(step), done=1
    )
    assert again == losses[1:]
    assert rest.rates == whole.rates[1:]
    assert told == [STEPS + k for k in range(1, STEPS)]


# The loss -------------------------------------------------------------------------------------------------------------


@given(
    stnp.arrays(np.float32, (5, 4), elements=st.floats(-80, 80, width=32)),
    stnp.arrays(np.int32, 5, elements=st.integers(0, 3)),
)
def test_the_loss_of_each_row_is_its_cross_entropy(logits: Array, labels: Array) -> None:
    wide = logits.astype(np.longdouble)
    expected = np.log(np.exp(wide).sum(axis=1)) - wide[np.arange(5), labels]
    found = cross_entropy(logits, labels)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected.astype(np.float64), rtol=1e-9, atol=1e-12)


def test_rows_do_not_touch_each_other() -> None:
    """One that overflows float32's exponential, one that has no loss, one that is what it would be alone."""
    logits = np.array([[3e38, 0.0], [math.nan, 1.0], [0.5, 0.25]], np.float32)
    found = cross_entropy(logits, np.array([0, 0, 1], np.int32))
    assert found[0] == 0.0
    assert math.isnan(found[1])
    assert found[2] == pytest.approx(math.log1p(math.exp(0.25)), rel=1e-12)


# With a file ----------------------------------------------------------------------------------------------------------


NETWORK = tiny.network(len(tiny.CLASSES))
NETWORK = named_layers(NETWORK, [layer.op for layer in find_layers(NETWORK)], tiny.LAYERS)
SUBSET = subset_of(find_layers(NETWORK), PICKED)


def train_file(path: Path, micro_batch: int) -> Path:
    """Of the whole network: images go in as they are."""
    cut = cut_before(NETWORK, PICKED)
    assert cut.at_input, "the tiny network's maps are cheaper than its images"
    write_model(suffix_model(cut.suffix, SUBSET, micro_batch, tiny.BATCH), path)
    return path


def test_a_train_file_is_checked_against_the_subset_it_is_to_train(tmp_path: Path) -> None:
    path = train_file(tmp_path / "train.tflite", 2)
    model, layers = LoadedModel(path, 1), find_layers(NETWORK)
    check_trains(model, path, SUBSET)
    with pytest.raises(InputError, match=r"train\.tflite trains .*b_project/weight.*, not stem/weight.*: delete it"):
        check_trains(model, path, subset_of(layers, ["stem", *PICKED]))
    with pytest.raises(InputError, match="trains"):
        check_trains(model, path, subset_of(layers, ["head"]))
    wider = tuple(replace(layer, weight_shape=(9, *layer.weight_shape[1:])) for layer in SUBSET.layers)
    with pytest.raises(InputError, match="trains"):
        check_trains(model, path, Subset(wider))


@pytest.mark.parametrize("micro_batch", [2, tiny.BATCH])
def test_training_lowers_the_loss_and_moves_the_picked_layers(tmp_path: Path, micro_batch: int) -> None:
    split = read_packed(tiny.write_pictures(tmp_path / "pictures")).train
    model = LoadedModel(train_file(tmp_path / "train.tflite", micro_batch), 1)
    before = values_of(NETWORK, SUBSET)
    trainee = Trainee(Optimizer(), before, SUBSET)
    features = Pixels(split, tiny.PREPROCESSING)
    data = TrainingSet(features, split.labels, len(tiny.CLASSES), tiny.BATCH, micro_batch, mirror=True, seed=0)
    schedule = Schedule(0.02, 6 * data.steps)
    means = [np.mean(train_epoch(model, trainee, data, n, schedule, lambda step, loss: None)) for n in range(6)]
    assert means[-1] < 0.7 * means[0]
    assert trainee.weights.keys() == {f"{layer}/{part}" for layer in PICKED for part in ("weight", "bias")}
    assert all(np.abs(value - before[name]).max() > 1e-4 for name, value in trainee.weights.items())
