"""The train graph that the device would compile of a bundle's network: for given layers, or as a run trained."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ondevice.meter import read_resident
from ondevice.planning import Planner
from ondevice.ranking import BATCH, BIAS
from ondevice.replay import Keeping, room_bytes
from ondevice.runtime import interpreter_module
from ondevice.show import read_document
from signatures.catalogue import Bundle
from signatures.channels import Channels, with_channels
from signatures.cut import cut_before
from signatures.errors import InputError, UsageError
from signatures.graph import Graph, Model
from signatures.head import head_of, with_new_head
from signatures.layers import find_layers
from signatures.micro_batches import suffix_model
from signatures.optimizers import Optimizer
from signatures.subset import subset_of

ALL = "all"
"""In the place of names: every layer."""
CLASSES = 10


@dataclass(frozen=True)
class Training:
    """What is to train, and how."""

    layers: tuple[str, ...]
    """The head trains too; `ALL` alone: all of them."""
    classes: int | None = None
    """Of the new head; None: `CLASSES`, or those of the bundle's own head."""
    batch: int = BATCH
    micro_batch: int | None = None
    """None: what the device would take."""
    bias_only: bool = False
    """Whether of all layers but the head only the biases train."""
    channels: Channels = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TrainGraph:
    """A compiled suffix."""

    model: Model
    """Of one signature: `gradients`."""
    layers: tuple[str, ...]
    micro_batch: int
    batch: int


def training_of(run: Path) -> Training:
    """What a finished run trained, from its report. Raises InputError."""
    report: Mapping[str, Any] = read_document(run)
    try:
        rows = [row for row in report["selection"]["table"] if row["picked"]]
        return Training(
            layers=tuple(str(row["layer"]) for row in rows),
            classes=len(report["classes"]),
            batch=int(report["settings"]["batch"]),
            micro_batch=int(report["plan"]["micro_batch"]),
            bias_only=report["settings"]["criterion"] == BIAS,
            channels={row["layer"]: tuple(row["channels"]) for row in rows if row.get("channels")},
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{run / 'report.json'} is damaged: {type(error).__name__}: {error}") from None


def train_graph(bundle: Bundle, training: Training) -> TrainGraph:
    """Compile what lies behind the cut. InputError for layers that are not there or cannot train; UsageError for a
    micro-batch that is no part of the batch.
    """
    network = _network(bundle, training.classes)
    names = [layer.name for layer in find_layers(network)]
    head = names[-1]
    chosen = {*(names if training.layers == (ALL,) else training.layers), head}
    subset_of(find_layers(network), chosen)  # names that are not there are told of before anything is cut
    micro_batch = training.micro_batch or _planned(network, sorted(chosen), training)
    if micro_batch < 1 or training.batch % micro_batch:
        raise UsageError(f"a batch of {training.batch} cannot be cut in micro-batches of {micro_batch}")
    cut = cut_before(with_channels(network, training.channels), chosen)
    subset = subset_of(find_layers(cut.suffix), chosen, chosen - {head} if training.bias_only else ())
    model = suffix_model(cut.suffix, subset, micro_batch, training.batch)
    return TrainGraph(model, subset.names, micro_batch, training.batch)


def _network(bundle: Bundle, classes: int | None) -> Graph:
    own = bundle.manifest.classes
    if not bundle.manifest.own_head:
        return with_new_head(bundle.network, head_of(bundle.network, bundle.layers), classes or CLASSES)
    if classes not in (None, own):
        raise InputError(f"{bundle.folder} was exported with a head of its own for {own} classes, not {classes}")
    return bundle.network


def _planned(network: Graph, names: Sequence[str], training: Training) -> int:
    """The micro-batch that the device takes, with what this process takes by now in the place of the device's own."""
    runtime, _ = interpreter_module()
    keeping = Keeping(training.batch, "float32", False, room_bytes(Path(tempfile.gettempdir())))
    base_bytes = read_resident().resident_bytes
    planner = Planner(
        network, training.batch, Optimizer(), runtime, base_bytes, keeping, training.bias_only, rho_channels=None
    )
    return planner.cost(names).micro_batch
