"""What one framework took for one problem, in a process of its own; and the loop that measures it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ondevice.meter import read_resident
from ondevice.packed import Split
from profiling.peers.problem import Problem, rows_and_rates

Step = Callable[[NDArray[np.uint8], NDArray[np.int32], float], float]
"""One training step: images uint8 [batch, H, W, 3], labels int32 [batch], learning rate → mean loss."""


@dataclass(frozen=True)
class Measurement:
    """Times without warming up; memory with everything."""

    framework: str
    """With its version."""
    note: str
    """How it went about it, where there was a choice."""
    losses: tuple[float, ...]
    """Of all steps that were run, warming up included."""
    once_s: float
    """What is done once for all images, before the first step."""
    step_s: tuple[float, ...]
    steps_an_epoch: int
    base_bytes: int
    """Resident once the framework is imported, before the network is read."""
    peak_bytes: int

    @property
    def later_s(self) -> float:
        """A step of every epoch but the first: the median."""
        return median(self.step_s)

    @property
    def first_s(self) -> float:
        """A step of the first epoch, with its part of what is done once."""
        return self.later_s + self.once_s / self.steps_an_epoch

    @property
    def added_bytes(self) -> int:
        """Peak above the process with the framework alone."""
        return self.peak_bytes - self.base_bytes


def measurement_of(document: dict[str, Any]) -> Measurement:
    """What a child wrote as JSON."""
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in document.items()}
    return Measurement(**fields)


def measure_steps(
    framework: str,
    problem: Problem,
    split: Split,
    base_bytes: int,
    step: Step,
    note: str = "",
    steps: int | None = None,
) -> Measurement:
    """Run the first `steps` of `problem`, or all.

    Time runs from the end of one step to the end of the next, taking images included.
    """
    losses, ends = [], []
    for rows, rate in islice(rows_and_rates(problem), steps):
        losses.append(step(*split.take(rows), rate))
        ends.append(time.perf_counter())
    return finished(framework, note, problem, losses, 0.0, ends, base_bytes)


def finished(
    framework: str,
    note: str,
    problem: Problem,
    losses: Sequence[float],
    once_s: float,
    ends: Sequence[float],
    base_bytes: int,
) -> Measurement:
    """The measurement of steps that ended at `ends`, in seconds; to be called in the measured process."""
    taken = np.diff(ends)[problem.steps_an_epoch - 1 :].tolist()
    peak_bytes = read_resident().peak_bytes
    steps = problem.steps_an_epoch
    return Measurement(framework, note, tuple(losses), once_s, tuple(taken), steps, base_bytes, peak_bytes)
