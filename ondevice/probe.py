"""Probe: Gram matrices of every layer over a few unlabelled batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ondevice.dataset import to_input
from ondevice.runtime import LoadedModel
from signatures.build import probe_model
from signatures.catalogue import Preprocessing
from signatures.graph import Graph
from signatures.layers import Layer
from signatures.tflite_io import write_model

MIN_POINTS = 4
"""Images a batch: three points make no loop, b1 would be 0 for every layer."""


def gram_matrices(
    network: Graph,
    layers: Sequence[Layer],
    batches: Iterable[NDArray[np.uint8]],
    preprocessing: Preprocessing,
    workspace: Path,
    threads: int,
    after_batch: Callable[[int], None] = lambda done: None,
) -> NDArray[np.float32]:
    """Centred Gram matrices float32 [batches, layers, B, B] of images uint8 [B, H, W, 3].

    The model that computes them is written to `workspace` for the time of the call. `after_batch` is told how many
    batches are done.
    """
    path = workspace / "probe.tflite"
    grams = []
    model = None
    try:
        for images in batches:
            if model is None:
                write_model(probe_model(network, layers, len(images)), path)
                model = LoadedModel(path, threads)
            result = model.call("gram", {"x": to_input(images, preprocessing)})
            grams.append(np.stack([result[layer.name] for layer in layers]))
            after_batch(len(grams))
    finally:
        path.unlink(missing_ok=True)
    return np.stack(grams)
