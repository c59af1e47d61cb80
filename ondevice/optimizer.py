"""The optimizer of the device: the steps of `signatures.optimizers`, in NumPy.

In the graph, weights and state would be variables that every graph copies into its arena to read or write them, and a
checkpoint would need a signature for the state: here they are arrays (docs/decisions.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from signatures.graph import Array
from signatures.optimizers import Optimizer
from signatures.subset import Subset


class Trainee:
    """Weights that train, the gradients added up for them, and the optimizer's state. Arrays float32, by name."""

    def __init__(self, optimizer: Optimizer, weights: Mapping[str, Array], subset: Subset) -> None:
        self.optimizer = optimizer
        self.subset = subset
        self.weights: dict[str, NDArray[np.float32]] = {name: value.copy("C") for name, value in weights.items()}
        self.gradients = {name: np.zeros_like(value) for name, value in self.weights.items()}
        self.state = {
            slot: {name: np.zeros_like(value) for name, value in self.weights.items()} for slot in optimizer.slots
        }
        self.powers = dict.fromkeys(optimizer.counters, 1.0)
        self._decaying = {p.name for p in subset.parameters() if not p.is_bias}

    def add(self, gradients: Mapping[str, Array]) -> None:
        """Add the gradients of a micro-batch."""
        for name, total in self.gradients.items():
            total += gradients[name]

    def step(self, rate: float) -> None:
        """One step with what was added up, which starts anew at zero."""
        scale = min(1.0, self.optimizer.clip_norm / math.sqrt(self._squared_norm() + 1e-12))
        corrected = self._advance(rate)
        for name, weight in self.weights.items():
            gradient = self.gradients[name]
            gradient *= np.float32(scale)
            if name in self._decaying and self.optimizer.weight_decay:
                weight *= np.float32(1.0 - rate * self.optimizer.weight_decay)
            weight -= self._direction(name, gradient) * np.float32(corrected)
            gradient.fill(0.0)

    def _squared_norm(self) -> float:
        return sum(float(np.vdot(gradient, gradient)) for gradient in self.gradients.values())

    def _advance(self, rate: float) -> float:
        """The rate, for Adam with its bias correction lr·√(1 − β2ᵗ)/(1 − β1ᵗ) (arXiv 1412.6980, end of section 2)."""
        if self.optimizer.kind == "sgd":
            return rate
        self.powers["beta1_power"] *= self.optimizer.momentum
        self.powers["beta2_power"] *= self.optimizer.beta2
        return rate * math.sqrt(1.0 - self.powers["beta2_power"]) / (1.0 - self.powers["beta1_power"])

    def _direction(self, name: str, gradient: NDArray[np.float32]) -> NDArray[np.float32]:
        """Where the weight goes, per unit of rate; moves the state on."""
        optimizer = self.optimizer
        if optimizer.kind == "adam":
            mean, variance = self.state["mean"][name], self.state["variance"][name]
            _move(mean, gradient, optimizer.momentum)
            np.square(gradient, out=gradient)
            _move(variance, gradient, optimizer.beta2)
            return np.asarray(mean / (np.sqrt(variance) + np.float32(optimizer.epsilon)), np.float32)
        if not optimizer.momentum:
            return gradient
        velocity = self.state["momentum"][name]
        velocity *= np.float32(optimizer.momentum)
        velocity += gradient
        return velocity


def _move(mean: NDArray[np.float32], new: NDArray[np.float32], beta: float) -> None:
    """mean ← β·mean + (1 − β)·new, in place."""
    mean *= np.float32(beta)
    mean += new * np.float32(1.0 - beta)
