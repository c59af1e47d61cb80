"""What a run decided before it trains, kept in its folder: a resumed run trains the same, and does not probe again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ondevice.documents import document_text, read_document, write_document
from ondevice.evaluate import Evaluation
from ondevice.meter import PhaseMemory
from ondevice.opening import Opened
from ondevice.packing import content_sha256
from ondevice.planning import Cost
from ondevice.report import TopologyNote
from ondevice.request import Request
from ondevice.selection import Selection
from signatures.catalogue import MODEL
from signatures.errors import InputError

FORMAT, VERSION = "adabet-decision", 1


@dataclass(frozen=True)
class Decision:
    """What trains, and how."""

    request: Request
    model_sha256: str
    """Of the bundle's network."""
    dataset_sha256: str
    """Of every pixel and label: rows that are kept of some images must not meet others."""
    selection: Selection
    topology: TopologyNote | None
    """How b1 was computed, where the criterion ranks by it."""
    plan: Cost
    channels: Mapping[str, tuple[int, ...]]
    """Of picked layers, those channels that train; layers are missing of which all do."""
    phases: tuple[PhaseMemory, ...]
    """What it took to decide."""
    before: Evaluation | None = None
    """The network before it trains; None as long as that is not measured."""

    @property
    def identity(self) -> str:
        """The same for trainings that go the same way: a checkpoint of one is no checkpoint of another."""
        text = document_text(replace(self, phases=(), topology=None, before=None), FORMAT, VERSION)
        return hashlib.sha256(text.encode()).hexdigest()


def model_sha256(opened: Opened) -> str:
    """Of the network in the bundle that was opened."""
    (model,) = (entry for entry in opened.bundle.manifest.files if entry.name == MODEL)
    return model.sha256


def write_decision(decision: Decision, path: Path) -> None:
    """Write it to `path`, replaced atomically."""
    write_document(decision, path, FORMAT, VERSION)


def read_decision(path: Path, request: Request, opened: Opened) -> Decision | None:
    """The decision that an interrupted run left; None where it left none.

    InputError where the file is damaged, or the bundle or the data are no longer what the run was begun with.
    """
    if not path.exists():
        return None
    decision = read_document(Decision, path, FORMAT, VERSION)
    again = "put back what it was, or start anew with --force"
    if decision.model_sha256 != model_sha256(opened):
        raise InputError(f"{request.bundle} holds another network than when the run was begun: {again}")
    if decision.dataset_sha256 != content_sha256(opened.dataset):
        raise InputError(f"{request.data} holds other images than when the run was begun: {again}")
    layers = [layer.name for layer in opened.layers]
    if decision.request != request or [row.layer for row in decision.selection.table] != layers:
        raise InputError(f"{path} is damaged: it is of another run")
    return decision
