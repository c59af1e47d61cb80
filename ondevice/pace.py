"""Pace: multiply-adds a second of this machine, measured on the networks that a run will use."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from ondevice.planning import Cost
from ondevice.runtime import LoadedModel

_MEASURED_S = 0.5
"""How long each part is measured at least."""


@dataclass(frozen=True)
class Pace:
    """Multiply-adds a second."""

    forward: float
    """Of the network as it is, an image at a time."""
    train: float
    """Of micro-batches, forward and backward."""

    def seconds(self, cost: Cost, images: int, epochs: int, variants: int) -> float:
        """Predicted time of prefix and training; `variants` are the rows that are kept of an image."""
        prefix_runs = variants if cost.kept_bytes else epochs
        return images * (cost.prefix_macs * prefix_runs / self.forward + cost.train_macs * epochs / self.train)


def images_a_second(model: LoadedModel, signature: str, images: int) -> float:
    """How many images a second `signature`, which takes `images` at once, gets through; the first call is left out."""
    values = {name: np.full(shape, 0.5, np.float32) for name, shape in model.inputs(signature).items()}
    model.call(signature, values)
    calls, started = 0, time.perf_counter()
    while time.perf_counter() - started < _MEASURED_S:
        model.call(signature, values)
        calls += 1
    return calls * images / (time.perf_counter() - started)
