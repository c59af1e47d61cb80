"""Evaluate: accuracy of an inference model on a split, with the very file that the user gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ondevice.dataset import Split, evaluation_batches, to_input
from ondevice.runtime import LoadedModel
from ondevice.training import cross_entropy
from signatures.catalogue import Preprocessing


@dataclass(frozen=True)
class Evaluation:
    """Result on a split."""

    accuracy: float
    """Fraction in 0..1."""
    loss: float
    """Mean softmax cross-entropy in nats."""
    images: int
    predicted: tuple[int, ...]
    """The class with the largest logit of each image, in stored order."""


def evaluate(
    model: LoadedModel,
    split: Split,
    preprocessing: Preprocessing,
    after_image: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Run `infer` (batch 1) over the split, in stored order."""
    predicted: list[int] = []
    loss = 0.0
    for done, (images, labels, _) in enumerate(evaluation_batches(split, 1)):
        logits = model.call("infer", {"x": to_input(images, preprocessing)})["logits"]
        predicted.append(int(np.argmax(logits[0])))
        loss += float(cross_entropy(logits, labels)[0])
        after_image(done + 1)
    accuracy = float(np.mean(predicted == split.labels))
    return Evaluation(accuracy, loss / len(split), len(split), tuple(predicted))
