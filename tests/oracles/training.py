"""Oracle: training in float64, with TensorFlow's gradients and the optimizers written out in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from signatures.graph import Array, Graph
from signatures.optimizers import Optimizer
from signatures.subset import Parameter, Subset
from tests.oracles import tensorflow_graph


@dataclass(frozen=True)
class Batch:
    """One step's arguments."""

    x: Array
    y: Array
    rate: float


@dataclass
class Trainer:
    """Weights and optimizer state, all float64."""

    graph: Graph
    optimizer: Optimizer
    weights: dict[Parameter, tf.Variable]
    first: dict[Parameter, Array] = field(default_factory=dict)
    """Momentum of SGD, first moment of Adam."""
    second: dict[Parameter, Array] = field(default_factory=dict)
    steps: int = 0

    def step(self, batch: Batch) -> float:
        """The loss before the update."""
        loss, gradients = tensorflow_graph.loss_and_gradients(self.graph, batch.x, batch.y, self.weights)
        self.steps += 1
        rate = float(np.float32(batch.rate))
        norm = np.sqrt(sum(float(np.sum(g**2)) for g in gradients.values()))
        shrink = min(1.0, self.optimizer.clip_norm / norm)
        for p, weight in self.weights.items():
            decay = rate * self.optimizer.weight_decay if not p.is_bias else 0.0
            weight.assign(weight.numpy() * (1 - decay) - rate * self._direction(p, shrink * gradients[p.name]))
        return loss

    def values(self) -> dict[str, Array]:
        return {p.name: weight.numpy() for p, weight in self.weights.items()}

    def set_values(self, values: dict[str, Array]) -> None:
        for p, weight in self.weights.items():
            weight.assign(values[p.name].astype(np.float64))

    def _direction(self, p: Parameter, g: Array) -> Array:
        o = self.optimizer
        if o.kind == "sgd":
            self.first[p] = o.momentum * self.first.get(p, 0.0) + g
            return self.first[p]
        self.first[p] = o.momentum * self.first.get(p, 0.0) + (1 - o.momentum) * g
        self.second[p] = o.beta2 * self.second.get(p, 0.0) + (1 - o.beta2) * g**2
        correction = np.sqrt(1 - o.beta2**self.steps) / (1 - o.momentum**self.steps)
        return correction * self.first[p] / (np.sqrt(self.second[p]) + o.epsilon)


def trainer(graph: Graph, subset: Subset, optimizer: Optimizer) -> Trainer:
    return Trainer(graph, optimizer, tensorflow_graph.variables(graph, subset, "float64"))


def batches(side: int, count: int, size: int, classes: int, rates: Sequence[float]) -> list[Batch]:
    """`count` batches of noise with a class-dependent brightness, so that there is something to learn."""
    random = np.random.default_rng(7)
    result = []
    for i in range(count):
        y = random.integers(0, classes, size).astype(np.int32)
        x = random.normal(size=(size, side, side, 3)) + np.linspace(-0.5, 0.5, classes)[y][:, None, None, None]
        result.append(Batch(x.astype(np.float32), y, rates[i]))
    return result
