"""Train on a host with TensorFlow: the device's own steps, batches and optimizer, with gradients by GradientTape.

Where a gradient passes through many layers this is several times faster than the device's graphs, which are made to
take little memory; tests hold it to the device's losses and answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.quiet import import_tensorflow
from ondevice.dataset import Split, to_input
from ondevice.optimizer import Trainee
from ondevice.training import Schedule, TrainingSet, cross_entropy, train_epoch
from profiling.peers.in_tensorflow import Network
from profiling.study.policies import Choice
from signatures.catalogue import Preprocessing
from signatures.cut import cut_before
from signatures.graph import Array, Graph
from signatures.layers import find_layers
from signatures.micro_batches import input_name
from signatures.optimizers import Optimizer
from signatures.subset import Subset, subset_of, values_of

import_tensorflow()
import tensorflow as tf  # noqa: E402

ENGINE = f"TensorFlow {tf.__version__}"
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)
_AT_ONCE = 32
"""Images that a forward pass takes."""


@dataclass(frozen=True)
class Answers:
    """What a network says to the images of a split."""

    predicted: tuple[int, ...]
    accuracy: float
    """In 0..1."""
    loss: float
    """Mean cross-entropy in nats."""


@dataclass(frozen=True)
class Trained:
    """What came of one training."""

    losses: tuple[float, ...]
    """Of every step."""
    answers: tuple[Answers, ...]
    """To each split that was asked."""


@dataclass(frozen=True, eq=False)
class _Kept:
    """What the prefix made of a split, in memory: x0, x1 …, an image each along the first axis."""

    values: Mapping[str, NDArray[np.float32]]

    def take(self, rows: NDArray[np.intp], flipped: NDArray[np.bool_]) -> Mapping[str, Array]:
        return {name: value[rows] for name, value in self.values.items()}


class Engine:
    """Trains one choice of layers of one network, as often as asked. `network` has a head for the data's classes."""

    def __init__(
        self, network: Graph, choice: Choice, preprocessing: Preprocessing, train: Split, asked: Sequence[Split]
    ) -> None:
        cut = cut_before(network, choice.layers)
        self._subset = subset_of(find_layers(cut.suffix), choice.layers, choice.layers[:-1] if choice.bias_only else ())
        self._slots = {p.name: p.slot for p in self._subset.parameters()}
        self._start = values_of(cut.suffix, self._subset)
        self._suffix = Network(cut.suffix, self._subset)
        self._gradients = tf.function(self._differentiate, autograph=False)
        self._forward = tf.function(self._logits, autograph=False)
        prefix = Network(cut.prefix, Subset(()))
        run_prefix = tf.function(lambda x: prefix.outputs([x]), autograph=False)

        def kept(split: Split) -> _Kept:
            parts = [run_prefix(to_input(images, preprocessing)) for images in _batches(split.images)]
            return _Kept(
                {input_name(i): np.concatenate([part[i] for part in parts]) for i in range(len(cut.suffix.inputs))}
            )

        self._train, self._labels = kept(train), train.labels
        self._asked = [(kept(split), split.labels) for split in asked]

    @property
    def parameters(self) -> int:
        """How many values train."""
        return self._subset.size

    def train(self, rate: float, seed: int, epochs: int, batch: int, classes: int) -> Trained:
        """Train from the start. DivergedError if a loss or a weight is not finite."""
        trainee = Trainee(Optimizer("sgd"), self._start, self._subset)
        data = TrainingSet(self._train, self._labels, classes, batch, batch, False, seed)
        schedule, losses = Schedule(rate, epochs * data.steps), []
        for epoch in range(epochs):
            losses += train_epoch(self, trainee, data, epoch, schedule, lambda step, loss: None)
        return Trained(tuple(losses), tuple(self._answers(*split, trainee.weights) for split in self._asked))

    def call(self, name: str, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Gradients of a batch's mean loss, as the device's graphs have them for one micro-batch (`name` is theirs)."""
        features = [inputs[x] for x in inputs if x not in self._slots and x != "truth"]
        weights = {name: inputs[name] for name in self._slots}
        logits, gradients = self._gradients(features, inputs["truth"], weights)
        return {"logits": logits.numpy(), **{name: gradient.numpy() for name, gradient in gradients.items()}}

    def _differentiate(
        self, features: list[tf.Tensor], truth: tf.Tensor, weights: dict[str, tf.Tensor]
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            logits = self._logits(features, weights)
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(truth, logits))
        return logits, tape.gradient(loss, weights)

    def _logits(self, features: list[tf.Tensor], weights: dict[str, tf.Tensor]) -> tf.Tensor:
        return self._suffix.outputs(features, {self._slots[name]: weight for name, weight in weights.items()})[0]

    def _answers(self, kept: _Kept, labels: NDArray[np.int32], weights: Mapping[str, Array]) -> Answers:
        columns = [_batches(value) for value in kept.values.values()]
        logits = np.concatenate(
            [self._forward(list(features), dict(weights)) for features in zip(*columns, strict=True)]
        )
        predicted = logits.argmax(axis=1)
        loss = float(cross_entropy(logits, labels).mean())
        return Answers(tuple(predicted.tolist()), float((predicted == labels).mean()), loss)


def _batches(values: NDArray[Any]) -> list[NDArray[Any]]:
    return [values[first : first + _AT_ONCE] for first in range(0, len(values), _AT_ONCE)]
