"""Export: from a network to a bundle."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converter.network import SourceNetwork
from ondevice.betti_numba.engine import first_betti
from ondevice.compiled import default_cache
from ondevice.dataset import open_dataset, probe_batches
from ondevice.evidence import PROBE_BATCHES
from ondevice.probe import squared_distances
from ondevice.ranking import Evidence
from ondevice.selection import select
from signatures.autodiff import untrainable
from signatures.build import bundle_model, train_model
from signatures.catalogue import (
    BATCHNORM_SCALE,
    MANIFEST,
    MODEL,
    TRAIN_FILE_NAME,
    Bundle,
    Manifest,
    TrainEntry,
    file_entry,
    layer_entries,
    read_bundle,
    train_file_name,
    write_manifest,
)
from signatures.errors import CapabilityError, UsageError
from signatures.graph import Array, Graph
from signatures.head import head_of, with_head_on, with_new_head, without_probabilities
from signatures.layers import Layer, find_layers
from signatures.optimizers import Optimizer
from signatures.passes import with_single_results
from signatures.subset import subset_of
from signatures.tflite_io import write_model

REPLACE, KEEP = "replace", "keep"
_NO_LIMIT = 1 << 50
"""Bytes: on the host, probing may take what it takes."""
_UNDECIDED_CLASSES = 2
"""Of a classifier where there was none, until the device knows how many the data have."""


@dataclass(frozen=True)
class ExportPlan:
    """What to write."""

    batch: int
    rhos: tuple[float, ...]
    head: str
    """REPLACE: the device replaces the classifier; KEEP: it stays as it is; else the tensor to put a new one on."""
    classes: int | None
    """Size of a new classifier that is made here, so that the device keeps it."""
    probe: Path | None
    """Dataset to rank the layers on, as the device would; without it by 1/|a|."""
    seed: int
    threads: int


def export_bundle(source: SourceNetwork, plan: ExportPlan, out: Path, replace: bool) -> Bundle:
    """Write the bundle to `out` and read it back.

    It appears there whole or not at all. UsageError if `out` exists and `replace` is not given, or holds other files.
    """
    if out.exists() and not replace:
        raise UsageError(f"{out} exists: choose another OUT, or --force to replace it")
    if out.exists() and not _holds_a_bundle_at_most(out):
        raise UsageError(f"{out} is not a bundle and is not replaced: choose another OUT")
    network, own_head = _with_head(source.graph, source.file_names.get(plan.head, plan.head), plan.classes)
    layers = find_layers(network)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
            partial = Path(folder) / "bundle"
            partial.mkdir()
            _write_files(source, network, own_head, layers, plan, partial)
            read_bundle(partial)
            if out.exists():
                shutil.rmtree(out)
            partial.rename(out)
    except OSError as error:
        raise CapabilityError(f"cannot write the bundle {out}: {error.strerror or error}") from None
    return read_bundle(out)


def _holds_a_bundle_at_most(out: Path) -> bool:
    if not out.is_dir():
        return False
    names = {path.name for path in out.iterdir()}
    others = {name for name in names - {MANIFEST, MODEL, BATCHNORM_SCALE} if not TRAIN_FILE_NAME.fullmatch(name)}
    return not names or (MANIFEST in names and not others)


def _with_head(graph: Graph, head: str, classes: int | None) -> tuple[Graph, bool]:
    """The network with the classifier that was asked for, and whether the device has to keep it."""
    if classes is not None and classes < 2:
        raise UsageError(f"a classifier needs at least 2 classes, got {classes}")
    graph = with_single_results(graph)
    if head not in (REPLACE, KEEP):
        return with_head_on(graph, head, classes or _UNDECIDED_CLASSES), classes is not None
    graph = without_probabilities(graph)
    if head == KEEP:
        if classes is not None:
            raise UsageError("--head keep keeps the classes too: leave --classes away")
        return graph, True
    found = head_of(graph, find_layers(graph))
    return (graph, False) if classes is None else (with_new_head(graph, found, classes), True)


def _write_files(
    source: SourceNetwork, network: Graph, own_head: bool, layers: tuple[Layer, ...], plan: ExportPlan, folder: Path
) -> None:
    write_model(bundle_model(network, layers, plan.batch), folder / MODEL)
    if source.batchnorm_scale:
        np.savez(folder / BATCHNORM_SCALE, **source.batchnorm_scale)  # type: ignore[arg-type]
    evidence = Evidence() if plan.probe is None else Evidence(b1=_probe(source, network, layers, plan))
    train = [_train_entry(network, layers, evidence, rho, plan, folder) for rho in plan.rhos]
    manifest = Manifest(
        network=source.name,
        weights=source.weights,
        image=network.inputs[0].shape[1],
        classes=network.outputs[0].shape[-1],
        own_head=own_head,
        preprocessing=source.preprocessing,
        ranking="inverse-size" if plan.probe is None else f"betti on {plan.probe.name}, seed {plan.seed}",
        layers=layer_entries(layers),
        train=tuple(train),
        files=tuple(file_entry(path) for path in sorted(folder.iterdir())),
    )
    write_manifest(manifest, folder)


def _train_entry(
    network: Graph, layers: Sequence[Layer], evidence: Evidence, rho: float, plan: ExportPlan, folder: Path
) -> TrainEntry:
    criterion = "inverse-size" if evidence.b1 is None else "betti"
    obstacles = untrainable(network, layers)
    picked = select(layers, layers[-1], evidence, criterion, rho, obstacles=obstacles).picked
    subset = subset_of(layers, picked)
    optimizer = Optimizer()
    name = train_file_name(rho)
    write_model(train_model(network, subset, plan.batch, optimizer), folder / name)
    return TrainEntry(rho, name, subset.id, subset.names, plan.batch, optimizer.id)


def _probe(source: SourceNetwork, network: Graph, layers: tuple[Layer, ...], plan: ExportPlan) -> Array:
    """b1 int64 [batches, layers without the head], exactly as the device computes it from the same data and seed."""
    assert plan.probe is not None
    image = network.inputs[0].shape[1]
    with tempfile.TemporaryDirectory() as workspace:
        dataset = open_dataset(plan.probe, image, Path(workspace), plan.seed)
        batches = min(PROBE_BATCHES, len(dataset.train) // plan.batch)
        distances = squared_distances(
            network,
            layers[:-1],
            (images for images, _ in probe_batches(dataset.train, plan.batch, batches, plan.seed)),
            source.preprocessing,
            Path(workspace),
            plan.threads,
            _NO_LIMIT,
        )
    topology = first_betti(distances.reshape(-1, plan.batch, plan.batch), default_cache())
    return topology.b1.reshape(distances.shape[:2])
