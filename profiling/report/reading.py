"""Finished runs as the page needs them: report.json in full, checked, and the timeline from events.jsonl."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ondevice.meter import PhaseMemory
from ondevice.ranking import NAMED, SCORE_NAMES, WITHOUT_RHO
from ondevice.report import Report
from ondevice.selection import Ranked
from ondevice.show import read_document
from signatures.errors import InputError, UsageError


@dataclass(frozen=True)
class Span:
    """A phase on the clock of the run."""

    name: str
    start_s: float
    seconds: float


@dataclass(frozen=True)
class FinishedRun:
    """A run folder that was read."""

    name: str
    """Short, and unlike those of the runs beside it."""
    folder: Path
    """As it was given."""
    report: Report
    spans: tuple[Span, ...]
    epoch_ends_s: tuple[float, ...]
    """When each epoch ended; empty where the clock is not known."""
    on_the_clock: bool
    """Whether the spans are those of events.jsonl; else the phases of the report are laid end to end."""

    @property
    def head(self) -> Ranked:
        """The last layer."""
        return self.report.selection.table[-1]

    @property
    def body(self) -> tuple[Ranked, ...]:
        """All layers but the head."""
        return self.report.selection.table[:-1]

    @property
    def chosen(self) -> tuple[Ranked, ...]:
        """Layers but the head that trained."""
        return tuple(row for row in self.body if row.picked)

    @property
    def rule(self) -> str:
        """What picked the layers, with its ρ."""
        selection, channels = self.report.selection, self.report.settings.rho_channels
        name = "the layers named" if selection.criterion == NAMED else selection.criterion
        if selection.criterion not in WITHOUT_RHO:
            name += f" at ρ {selection.rho:g}"
        return name if channels is None else f"{name}, channels at ρ {channels:g}"

    @property
    def seconds(self) -> float:
        """All phases together."""
        return sum(phase.seconds for phase in self.report.phases)

    @property
    def data(self) -> str:
        """The dataset's name."""
        return self.report.dataset.rpartition(": ")[0] or self.report.dataset

    @property
    def heaviest(self) -> PhaseMemory:
        """The phase with the largest peak."""
        return max(self.report.phases, key=lambda phase: phase.peak_bytes)

    @property
    def predicted(self) -> dict[str, int]:
        """By phase, the peak that the plan foresaw."""
        plan = self.report.plan
        named = {"prefix": plan.prefix_bytes, "train": plan.train_bytes, "evaluate": plan.evaluate_bytes}
        return {phase.name: named[phase.name] for phase in self.report.phases if phase.name in named}

    @property
    def score_name(self) -> str:
        """What layers are ranked by; empty where that is their order, or b1 itself."""
        criterion = self.report.selection.criterion
        return "" if criterion == "b1" else SCORE_NAMES.get(criterion, "")

    @property
    def threshold(self) -> float | None:
        """The lowest score that was picked; None where it does not part the layers that trained from the others."""
        picked = [row.score for row in self.chosen if row.score is not None]
        others = [row.score for row in self.body if row.score is not None and not row.picked]
        return min(picked) if picked and 0 < min(picked) >= max(others, default=0.0) else None

    @property
    def knows_answers(self) -> bool:
        """Whether the report holds each test image's class and answers, as older ones do not."""
        return bool(self.report.test_labels)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each test image [images]."""
        return np.array(self.report.test_labels, np.int64)

    @property
    def answers_before(self) -> NDArray[np.int64]:
        """What the network answered to each test image [images] before it trained."""
        return np.array(self.report.before.predicted, np.int64)

    @property
    def answers(self) -> NDArray[np.int64]:
        """What the adapted network answered to each test image [images]."""
        return np.array(self.report.after.predicted, np.int64)


def read_runs(folders: Sequence[Path]) -> tuple[FinishedRun, ...]:
    """Read run folders. InputError where one is none, or damaged; UsageError where one is given twice."""
    names = _short_names(folders)
    return tuple(_finished(name, folder) for name, folder in zip(names, folders, strict=True))


def _finished(name: str, folder: Path) -> FinishedRun:
    path = folder / "report.json"
    document = read_document(folder)
    try:
        _fill_in_older(document)
        report = msgspec.convert(printable(document), Report)
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # msgspec's is a ValueError
        raise InputError(f"{path} is damaged: {error}") from None
    if fault := _fault(report):
        raise InputError(f"{path} is damaged: {fault}")
    on_the_clock = _on_the_clock(folder / "events.jsonl", [phase.name for phase in report.phases])
    spans, epoch_ends_s = on_the_clock or (_end_to_end(report.phases), ())
    return FinishedRun(name, folder, report, spans, epoch_ends_s, on_the_clock is not None)


def _fill_in_older(document: dict[str, Any]) -> None:
    """Fields that reports of the same version lacked once."""
    document.setdefault("test_labels", [])
    document["settings"].setdefault("rho_channels", None)
    for moment in ("before", "after"):
        document[moment].setdefault("predicted", [])


def _fault(report: Report) -> str:
    """What does not go together in a report whose fields all have the right types; empty if everything does."""
    table, labels = report.selection.table, report.test_labels
    if not table or not table[-1].picked or any(row.activation_size < 1 for row in table):
        return "selection.table lacks a head that trains, or a layer has no activations"
    if "train" not in [phase.name for phase in report.phases] or not report.epochs or not report.classes:
        return "it has no phase train, no epochs, or no classes"
    if report.plan.micro_batch < 1:
        return "plan.micro_batch is not positive"
    for name, evaluation in (("before", report.before), ("after", report.after)):
        if not 0.0 <= evaluation.accuracy <= 1.0 or evaluation.images < 1:
            return f"{name} is no accuracy on images"
        if len(evaluation.predicted) != len(labels) or len(labels) not in (0, evaluation.images):
            return f"{name} has {len(evaluation.predicted)} answers to {len(labels)} of {evaluation.images} images"
        if not all(0 <= answer < len(report.classes) for answer in (*labels, *evaluation.predicted)):
            return f"test_labels or {name}.predicted name classes that do not exist"
    return ""


def _end_to_end(phases: Sequence[PhaseMemory]) -> tuple[Span, ...]:
    starts = np.cumsum([0.0, *(phase.seconds for phase in phases)]).tolist()
    return tuple(Span(phase.name, start, phase.seconds) for phase, start in zip(phases, starts, strict=False))


def _on_the_clock(path: Path, phases: Sequence[str]) -> tuple[tuple[Span, ...], tuple[float, ...]] | None:
    """Spans of the phases and ends of the epochs; None unless the file tells of just these phases up to the end: one
    that is missing, damaged, or left by a later run that failed.
    """
    try:
        events = [json.loads(line) for line in path.read_bytes().splitlines()]
        ends = [event for event in events if event["event"] == "end"]
        epochs = tuple(float(event["t_s"]) for event in events if event["event"] == "epoch")
        spans = tuple(
            Span(str(end["phase"]), float(end["t_s"]) - float(end["duration_s"]), float(end["duration_s"]))
            for end in ends
        )
        done = bool(events) and events[-1]["event"] == "done"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return (spans, epochs) if done and [span.name for span in spans] == list(phases) else None


def printable(value: Any) -> Any:
    """JSON without characters that neither HTML nor SVG can hold: control characters, halves of surrogate pairs.

    ValueError where a number is not finite.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"a number is {value}")
    if isinstance(value, str):
        return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in ("Cc", "Cs") else c for c in value)
    if isinstance(value, list):
        return [printable(entry) for entry in value]
    if isinstance(value, dict):
        return {printable(name): printable(entry) for name, entry in value.items()}
    return value


def _short_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths: as many as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise UsageError("the same run is given twice")
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return [printable(name) for name in names]
