"""The result of a run: report.json, and the few lines that a person reads."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.documents import read_document, write_document
from ondevice.evaluate import Evaluation
from ondevice.meter import PhaseMemory
from ondevice.planning import Cost
from ondevice.ranking import SCORE_NAMES
from ondevice.selection import Selection, obstacle_note
from ondevice.training import Epoch

FORMAT = "adabet-report"
VERSION = 1
_MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """What the run was asked to do, after defaults."""

    bundle: str
    data: str
    criterion: str
    rho: float
    rho_channels: float | None
    epochs: int
    batch: int
    learning_rate: float
    optimizer: str
    weight_decay: float
    seed: int
    threads: int
    mirror: bool
    replay: str
    budget_bytes: int | None
    budget_s: float | None


@dataclass(frozen=True)
class TopologyNote:
    """How b1 was computed."""

    engine: str
    seconds: float
    worker_peak_bytes: int | None
    note: str


@dataclass(frozen=True)
class Environment:
    """Where it ran."""

    machine: str
    system: str
    python: str
    numpy: str
    runtime: str
    cpus: int


@dataclass(frozen=True)
class Report:
    """Everything that `report.json` holds."""

    settings: Settings
    environment: Environment
    network: str
    weights: str
    dataset: str
    dataset_fingerprint: str
    classes: tuple[str, ...]
    test_labels: tuple[int, ...]
    """The class of each test image, in stored order."""
    selection: Selection
    topology: TopologyNote | None
    plan: Cost
    """What the training was predicted to take."""
    train_source: str
    """cache or compiled: where the train file came from."""
    compile_seconds: float
    trained_parameters: int
    before: Evaluation
    after: Evaluation
    epochs: tuple[Epoch, ...]
    step_losses: tuple[float, ...]
    phases: tuple[PhaseMemory, ...]
    peak_bytes: int
    """Largest resident memory of this process over all phases; the topology worker's is apart."""
    adapted: str
    adapted_sha256: str

    def document(self) -> dict[str, Any]:
        """The report as JSON types."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}


def environment(runtime: str) -> Environment:
    """This machine and its software."""
    return Environment(
        machine=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        numpy=np.__version__,
        runtime=runtime,
        cpus=os.cpu_count() or 1,
    )


def write_report(report: Report, path: Path) -> None:
    """Write `report.json`, replaced atomically."""
    write_document(report, path, FORMAT, VERSION)


def read_report(folder: Path) -> Report:
    """The report of a finished run. InputError where there is none, or it is damaged."""
    return read_document(Report, folder / "report.json", FORMAT, VERSION)


def render(report: Report) -> str:
    """The report for a terminal."""
    width = max(28, *(len(row.layer) for row in report.selection.table if row.picked))
    criterion = report.settings.criterion
    rows = [f"{'layer':{width}} {'b1':>6} {'|a|':>9} {SCORE_NAMES.get(criterion, 'score'):>10}"]
    for row in report.selection.table:
        if row.picked:
            b1 = "" if row.b1 is None else f"{row.b1:.2f}"
            last = "head" if row is report.selection.table[-1] else ""
            score = last if row.score is None else f"{row.score:.2e}"
            part = "" if row.channels is None else f"  {len(row.channels)} channels"
            rows.append(f"{row.layer:{width}} {b1:>6} {row.activation_size:>9,} {score:>10}{part}")
    if note := obstacle_note([row.layer for row in report.selection.table], report.selection.obstacles):
        rows.append(note)
    rows.append("")
    plan = report.plan
    predicted = {"prefix": plan.prefix_bytes, "train": plan.train_bytes, "evaluate": plan.evaluate_bytes}
    rows.append(f"{'phase':10} {'seconds':>8} {'predicted':>10} {'peak MiB':>9} {'anonymous':>10} {'file':>6}")
    for phase in report.phases:
        sizes = [_shown(size) for size in (phase.peak_bytes, phase.anonymous_bytes, phase.file_bytes)]
        expected = _shown(predicted[phase.name]) if phase.name in predicted else ""
        rows.append(f"{phase.name:10} {phase.seconds:>8.1f} {expected:>10} {sizes[0]:>9} {sizes[1]:>10} {sizes[2]:>6}")
    if over := [row.layer for row in report.selection.table if row.over_budget]:
        rows += ["", f"passed over, for they do not fit the budget: {', '.join(over)}"]
    losses = " → ".join(f"{epoch.loss:.3f}" for epoch in report.epochs)
    rows += [
        "",
        f"train file       {report.train_source} ({report.compile_seconds:.2f} s), "
        f"{report.trained_parameters:,} parameters, {_micro_batches(report)}",
        f"loss by epoch    {losses}",
        f"test accuracy    {report.before.accuracy:.1%} → {report.after.accuracy:.1%} ({report.after.images} images)",
        f"adapted model    {report.adapted}",
    ]
    return "\n".join(rows)


def _shown(size: int | None) -> str:
    return "?" if size is None else f"{size / _MIB:.0f}"


def _micro_batches(report: Report) -> str:
    count, size = report.settings.batch // report.plan.micro_batch, report.plan.micro_batch
    return f"batches of {report.settings.batch} in {count} × {size}"
