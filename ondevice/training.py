"""Train: invoke the train signature over shuffled batches, with a learning rate that warms up and decays."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ondevice.dataset import Split, to_input, training_batches
from ondevice.runtime import LoadedModel
from signatures.catalogue import Preprocessing
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


@dataclass(frozen=True)
class Epoch:
    """What one epoch did."""

    number: int
    """From 1."""
    loss: float
    """Mean over the steps."""
    seconds: float


def check_trains(model: LoadedModel, path: Path, subset: Subset) -> None:
    """InputError unless the train file holds exactly the parameters of `subset`; a manifest may claim what it likes."""
    found = dict(model.results("get_weights"))
    expected = {p.name: p.shape for p in subset.parameters()}
    if found != expected:
        raise InputError(f"{path} trains {', '.join(found)}, not {', '.join(expected)} as its manifest says")


def train_epoch(
    model: LoadedModel,
    split: Split,
    preprocessing: Preprocessing,
    batch: int,
    epoch: int,
    schedule: Schedule,
    seed: int,
    after_step: Callable[[int, float], None],
) -> list[float]:
    """One pass over `split`, shuffled by (seed, epoch); epochs count from 0. Returns the loss of every step.

    `after_step(step, loss)` is told the number of the step over all epochs. DivergedError if a loss is not finite.
    """
    per_epoch = len(split) // batch
    losses: list[float] = []
    for i, (images, labels) in enumerate(training_batches(split, batch, epoch, seed)):
        step = epoch * per_epoch + i
        rate = schedule.at(step)
        inputs = {"x": to_input(images, preprocessing), "y": labels, "learning_rate": np.array(rate, np.float32)}
        loss = float(model.call("train", inputs)["loss"])
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss became {loss} at step {step + 1} (learning rate {rate:g}): try a smaller --lr"
            )
        losses.append(loss)
        after_step(step, loss)
    return losses


def trained_weights(model: LoadedModel) -> Mapping[str, Array]:
    """The trained tensors by name. DivergedError if one is not finite."""
    weights = model.call("get_weights")
    for name, value in weights.items():
        if not np.isfinite(value).all():
            raise DivergedError(f"{name} has values that are not finite after training: try a smaller --lr")
    return weights
