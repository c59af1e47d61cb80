"""Train: micro-batches that add up to shuffled batches, with a learning rate that warms up and decays."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ondevice.dataset import shuffled_batches
from ondevice.optimizer import Trainee
from ondevice.replay import Features
from ondevice.runtime import LoadedModel
from signatures.errors import DivergedError, InputError
from signatures.graph import Array
from signatures.subset import Subset

WARM_UP = 0.1
"""Fraction of all steps over which the learning rate rises from zero."""


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then cosine decay to zero."""

    rate: float
    steps: int

    def at(self, step: int) -> float:
        """Learning rate of step 0 … steps − 1."""
        warm = max(1, round(WARM_UP * self.steps))
        if step < warm:
            return self.rate * (step + 1) / warm
        return self.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))


class Gradients(Protocol):
    """What computes gradients: a `LoadedModel` with the signature `gradients`, or another engine in its place."""

    def call(self, name: str, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """`logits`, and the gradient of each weight by its name, of features, `truth` and weights."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch did."""

    number: int
    """From 1."""
    loss: float
    """Mean over the steps."""
    seconds: float


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What a run trains on, and how its batches are made."""

    features: Features
    labels: NDArray[np.int32]
    classes: int
    batch: int
    micro_batch: int
    """A divisor of `batch`."""
    mirror: bool
    """Whether images are mirrored at random."""
    seed: int

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return len(self.labels) // self.batch


def check_trains(model: LoadedModel, path: Path, subset: Subset) -> None:
    """InputError unless the train file is one for exactly the parameters of `subset`: a cache may hold anything."""
    found = {name: shape for name, shape in model.results("gradients").items() if name != "logits"}
    expected = {p.name: p.shape for p in subset.parameters()}
    if found != expected:
        raise InputError(f"{path} trains {', '.join(found)}, not {', '.join(expected)}: delete it")


def train_epoch(
    model: Gradients,
    trainee: Trainee,
    data: TrainingSet,
    epoch: int,
    schedule: Schedule,
    after_step: Callable[[int, float], None],
) -> list[float]:
    """One pass over the data, shuffled by (seed, epoch); epochs count from 0. Returns the loss of every step.

    `model` has the signature `gradients` for the weights of `trainee`. `after_step(step, loss)` is told the number of
    the step over all epochs. DivergedError if a loss is not finite.
    """
    losses: list[float] = []
    for i, (rows, flipped) in enumerate(shuffled_batches(len(data.labels), data.batch, epoch, data.seed)):
        step = epoch * data.steps + i
        loss = _add_gradients(model, trainee, data, rows, flipped & data.mirror)
        rate = schedule.at(step)
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss became {loss} at step {step + 1} (learning rate {rate:g}): try a smaller --lr"
            )
        trainee.step(rate)
        losses.append(loss)
        after_step(step, loss)
    return losses


def _add_gradients(
    model: Gradients, trainee: Trainee, data: TrainingSet, rows: NDArray[np.intp], flipped: NDArray[np.bool_]
) -> float:
    """Add up the gradients of a batch, micro-batch by micro-batch; returns its mean loss."""
    total = 0.0
    for first in range(0, data.batch, data.micro_batch):
        part = slice(first, first + data.micro_batch)
        labels = data.labels[rows[part]]
        truth = np.zeros((data.micro_batch, data.classes), np.float32)
        truth[np.arange(data.micro_batch), labels] = 1.0
        features = data.features.take(rows[part], flipped[part])
        results = model.call("gradients", {**features, "truth": truth, **trainee.weights})
        trainee.add(results)
        total += float(cross_entropy(results["logits"], labels).sum())
        del results  # the next call hands out as much again
    return total / data.batch


def cross_entropy(logits: Array, labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """−log softmax(logits)[label] of each row, in nats: float64 [rows]. Not finite where the logits are not."""
    wide = logits.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # a network that diverged has no loss, which the caller looks at
        shifted = wide - wide.max(axis=1, keepdims=True)
        losses: NDArray[np.float64] = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]
    return losses


def check_finite(weights: Mapping[str, Array]) -> None:
    """DivergedError if a trained tensor has a value that is not finite."""
    for name, value in weights.items():
        if not np.isfinite(value).all():
            raise DivergedError(f"{name} has values that are not finite after training: try a smaller --lr")
