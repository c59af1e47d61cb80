"""Replay and micro-batches are whole-graph training: twenty steps of MobileNetV2 both ways, and what comes out.

One way is a train file for apps: the whole network and batch in one graph, which makes the step as well. The other is
the device's: a prefix that runs once for each image, rows in a file, micro-batches of the suffix, and the optimizer in
NumPy. Tensors are compared by their norm and by their largest element: a weight near zero has no digits to spare.

Where ReLU6 has kinks, twenty steps of a network with random weights part any two orders of the same float32 sums;
TensorFlow's float32 from its float64 by more than the two ways (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

from converter import zoo
from ondevice.dataset import open_dataset, shuffled_batches, to_input
from ondevice.optimizer import Trainee
from ondevice.packed import Split
from ondevice.replay import Keeping, Prefix, keep_rows
from ondevice.runtime import LoadedModel
from ondevice.training import Schedule, TrainingSet, check_trains, train_epoch
from signatures.build import train_model
from signatures.catalogue import Preprocessing
from signatures.cut import cut_before
from signatures.graph import Array, Graph
from signatures.head import head_of, with_new_head
from signatures.layers import find_layers
from signatures.micro_batches import prefix_model, suffix_model
from signatures.optimizers import Optimizer
from signatures.subset import Subset, subset_of, values_of
from signatures.tflite_io import write_model
from tests.end_to_end.commands import ROOT
from tests.end_to_end.conftest import NPZ
from tests.oracles import tensorflow_graph
from tests.oracles.variants import smooth

IMAGE, BATCH, EPOCHS, STEPS = 64, 16, 4, 20
IMAGES = STEPS // EPOCHS * BATCH
MICRO_BATCHES = (1, 4, BATCH)
CLASSES = 7
SCHEDULE = Schedule(0.03, STEPS)
TOLERANCE = 1e-5
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "pets7"
Values = Mapping[str, Array]


@dataclass(frozen=True)
class Trained:
    """What comes out of twenty steps."""

    losses: list[float]
    weights: Values


@dataclass(frozen=True, eq=False)
class Problem:
    """A network with a fresh head, pictures, and what trains: b1's usual pick, five projections in the middle."""

    graph: Graph
    preprocessing: Preprocessing
    split: Split

    @cached_property
    def names(self) -> tuple[str, ...]:
        layers = find_layers(self.graph)
        projections = [x.name for x in layers if x.kind == "conv" and x.weight_shape[0] < x.weight_shape[3]]
        return (*projections[7:12], layers[-1].name)

    @cached_property
    def subset(self) -> Subset:
        return subset_of(find_layers(self.graph), self.names)

    def batches(self) -> Iterator[tuple[Array, Array]]:
        """What goes into each step: every image four times."""
        for epoch in range(EPOCHS):
            for rows, _ in shuffled_batches(IMAGES, BATCH, epoch, 0):
                images, labels = self.split.take(rows)
                yield to_input(images, self.preprocessing), labels

    def in_one_graph(self, folder: Path) -> Trained:
        """By the train file for apps."""
        write_model(train_model(self.graph, self.subset, BATCH, Optimizer()), folder / "whole.tflite")
        model = LoadedModel(folder / "whole.tflite", 1)
        losses = []
        for step, (x, y) in enumerate(self.batches()):
            rate = np.array(SCHEDULE.at(step), np.float32)
            losses.append(float(model.call("train", {"x": x, "y": y, "learning_rate": rate})["loss"]))
        return Trained(losses, model.call("get_weights"))

    def on_the_device(self, micro_batch: int, folder: Path) -> Trained:
        """By what `adapt` does, part by part."""
        cut = cut_before(self.graph, self.names)
        assert 20 < len(cut.prefix.ops) < len(self.graph.ops) - 20, "the cut is not in the middle"
        write_model(prefix_model(cut.prefix, 3), folder / "prefix.tflite")
        crossing = tuple(tensor.shape for tensor in cut.suffix.inputs)
        prefix = Prefix(LoadedModel(folder / "prefix.tflite", 1), 3, crossing, self.split, self.preprocessing)
        keeping = Keeping(IMAGES, "float32", False, 1 << 40)
        features = keep_rows(prefix, folder / "features.bin", keeping, lambda done, total: None)
        path = folder / f"suffix{micro_batch}.tflite"
        suffix_subset = subset_of(find_layers(cut.suffix), self.names)
        write_model(suffix_model(cut.suffix, suffix_subset, micro_batch, BATCH), path)
        model = LoadedModel(path, 1)
        check_trains(model, path, suffix_subset)
        trainee = Trainee(Optimizer(), values_of(self.graph, self.subset), self.subset)
        data = TrainingSet(features, self.split.labels, CLASSES, BATCH, micro_batch, mirror=False, seed=0)
        losses = []
        for epoch in range(EPOCHS):
            losses += train_epoch(model, trainee, data, epoch, SCHEDULE, lambda step, loss: None)
        return Trained(losses, trainee.weights)

    def by_tensorflow(self, dtype: str) -> Trained:
        """By TensorFlow's kernels and GradientTape, everything in float32 or in float64."""
        exact = np.dtype(dtype).type
        values = tensorflow_graph.variables(self.graph, self.subset, dtype)
        momentum = {p: np.zeros(p.shape, dtype) for p in values}
        losses = []
        for step, (x, y) in enumerate(self.batches()):
            loss, gradients = tensorflow_graph.loss_and_gradients(self.graph, x, y, values)
            losses.append(loss)
            norm = np.sqrt(sum(np.square(g.astype(np.float64)).sum() for g in gradients.values()))
            for p, variable in values.items():
                momentum[p] = exact(0.9) * momentum[p] + exact(min(1.0, 1.0 / norm)) * gradients[p.name]
                variable.assign(variable.numpy() - exact(SCHEDULE.at(step)) * momentum[p])
        return Trained(losses, {p.name: variable.numpy() for p, variable in values.items()})


def problem(weights: str, split: Split) -> Problem:
    source = zoo.load("mobilenetv2", weights, IMAGE)
    head = head_of(source.graph, find_layers(source.graph))
    return Problem(with_new_head(source.graph, head, CLASSES), source.preprocessing, split)


def blotches() -> Split:
    """Random pictures of 4-pixel squares, and labels that have nothing to do with them."""
    coarse = np.random.default_rng(0).integers(0, 256, (IMAGES, IMAGE // 4, IMAGE // 4, 3), np.uint8)
    return Split(coarse.repeat(4, 1).repeat(4, 2), (np.arange(IMAGES) % CLASSES).astype(np.int32))


@pytest.fixture(scope="module")
def random_weights() -> Problem:
    return problem("random", blotches())


def errors(got: Values, expected: Values) -> dict[str, float]:
    """Of each tensor, by its norm or by its largest element, whichever says more."""
    assert got.keys() == expected.keys()
    found = {}
    for name, value in expected.items():
        wide = value.astype(np.float64)
        off = np.abs(got[name] - wide)
        found[name] = float(max(np.linalg.norm(off) / np.linalg.norm(wide), off.max() / np.abs(wide).max()))
    return found


def assert_same(got: Trained, expected: Trained, start: Values) -> None:
    """Losses and weights to 1e-5, after training that moved every tensor by more than a hundred times that."""
    np.testing.assert_allclose(got.losses, expected.losses, rtol=TOLERANCE)
    assert min(errors(expected.weights, start).values()) > 100 * TOLERANCE
    found = errors(got.weights, expected.weights)
    assert max(found.values()) < TOLERANCE, found


def test_photographs_and_published_weights(tmp_path: Path) -> None:
    """As the owner of a phone would have it. Measured: 1e-6 at most, whatever the micro-batch."""
    if not NPZ.exists() or not PHOTOGRAPHS.exists():
        pytest.skip("no ImageNet weights or no photographs here")
    data = open_dataset(PHOTOGRAPHS, IMAGE, tmp_path, 0)
    assert len(data.classes) == CLASSES
    rows = np.linspace(0, len(data.train) - 1, IMAGES).astype(int)
    one = problem(str(NPZ), Split(data.train.images[rows], data.train.labels[rows]))
    expected = one.in_one_graph(tmp_path)
    assert expected.losses[-1] < 0.5 * expected.losses[0]
    for micro_batch in MICRO_BATCHES:
        assert_same(one.on_the_device(micro_batch, tmp_path), expected, values_of(one.graph, one.subset))


def test_random_weights_without_kinks(random_weights: Problem, tmp_path: Path) -> None:
    """The same network without activations, its channels scaled. Measured: 2e-6 at most."""
    inputs, _ = next(random_weights.batches())
    one = Problem(smooth(random_weights.graph, inputs), random_weights.preprocessing, random_weights.split)
    expected = one.in_one_graph(tmp_path)
    for micro_batch in MICRO_BATCHES:
        assert_same(one.on_the_device(micro_batch, tmp_path), expected, values_of(one.graph, one.subset))


def test_random_weights_with_kinks(random_weights: Problem, tmp_path: Path) -> None:
    """No further apart than TensorFlow's float32 from its float64: 7e-4 where that is 1.5e-3.

    One step is the same to 1e-5 all the same.
    """
    expected = random_weights.in_one_graph(tmp_path)
    single, double = (random_weights.by_tensorflow(dtype) for dtype in ("float32", "float64"))
    limit = max(errors(single.weights, double.weights).values())
    assert limit < 1e-2, "not even TensorFlow agrees with itself: this tests nothing"
    for micro_batch in MICRO_BATCHES:
        got = random_weights.on_the_device(micro_batch, tmp_path)
        np.testing.assert_allclose(got.losses[:2], expected.losses[:2], rtol=TOLERANCE)
        assert max(errors(got.weights, expected.weights).values()) < limit, micro_batch
