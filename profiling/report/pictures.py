"""Pictures of a run: what it cost, what it gained; and of several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from profiling.report.answers import Confusion, accuracy
from profiling.report.drawing import (
    INK,
    LINE,
    MAIN,
    MARK,
    MUTED,
    NARROW,
    PAPER,
    PICK,
    SOFT,
    WIDE,
    canvas,
    short,
)  # fmt: skip
from profiling.report.reading import FinishedRun
from profiling.report.units import seconds

_MIB = 1 << 20


# What it cost ---------------------------------------------------------------------------------------------------------


def memory(run: FinishedRun, wide: bool) -> Figure:
    """By phase: anonymous and file-backed memory, the peak, and what was predicted of it."""
    phases, predicted = run.report.phases, run.predicted
    budget = run.report.settings.budget_bytes
    figure = canvas(WIDE if wide else NARROW, 96 + 27 * len(phases))
    axis = figure.subplots()
    for place, phase in enumerate(phases):
        peak = phase.peak_bytes / _MIB
        if phase.anonymous_bytes is None or phase.file_bytes is None:
            axis.barh(place, peak, height=0.6, color=SOFT)
        else:
            anonymous = phase.anonymous_bytes / _MIB
            axis.barh(place, anonymous, height=0.6, color=MAIN)
            axis.barh(place, phase.file_bytes / _MIB, left=anonymous, height=0.6, color=SOFT)
        axis.plot([peak, peak], [place - 0.4, place + 0.4], "-", color=INK, linewidth=2)
        right, text = peak, f"{peak:.0f}"
        if phase.name in predicted:
            expected = predicted[phase.name] / _MIB
            axis.plot(expected, place, "D", color=MARK, markersize=6)
            right, text = max(peak, expected), f"{peak:.0f}, predicted {expected:.0f}"
        axis.annotate(
            text, (right, place), (8, 0), textcoords="offset points", va="center", fontsize=11,
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    parts = [
        Patch(color=MAIN, label="anonymous (arrays, heap)"),
        Patch(color=SOFT, label="mapped files (weights, libraries)"),
    ]
    entries: list[Any] = [
        *(parts if any(phase.file_bytes is not None for phase in phases) else []),
        Line2D([], [], color=INK, linewidth=2, label="peak, measured"),
        Line2D([], [], marker="D", color="none", markerfacecolor=MARK, markeredgecolor=MARK, label="peak, predicted"),
    ]
    if budget is not None:
        axis.axvline(budget / _MIB, color=PICK, linestyle=(0, (4, 3)))
        entries.append(Line2D([], [], color=PICK, linestyle=(0, (4, 3)), label=f"budget, {budget / _MIB:.0f} MiB"))
    figure.legend(handles=entries, loc="outside upper left", ncols=5 if wide else 1, columnspacing=1.2)
    largest = max([phase.peak_bytes for phase in phases] + list(predicted.values()) + [budget or 0]) / _MIB
    axis.set_xlim(0, largest * (1.2 if wide else 1.55))
    axis.set_xlabel("resident memory, MiB")
    _name_phases(axis, [phase.name for phase in phases])
    return figure


def timeline(run: FinishedRun, wide: bool) -> Figure:
    """Phases from start to end, with the ends of epochs."""
    spans = run.spans
    end = max(span.start_s + span.seconds for span in spans)
    figure = canvas(WIDE if wide else NARROW, 46 + 24 * len(spans))
    axis = figure.subplots()
    for place, span in enumerate(spans):
        axis.barh(place, max(span.seconds, end / 500), left=span.start_s, height=0.6, color=MAIN)
        late = span.start_s + span.seconds > 0.8 * end
        axis.annotate(
            seconds(span.seconds), (span.start_s + (0 if late else span.seconds), place), (-6 if late else 6, 0),
            textcoords="offset points", va="center", ha="right" if late else "left", fontsize=11,
        )  # fmt: skip
        if span.name == "train":
            axis.vlines(run.epoch_ends_s[:-1], place - 0.3, place + 0.3, color=PAPER, linewidth=1.5)
    axis.set_xlim(0, end * 1.01)
    axis.set_xlabel("seconds since the start" if run.on_the_clock else "seconds, phases laid end to end")
    _name_phases(axis, [span.name for span in spans])
    return figure


def _name_phases(axis: Any, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


# What it gained -------------------------------------------------------------------------------------------------------


def learning(run: FinishedRun, wide: bool) -> Figure:
    """The loss by step and by epoch, and test accuracy before and after with its interval."""
    figure = canvas(WIDE if wide else NARROW, 300 if wide else 420)
    if wide:
        loss_axis, accuracy_axis = figure.subplots(1, 2, width_ratios=[3, 2])
    else:
        loss_axis, accuracy_axis = figure.subplots(2, 1, height_ratios=[5, 2])
    _losses(loss_axis, run)
    report = run.report
    shares = [accuracy(report.before), accuracy(report.after)]
    _accuracies(accuracy_axis, ["before", "after"], shares, [SOFT, PICK])
    accuracy_axis.axvline(100 / len(report.classes), color=MUTED, linestyle=(0, (2, 2)), linewidth=1)
    accuracy_axis.set_title("test accuracy, %; dotted: guessing")
    return figure


def _losses(axis: Any, run: FinishedRun) -> None:
    epochs, steps = run.report.epochs, run.report.step_losses
    if steps:
        axis.plot(np.arange(1, len(steps) + 1) * len(epochs) / len(steps), steps, color=MAIN, linewidth=1.3)
    for epoch in epochs:
        axis.plot([epoch.number - 1, epoch.number], [epoch.loss] * 2, color=PICK, linewidth=2)
        if len(epochs) <= 8:
            axis.text(
                epoch.number - 0.5, 0.98, f"{epoch.loss:.2f}", ha="center", va="top", color=PICK, fontsize=11,
                transform=axis.get_xaxis_transform(),
            )  # fmt: skip
    axis.set_title("training loss: steps, means of epochs")
    axis.set_xlabel("epochs")
    axis.set_xlim(0, len(epochs))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylim(0, 1.15 * axis.get_ylim()[1])
    axis.grid(axis="y")
    axis.tick_params(axis="y", labelcolor=MUTED, labelsize=11)


def _accuracies(axis: Any, names: Sequence[str], shares: Sequence[Any], colours: Sequence[str]) -> None:
    for place, (share, colour) in enumerate(zip(shares, colours, strict=True)):
        low, high = (100 * end for end in share.interval)
        value = 100 * share.value
        axis.barh(place, value, height=0.55, color=colour)
        reach = [[max(0.0, value - low)], [max(0.0, high - value)]]
        axis.errorbar(value, place, xerr=reach, color=INK, capsize=3, linewidth=1.5)
        axis.annotate(f"{value:.1f} %", (high, place), (6, 0), textcoords="offset points", va="center", fontsize=11)
    axis.set_xlim(0, 125)
    axis.set_xticks(range(0, 101, 25))
    _name_phases(axis, names)


def confusion(run: FinishedRun, matrix: Any, wide: bool) -> Figure:
    """Test images by class and answer, the shade by the share of the class."""
    names = [short(name, 18 if wide else 12 if len(matrix) <= 12 else 8) for name in run.report.classes]
    longest = max(map(len, names))
    beside = 26 + 6.5 * longest
    below = beside if longest > 2 else 40
    cell = min(46.0, ((760 if wide else NARROW - 8) - beside) / len(names))
    figure = canvas(beside + cell * len(names) + 8, below + cell * len(names) + 8)
    axis = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    for label, answer in np.argwhere(matrix).tolist():
        share = shares[label, answer]
        colour = MAIN if label == answer else PICK
        axis.barh(label, 1, left=answer - 0.5, height=1, color=colour, alpha=0.15 + 0.85 * share, linewidth=0)
        axis.text(
            answer, label, str(matrix[label, answer]), ha="center", va="center", fontsize=min(12, 0.6 * cell),
            color=PAPER if share > 0.5 else INK,
        )  # fmt: skip
    places = range(len(names))
    axis.set_xticks(places, names, rotation=90 if longest > 2 else 0, color=INK)
    axis.set_yticks(places, names)
    axis.tick_params(length=0, labelsize=min(11, max(8, 0.8 * cell)))
    axis.set_xlim(-0.5, len(names) - 0.5)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlabel("answer")
    axis.set_ylabel("true class")
    axis.grid(False)
    axis.hlines([place + 0.5 for place in places], -0.5, len(names) - 0.5, color=LINE, linewidth=0.8)
    axis.vlines([place + 0.5 for place in places], -0.5, len(names) - 0.5, color=LINE, linewidth=0.8)
    return figure


def confused_pairs(run: FinishedRun, pairs: Sequence[Confusion], wide: bool) -> Figure:
    """Pairs of classes, most images first."""
    longest = 26 if wide else 11
    classes = [short(name, longest) for name in run.report.classes]
    figure = canvas(WIDE if wide else NARROW, 46 + 22 * len(pairs))
    axis = figure.subplots()
    axis.barh(range(len(pairs)), [pair.share.count for pair in pairs], height=0.65, color=PICK)
    for place, pair in enumerate(pairs):
        text = f"{pair.share.count} of {pair.share.of}"
        axis.annotate(text, (pair.share.count, place), (6, 0), textcoords="offset points", va="center", fontsize=11)
    axis.set_xlim(0, max(pair.share.count for pair in pairs) * (1.15 if wide else 1.4))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("test images so answered")
    _name_phases(axis, [f"{classes[pair.label]} → {classes[pair.answer]}" for pair in pairs])
    return figure


# Several runs ---------------------------------------------------------------------------------------------------------


def comparison(runs: Sequence[FinishedRun], wide: bool) -> Figure:
    """Accuracy, peak memory and time of each run."""
    height = 22 * len(runs)
    figure = canvas(WIDE if wide else NARROW, 60 + height if wide else 3 * (50 + height))
    axes = figure.subplots(1, 3, sharey=True) if wide else figure.subplots(3, 1)
    names = [short(run.name, 22 if wide else 16) for run in runs]
    places = range(len(runs))
    _accuracies(axes[0], names, [accuracy(run.report.after) for run in runs], [PICK] * len(runs))
    axes[0].set_title("test accuracy after, %")
    peaks = [run.report.peak_bytes / _MIB for run in runs]
    for axis, title, values, shown in (
        (axes[1], "peak memory, MiB", peaks, [f"{peak:.0f}" for peak in peaks]),
        (axes[2], "time, seconds", [run.seconds for run in runs], [seconds(run.seconds) for run in runs]),
    ):
        axis.barh(places, values, height=0.55, color=MAIN)
        for place, value, text in zip(places, values, shown, strict=True):
            axis.annotate(text, (value, place), (6, 0), textcoords="offset points", va="center", fontsize=11)
        axis.set_xlim(0, max(values) * 1.3)
        axis.set_title(title)
        _name_phases(axis, names)
    return figure
