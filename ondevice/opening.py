"""A bundle and a dataset, opened together: everything that comes from outside, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ondevice.dataset import Dataset, Split, open_dataset
from ondevice.packing import Progress
from signatures.catalogue import Bundle, read_bundle
from signatures.errors import InputError
from signatures.graph import Graph
from signatures.head import head_of, with_new_head
from signatures.layers import Layer, find_layers


@dataclass(frozen=True)
class Opened:
    """A network that fits a dataset."""

    bundle: Bundle
    dataset: Dataset
    network: Graph
    """The bundle's network with a head for the dataset's classes."""
    layers: tuple[Layer, ...]

    @property
    def body(self) -> tuple[Layer, ...]:
        """All layers but the head."""
        return self.layers[:-1]

    @property
    def head(self) -> Layer:
        """The last layer."""
        return self.layers[-1]


def open_together(
    bundle_path: Path,
    data: Path,
    batch: int,
    workspace: Path,
    seed: int,
    progress: Progress = lambda done, total: None,
) -> Opened:
    """Open a bundle and a dataset with at least one batch of images; `workspace` and `seed` as in `open_dataset`.

    Raises InputError, CapabilityError.
    """
    bundle = read_bundle(bundle_path)
    dataset = open_dataset(data, bundle.manifest.image, workspace, seed, progress)
    if len(dataset.train) < batch:
        raise InputError(
            f"{data} has {len(dataset.train)} training images, fewer than one batch of {batch}: "
            "add images or give a smaller --batch"
        )
    _check_varied(dataset.train, data)
    network = bundle.network
    if not bundle.manifest.own_head:
        network = with_new_head(network, head_of(network, bundle.layers), len(dataset.classes))
    elif bundle.manifest.classes != len(dataset.classes):
        raise InputError(
            f"{bundle_path} was exported for {bundle.manifest.classes} classes, {data} has "
            f"{len(dataset.classes)}: export it again without CLASSES or with the right number"
        )
    return Opened(bundle, dataset, network, find_layers(network))


def _check_varied(split: Split, data: Path) -> None:
    """InputError where there is nothing to see: all images the same, or each of one colour. Two images do, mostly."""
    first: NDArray[np.uint8] | None = None
    same = flat = True
    for row in range(len(split)):
        image = split.take(np.array([row]))[0][0]
        first = image if first is None else first
        same = same and np.array_equal(image, first)
        flat = flat and bool((image == image[0, 0]).all())
        if not (same or flat):
            return
    what = "are all the same picture" if same else "are of one colour each"
    raise InputError(f"the training images of {data} {what}: there is nothing to learn from them")
