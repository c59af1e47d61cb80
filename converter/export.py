"""Export: from a network of the zoo to a bundle."""

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
from ondevice.pipeline import PROBE_BATCHES
from ondevice.probe import gram_matrices
from ondevice.selection import select
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
from signatures.errors import CapabilityError, InputError, UsageError
from signatures.graph import Array, Graph
from signatures.head import without_probabilities
from signatures.layers import Layer, find_layers
from signatures.optimizers import Optimizer
from signatures.passes import named_layers, with_single_results
from signatures.subset import subset_of
from signatures.tflite_io import parse_model, write_model


@dataclass(frozen=True)
class ExportPlan:
    """What to write."""

    batch: int
    rhos: tuple[float, ...]
    own_head: bool
    """Whether the head was made for the owner's classes, so that the device keeps it."""
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
    network = _named_network(source)
    layers = find_layers(network)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
            partial = Path(folder) / "bundle"
            partial.mkdir()
            _write_files(source, network, layers, plan, partial)
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


def _named_network(source: SourceNetwork) -> Graph:
    """The inference graph whose layers bear the source's names."""
    graph = with_single_results(without_probabilities(parse_model(source.tflite, source.name).graphs[0]))
    layers = find_layers(graph)
    if len(layers) != len(source.layers):
        raise InputError(f"{source.name} has {len(layers)} layers in its graph, {len(source.layers)} by its source")
    return named_layers(graph, [layer.op for layer in layers], [layer.name for layer in source.layers])


def _write_files(
    source: SourceNetwork, network: Graph, layers: tuple[Layer, ...], plan: ExportPlan, folder: Path
) -> None:
    write_model(bundle_model(network, layers, plan.batch), folder / MODEL)
    scales: dict[str, Array] = {
        layer.name: layer.batchnorm_scale for layer in source.layers if layer.batchnorm_scale is not None
    }
    if scales:
        np.savez(folder / BATCHNORM_SCALE, allow_pickle=False, **scales)
    b1 = None if plan.probe is None else _probe(source, network, layers, plan)
    train = [_train_entry(network, layers, b1, rho, plan, folder) for rho in plan.rhos]
    manifest = Manifest(
        network=source.name,
        weights=source.weights,
        image=network.inputs[0].shape[1],
        classes=network.outputs[0].shape[-1],
        own_head=plan.own_head,
        preprocessing=source.preprocessing,
        ranking="inverse-size" if plan.probe is None else f"betti on {plan.probe.name}, seed {plan.seed}",
        layers=layer_entries(layers),
        train=tuple(train),
        files=tuple(file_entry(path) for path in sorted(folder.iterdir())),
    )
    write_manifest(manifest, folder)


def _train_entry(
    network: Graph, layers: Sequence[Layer], b1: Array | None, rho: float, plan: ExportPlan, folder: Path
) -> TrainEntry:
    if b1 is None:  # b1 = 1 everywhere: the score is 1/|a|
        b1 = np.ones((1, len(layers) - 1), np.int64)
    subset = subset_of(layers, select(layers, layers[-1], b1, "betti", rho).picked)
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
        grams = gram_matrices(
            network,
            layers[:-1],
            probe_batches(dataset.train, plan.batch, batches, plan.seed),
            source.preprocessing,
            Path(workspace),
            plan.threads,
        )
    topology = first_betti(grams.reshape(-1, plan.batch, plan.batch), default_cache())
    return topology.b1.reshape(grams.shape[:2])
