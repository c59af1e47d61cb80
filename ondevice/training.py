"""Train: micro-batches that add up to shuffled batches, with a learning rate that warms up and decays."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
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


@dataclass(frozen=True)
class Progress:
    """How far a training has come."""

    losses: tuple[float, ...] = ()
    """Of every step that is done."""
    seconds: tuple[float, ...] = ()
    """That each epoch has taken, of those that have begun."""

    @property
    def steps(self) -> int:
        """How many are done."""
        return len(self.losses)

    def after_step(self, loss: float, epoch: int, seconds: float) -> Progress:
        """With one more step, of epoch 0 …, which took `seconds`."""
        spent = [*self.seconds, *[0.0] * (epoch + 1 - len(self.seconds))]
        spent[epoch] += seconds
        return Progress((*self.losses, loss), tuple(spent))

    def epochs(self) -> tuple[Epoch, ...]:
        """What each epoch did, where all that have begun are done."""
        losses = np.array_split(self.losses, max(1, len(self.seconds)))  # all are of one length
        return tuple(
            Epoch(i + 1, float(np.mean(part)), spent)
            for i, (part, spent) in enumerate(zip(losses, self.seconds, strict=False))
        )


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
    done: int = 0,
) -> list[float]:
    """One pass over the data, shuffled by (seed, epoch); epochs count from 0. Returns the loss of every step.

    `model` has the signature `gradients` for the weights of `trainee`. `after_step(step, loss)` is told the number of
    the step over all epochs. `done` steps of the epoch were made before, and are left out. DivergedError if a loss or
    a weight is not finite; `after_step` is not told of such a step.
    """
    losses: list[float] = []
    batches = enumerate(shuffled_batches(len(data.labels), data.batch, epoch, data.seed))
    for i, (rows, flipped) in islice(batches, done, None):
        step = epoch * data.steps + i
        loss = _add_gradients(model, trainee, data, rows, flipped & data.mirror)
        rate = schedule.at(step)
        if not math.isfinite(loss):
            raise DivergedError(f"the loss became {loss} at step {step + 1}: {_advice(step, schedule)}")
        trainee.step(rate)
        for name, value in trainee.weights.items():
            if not is_finite(value):
                raise DivergedError(f"{name} is not finite after step {step + 1}: {_advice(step, schedule)}")
        losses.append(loss)
        after_step(step, loss)
    return losses


def _advice(step: int, schedule: Schedule) -> str:
    """What to do about a training that diverged."""
    return (
        f"the learning rate had come to {schedule.at(step):.2g} of {schedule.rate:.2g}. Try --lr "
        f"{schedule.rate / 10:.2g}, and look for images that are broken or in the wrong class"
    )


def is_finite(value: NDArray[np.float32]) -> bool:
    """Whether no value is NaN or infinite; takes no memory."""
    return not value.size or bool(np.isfinite(value.min()) and np.isfinite(value.max()))


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
