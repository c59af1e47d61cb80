"""One training problem, the same for every framework: network, trained layers, images, and the order they come in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ondevice.dataset import shuffled_batches
from ondevice.packed import Split
from ondevice.training import Schedule
from signatures.catalogue import MODEL, Bundle, Preprocessing
from signatures.graph import Graph
from signatures.head import head_of, with_new_head
from signatures.layers import find_layers
from signatures.optimizers import Optimizer
from signatures.tflite_io import read_model

OPTIMIZER = Optimizer("sgd")
SEED = 0
RATE = 0.03
PROBLEM, IMAGES, LABELS = "problem.json", "images.npy", "labels.npy"


@dataclass(frozen=True)
class Problem:
    """What is trained, and how; the images lie beside it, in the folder that it was written to."""

    network: str
    model: str
    """The bundle's file that holds the network; its head is replaced by a new one that starts at zero."""
    preprocessing: Preprocessing
    layers: tuple[str, ...]
    image: int
    classes: int = 7
    batch: int = 32
    threads: int = 2
    steps_an_epoch: int = 4
    epochs: int = 4
    """The first one warms up and is not timed."""

    @property
    def images(self) -> int:
        """How many images there are; every epoch takes each once."""
        return self.batch * self.steps_an_epoch

    @property
    def schedule(self) -> Schedule:
        """Learning rates."""
        return Schedule(RATE, self.steps_an_epoch * self.epochs)


def problem_of(bundle: Bundle, layers: Sequence[str]) -> Problem:
    """Train `layers` of a bundle's network."""
    manifest = bundle.manifest
    model = str((bundle.folder / MODEL).resolve())
    return Problem(manifest.network, model, manifest.preprocessing, tuple(layers), manifest.image)


def write_problem(problem: Problem, folder: Path) -> None:
    """Write the problem and its images: blotches whose brightness goes with the class, and grain, because flat areas
    would lie on kinks of ReLU6 together.
    """
    random = np.random.default_rng(SEED)
    labels = random.integers(0, problem.classes, problem.images).astype(np.int32)
    side = -(-problem.image // 16)
    blotches = random.integers(0, 128, (problem.images, side, side, 3)) + labels[:, None, None, None] * 15
    images = blotches.astype(np.uint8).repeat(16, axis=1).repeat(16, axis=2)[:, : problem.image, : problem.image]
    images += random.integers(0, 32, images.shape, np.uint8)
    np.save(folder / IMAGES, images)
    np.save(folder / LABELS, labels)
    (folder / PROBLEM).write_text(json.dumps(asdict(problem)))


def read_problem(folder: Path) -> Problem:
    """The problem that `write_problem` wrote."""
    document: dict[str, Any] = json.loads((folder / PROBLEM).read_text())
    pixels = {name: tuple(values) for name, values in document.pop("preprocessing").items()}
    return Problem(**{**document, "preprocessing": Preprocessing(**pixels), "layers": tuple(document["layers"])})


def read_images(folder: Path) -> Split:
    """Its images, mapped, and their labels."""
    return Split(np.load(folder / IMAGES, mmap_mode="r"), np.load(folder / LABELS))


def read_network(problem: Problem) -> Graph:
    """The bundle's network with a new head, as the device trains it; weights are views of the mapped file."""
    network = read_model(Path(problem.model)).signature("infer").graph
    return with_new_head(network, head_of(network, find_layers(network)), problem.classes)


def rows_and_rates(problem: Problem) -> Iterator[tuple[NDArray[np.intp], float]]:
    """The images [batch] of each step, in the device's order, and its learning rate."""
    step = 0
    for epoch in range(problem.epochs):
        for rows, _ in shuffled_batches(problem.images, problem.batch, epoch, SEED):
            yield rows, problem.schedule.at(step)
            step += 1
