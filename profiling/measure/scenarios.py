"""Scenarios: what can be measured, each the command of a fresh process and how to read what it prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from ondevice.ranking import CRITERIA, CRITERION
from profiling.peers.child import FRAMEWORKS
from profiling.peers.measurement import measurement_of


@dataclass(frozen=True)
class Reading:
    """What a process told: metrics as in `profiling.measure.metrics`, and what it did, in words."""

    metrics: dict[str, float]
    outcome: dict[str, str]


@dataclass(frozen=True)
class Scenario:
    """One thing to measure."""

    what: str
    needs: tuple[str, ...]
    """Of bundle, data and model."""
    metrics: tuple[str, ...]
    """What comes out; `seconds` and `cpu_seconds` are taken from outside, all else is read."""
    command: tuple[str, ...]
    """What Python gets; {bundle}, {data}, {model}, {threads} and {problem} stand for what is given, {run} for a folder
    that the process may make. The last line of its stdout is a JSON object."""
    read: Callable[[Mapping[str, Any]], Reading]
    """That object. Raises ValueError, LookupError or TypeError where it is not what it should be."""
    of_adapt: bool = False
    """Whether it is `ondevice.adapt`, which takes the user's further arguments."""


def _of_report(report: Mapping[str, Any]) -> Reading:
    metrics: dict[str, float] = {
        "epoch_seconds": median(epoch["seconds"] for epoch in report["epochs"]),
        "peak_bytes": report["peak_bytes"],
        "accuracy": report["after"]["accuracy"],
        "trained_parameters": report["trained_parameters"],
    }
    topology = report["topology"]
    if topology is not None and topology["worker_peak_bytes"] is not None:
        metrics["worker_peak_bytes"] = topology["worker_peak_bytes"]
    for phase in report["phases"]:
        metrics[f"seconds:{phase['name']}"] = phase["seconds"]
        if phase["reset"]:  # else it is not the phase's own
            metrics[f"peak_bytes:{phase['name']}"] = phase["peak_bytes"]
    outcome = {"layers": _picked(report), "train file": report["train_source"]}
    return Reading(metrics, outcome if topology is None else {**outcome, "b1": topology["engine"]})


def _of_outline(outline: Mapping[str, Any]) -> Reading:
    return Reading({}, {"layers": _picked(outline)})


def _picked(document: Mapping[str, Any]) -> str:
    return ", ".join(row["layer"] for row in document["selection"]["table"] if row["picked"])


def _of_steps(document: Mapping[str, Any]) -> Reading:
    one = measurement_of(dict(document))
    metrics = {"first_step_seconds": one.first_s, "step_seconds": one.later_s, "peak_bytes": one.peak_bytes}
    return Reading(metrics, {"framework": one.framework, "note": one.note})


def _of_task(document: Mapping[str, Any]) -> Reading:
    return Reading(dict(document["metrics"]), dict(document["outcome"]))


_ADAPT = ("-m", "ondevice.adapt", "{bundle}", "--data", "{data}", "--threads", "{threads}", "--json")
_OF_PHASES = ("seconds:PHASE", "peak_bytes:PHASE")
_WHOLE = ("seconds", "cpu_seconds")
_OF_ADAPT = (*_WHOLE, "epoch_seconds", "peak_bytes", "worker_peak_bytes", "accuracy", "trained_parameters")
_OF_STEPS = ("step_seconds", "first_step_seconds", "peak_bytes")


def _adapt(what: str, *arguments: str) -> Scenario:
    command = (*_ADAPT, "--out", "{run}", *arguments)
    return Scenario(what, ("bundle", "data"), (*_OF_ADAPT, *_OF_PHASES), command, _of_report, of_adapt=True)


def _step(framework: str) -> Scenario:
    what = f"training the layers of the bundle's train file: {framework}"
    return Scenario(what, ("bundle",), _OF_STEPS, ("-m", "profiling.peers.child", framework, "{problem}"), _of_steps)


SCENARIOS = {
    "adapt": _adapt("a whole adaptation, as the arguments behind -- say"),
    **{f"adapt-{name}": _adapt(f"the same with --criterion {name}", "--criterion", name) for name in CRITERIA},
    "dry-run": Scenario(
        "planning alone: adapt --dry-run",
        ("bundle", "data"),
        _WHOLE,
        (*_ADAPT, "--dry-run"),
        _of_outline,
        of_adapt=True,
    ),
    "probe": Scenario(
        f"probing and ranking as for --criterion {CRITERION}",
        ("bundle", "data"),
        (*_WHOLE, "peak_bytes", "worker_peak_bytes", *_OF_PHASES),
        ("-m", "profiling.measure.tasks", "probe", "{threads}", "{bundle}", "{data}"),
        _of_task,
    ),
    "infer": Scenario(
        "calls of a .tflite with one image: --model, or the bundle's",
        ("model",),
        ("call_seconds", "mean_call_seconds", "load_seconds", "peak_bytes"),
        ("-m", "profiling.measure.tasks", "infer", "{threads}", "{model}"),
        _of_task,
    ),
    "import": Scenario(
        "importing ondevice.adapt",
        (),
        (*_WHOLE, "import_seconds", "peak_bytes"),
        ("-m", "profiling.measure.start_up"),
        _of_task,
    ),
    **{f"step-{name}": _step(name) for name in FRAMEWORKS},
}
"""By name."""
