"""Run folders as a finished adaptation leaves them, of a small network, for what reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ondevice.evaluate import Evaluation
from ondevice.meter import PhaseMemory
from ondevice.planning import Cost
from ondevice.report import Environment, Report, Settings, TopologyNote, write_report
from ondevice.selection import Ranked, Selection
from ondevice.training import Epoch

MIB = 1 << 20
PHASES = ("open", "probe", "rank", "plan", "compile", "before", "prefix", "train", "export", "evaluate")
TABLE = (
    Ranked("stem", 2.5, (2, 3), 2048, 2.5 / 2048, False),
    Ranked("expand", 3.0, (4, 2), 4096, 3.0 / 4096, False),
    Ranked("project", 4.0, (4, 4), 512, 4.0 / 512, True),
    Ranked("head", None, (), 3, None, True),
)


def evaluation(labels: Sequence[int], predicted: Sequence[int]) -> Evaluation:
    right = sum(label == answer for label, answer in zip(labels, predicted, strict=True))
    return Evaluation(right / len(labels), 1.25, len(labels), tuple(predicted))


def report(
    classes: Sequence[str] = ("cat", "dog", "bird"),
    labels: Sequence[int] = (0, 1, 2) * 10,
    before: Sequence[int] = (0, 0, 0) * 10,
    after: Sequence[int] = (0, 1, 2) * 8 + (0, 1, 1) * 2,
    table: Sequence[Ranked] = TABLE,
    **settings: Any,
) -> Report:
    """A report of a run by betti, or by the criterion in `settings`."""
    asked = Settings(
        bundle="bundle", data="pets", criterion="betti", rho=0.25, rho_channels=None, epochs=2, batch=8,
        learning_rate=0.01, optimizer="sgd", weight_decay=0.0, seed=0, threads=2, mirror=False, replay="float32",
        budget_bytes=None, budget_s=None,
    )  # fmt: skip
    asked = replace(asked, **settings)
    return Report(
        settings=asked,
        environment=Environment("aarch64", "Linux 6.1", "3.11.7", "2.1.0", "ai-edge-litert 2.3.0", 4),
        network="tiny",
        weights="random",
        dataset=f"pets: 48 training and {len(labels)} test images of 16×16, {len(classes)} classes",
        dataset_fingerprint="ab" * 32,
        classes=tuple(classes),
        test_labels=tuple(labels),
        selection=Selection(asked.criterion, asked.rho, tuple(table)),
        topology=TopologyNote("numpy", 0.01, None, "two matrices"),
        plan=Cost(("project", "head"), 4, 2, 70 * MIB, 90 * MIB, 50 * MIB, 12 * MIB, 1_500_000, 3_000_000),
        train_source="compiled",
        compile_seconds=0.0625,
        trained_parameters=1234,
        before=evaluation(labels, before),
        after=evaluation(labels, after),
        epochs=(Epoch(1, 0.875, 1.5), Epoch(2, 0.5, 1.25)),
        step_losses=(1.0, 0.75, 0.5, 0.5),
        phases=tuple(
            PhaseMemory(name, 1.0 + place, (40 + 8 * place) * MIB, (10 + 8 * place) * MIB, 30 * MIB, True)
            for place, name in enumerate(PHASES)
        ),
        peak_bytes=112 * MIB,
        adapted="run/adapted.tflite",
        adapted_sha256="cd" * 32,
    )


def events(phases: Sequence[str] = PHASES, pause_s: float = 0.5) -> list[dict[str, Any]]:
    """What a run logs: each phase takes a second more than the last, with a pause before it."""
    lines: list[dict[str, Any]] = []
    now = 0.0
    for place, name in enumerate(phases):
        now += pause_s
        lines.append({"t_s": now, "phase": name, "event": "start"})
        if name == "train":
            lines.append({"t_s": now + 2, "phase": name, "event": "epoch", "number": 1, "loss": 0.875, "seconds": 1.5})
        now += 1.0 + place
        lines.append({"t_s": now, "phase": name, "event": "end", "duration_s": 1.0 + place, "completed": True})
    return [*lines, {"t_s": now, "phase": None, "event": "done", "accuracy": 0.9}]


def write_run(folder: Path, made: Report | None = None, logged: Sequence[dict[str, Any]] | None = None) -> Path:
    """A run folder with the two files that the page reads."""
    folder.mkdir(parents=True)
    write_report(made or report(), folder / "report.json")
    lines = (json.dumps(event) + "\n" for event in (events() if logged is None else logged))
    (folder / "events.jsonl").write_text("".join(lines))
    return folder
