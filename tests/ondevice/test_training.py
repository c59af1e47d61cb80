"""Training: the schedule's shape, what is fed to the train signature, and how divergence is told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.dataset import to_input, training_batches
from ondevice.packed import Split, read_packed
from ondevice.runtime import LoadedModel
from ondevice.training import WARM_UP, Schedule, check_trains, train_epoch, trained_weights
from signatures.build import train_model
from signatures.catalogue import read_bundle
from signatures.errors import DivergedError, InputError
from signatures.graph import Array
from signatures.optimizers import Optimizer
from signatures.subset import subset_of
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


class Spy:
    """In place of a model: notes its inputs, answers with prepared losses."""

    def __init__(self, losses: list[float], weights: Mapping[str, Array] | None = None) -> None:
        self.losses = losses
        self.weights = weights or {}
        self.inputs: list[Mapping[str, Array]] = []

    def call(self, name: str, inputs: Mapping[str, Array] | None = None) -> Mapping[str, Array]:
        if name == "get_weights":
            return self.weights
        assert name == "train"
        self.inputs.append(inputs or {})
        return {"loss": np.array(self.losses[len(self.inputs) - 1], np.float32)}


def split(count: int) -> Split:
    images = np.arange(count * 12, dtype=np.uint8).reshape(count, 2, 2, 3)
    return Split(images, (np.arange(count) % 3).astype(np.int32))


def epoch(spy: Spy, data: Split, number: int = 0, steps: int = 8) -> tuple[list[float], list[tuple[int, float]]]:
    told: list[tuple[int, float]] = []
    losses = train_epoch(
        spy, data, tiny.PREPROCESSING, 4, number, Schedule(0.1, steps), 7, lambda step, loss: told.append((step, loss))
    )
    return losses, told


def test_an_epoch_feeds_its_batches_with_the_rate_of_each_step() -> None:
    spy, data = Spy([3, 2, 1, 0]), split(17)
    losses, told = epoch(spy, data, number=1)
    assert losses == [3, 2, 1, 0]
    assert told == [(4, 3), (5, 2), (6, 1), (7, 0)]
    for i, (images, labels) in enumerate(training_batches(data, 4, 1, 7)):
        np.testing.assert_array_equal(spy.inputs[i]["x"], to_input(images, tiny.PREPROCESSING))
        np.testing.assert_array_equal(spy.inputs[i]["y"], labels)
        rate = spy.inputs[i]["learning_rate"]
        assert (rate.dtype, rate.shape) == (np.float32, ())
        assert rate == np.float32(Schedule(0.1, 8).at(4 + i))
    assert len(spy.inputs) == 4


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_the_epoch(loss: float) -> None:
    spy = Spy([1, loss, 1, 1])
    with pytest.raises(DivergedError, match=r"at step 2 .*try a smaller --lr"):
        epoch(spy, split(16))
    assert len(spy.inputs) == 2


def test_weights_that_are_not_finite_are_no_result() -> None:
    good = {"a/weight": np.zeros(3, np.float32)}
    assert trained_weights(Spy([], good)) == good
    with pytest.raises(DivergedError, match="b/weight"):
        trained_weights(Spy([], {**good, "b/weight": np.array([1, math.inf], np.float32)}))


@pytest.fixture(scope="module")
def train_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = read_bundle(tiny.write_bundle(tmp_path_factory.mktemp("training") / "bundle", own_head=True))
    path = tmp_path_factory.mktemp("training") / "train.tflite"
    write_model(train_model(bundle.network, subset_of(bundle.layers, PICKED), tiny.BATCH, Optimizer()), path)
    return path


def test_a_train_file_is_checked_against_the_subset_it_is_to_train(train_file: Path, tmp_path: Path) -> None:
    bundle = read_bundle(tiny.write_bundle(tmp_path / "bundle", own_head=True))
    model = LoadedModel(train_file, 1)
    check_trains(model, train_file, subset_of(bundle.layers, PICKED))
    with pytest.raises(InputError, match=r"train\.tflite trains .*b_project/weight.*, not stem/weight"):
        check_trains(model, train_file, subset_of(bundle.layers, ["stem", *PICKED]))
    with pytest.raises(InputError, match="trains"):
        check_trains(model, train_file, subset_of(bundle.layers, ["head"]))


def test_training_lowers_the_loss_and_moves_the_picked_layers(train_file: Path, tmp_path: Path) -> None:
    data = read_packed(tiny.write_pictures(tmp_path / "pictures")).train
    model = LoadedModel(train_file, 1)
    before = trained_weights(model)
    steps = 6 * (len(data) // tiny.BATCH)
    means = [
        np.mean(
            train_epoch(
                model, data, tiny.PREPROCESSING, tiny.BATCH, number, Schedule(0.02, steps), 0, lambda step, loss: None
            )
        )
        for number in range(6)
    ]
    after = trained_weights(model)
    assert means[-1] < 0.7 * means[0]
    assert set(after) == {f"{layer}/{part}" for layer in PICKED for part in ("weight", "bias")}
    assert all(np.abs(after[name] - before[name]).max() > 1e-4 for name in after)
