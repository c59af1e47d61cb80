"""One draw of the images, measured: how it ranks the layers."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from ondevice.betti_numba.engine import first_betti
from ondevice.compiled import default_cache
from ondevice.dataset import probe_batches
from ondevice.evidence import probe_count
from ondevice.fisher import fisher_information
from ondevice.opening import Opened
from ondevice.probe import squared_distances
from ondevice.ranking import FROM_BETTI_NUMBERS, FROM_GRADIENTS, Evidence, scores
from profiling.environment import in_words
from profiling.ranking.record import Draw, LayerFacts, Study
from signatures.autodiff import untrainable
from signatures.catalogue import MODEL, file_sha256

THREADS = 2


def study_of(opened: Opened, batch: int) -> Study:
    """A study without draws yet."""
    manifest = opened.bundle.manifest
    obstacles = untrainable(opened.network, opened.layers)
    return Study(
        network=manifest.network,
        weights=manifest.weights,
        model_sha256=file_sha256(opened.bundle.folder / MODEL),
        image=manifest.image,
        data=opened.dataset.name,
        description=opened.dataset.description,
        fingerprint=opened.dataset.fingerprint,
        batch=batch,
        batches=probe_count(opened, batch),
        layers=tuple(
            LayerFacts(layer.name, layer.kind, layer.activation_size, obstacles.get(layer.name))
            for layer in opened.body
        ),
        draws=(),
    )


def measure_draw(opened: Opened, batch: int, seed: int, criteria: Sequence[str], workspace: Path) -> Draw:
    """Rank the layers by `criteria` on the images that `seed` draws, with as much memory as half the machine has.

    As on the device, which follows the reference code, Fisher information is that of the first batch alone. Its head is
    drawn anew for every seed.
    """
    count, seconds = probe_count(opened, batch), {}
    drawn = list(probe_batches(opened.dataset.train, batch, count, seed))
    preprocessing, budget_bytes = opened.bundle.manifest.preprocessing, half_of_memory()
    b1 = fisher = None
    if not FROM_BETTI_NUMBERS.isdisjoint(criteria):
        started = time.perf_counter()
        distances = squared_distances(
            opened.network,
            opened.body,
            (images for images, _ in drawn),
            preprocessing,
            workspace,
            THREADS,
            budget_bytes,
        )
        b1 = first_betti(distances.reshape(-1, batch, batch), default_cache()).b1.reshape(distances.shape[:2])
        seconds["b1"] = time.perf_counter() - started
    if not FROM_GRADIENTS.isdisjoint(criteria):
        started = time.perf_counter()
        fisher = fisher_information(
            opened.network, opened.body, drawn[:1], preprocessing, workspace, THREADS, budget_bytes, seed
        )
        seconds["fisher"] = time.perf_counter() - started

    def ranked(name: str, some: slice) -> tuple[float, ...]:
        evidence = Evidence(None if b1 is None else b1[some], None if fisher is None else fisher[some])
        return tuple(scores(name, opened.body, evidence, seed).tolist())

    def batches(name: str) -> range:
        return range(1 if name in FROM_GRADIENTS else count)

    return Draw(
        seed=seed,
        b1=None if b1 is None else tuple(tuple(map(int, row)) for row in b1),
        scores={name: ranked(name, slice(None)) for name in criteria},
        single={name: tuple(ranked(name, slice(i, i + 1)) for i in batches(name)) for name in criteria},
        seconds=seconds,
        environment=in_words(),
    )


def half_of_memory() -> int:
    """Bytes that measuring may take."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
