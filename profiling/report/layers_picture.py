"""The picture of what was picked and why: all layers from input to output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ondevice.selection import Ranked
from profiling.report.drawing import INK, MARK, MUTED, NARROW, PICK, SOFT, WIDE, canvas, short
from profiling.report.reading import FinishedRun

_ROW = 16
"""Height of a layer's row in CSS pixels."""


def profile(run: FinishedRun, wide: bool) -> Figure:
    """All layers from input to output, a row each: b1 by batch and in the mean, |a|, the score; picks marked."""
    table = run.report.selection.table
    has_b1 = any(row.b1_by_batch for row in table)
    has_scores = bool(run.score_name)
    panels = [_b1_panel] * has_b1 + [_size_panel] * (wide or not (has_b1 and has_scores)) + [_score_panel] * has_scores
    figure = canvas(WIDE if wide else NARROW, (90 if wide else 116) + _ROW * len(table))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, axis in zip(panels, axes, strict=True):
        for place, row in enumerate(table):
            if row.picked:
                axis.axhspan(place - 0.5, place + 0.5, color=PICK, alpha=0.12, linewidth=0)
        panel(axis, run)
        axis.tick_params(axis="y", length=0)
        axis.tick_params(axis="x", top=True, bottom=False, labeltop=True, labelbottom=False)
        axis.spines[["left", "bottom"]].set_visible(False)
    _name_layers(axes[0], run, 26 if wide else 18)
    entries: list[Any] = [Patch(color=PICK, label="trains"), Patch(color=SOFT, label="stays as it was")]
    if has_b1:
        entries.append(
            Line2D(
                [],
                [],
                marker="o",
                color="none",
                markerfacecolor=INK,
                markeredgewidth=0,
                markersize=3,
                label="one batch",
            )
        )
    if any(row.obstacle for row in table):
        entries.append(Line2D([], [], marker="x", color="none", markeredgecolor=MUTED, label="cannot train"))
    if any(row.over_budget for row in table):
        entries.append(Line2D([], [], marker="v", color="none", markeredgecolor=MARK, label="over budget"))
    figure.legend(handles=entries, loc="outside upper left", ncols=5 if wide else 2, columnspacing=1.2)
    return figure


def _b1_panel(axis: Any, run: FinishedRun) -> None:
    """The mean as a bar, each batch as a dot."""
    table = run.report.selection.table
    axis.barh(range(len(table)), [row.b1 or 0 for row in table], height=0.72, color=_colours(table))
    dots = [(b1, place) for place, row in enumerate(table) for b1 in row.b1_by_batch]
    axis.plot(*zip(*dots, strict=True), "o", color=INK, markersize=2.6, markeredgewidth=0, alpha=0.7)
    axis.set_title("b1: loops", pad=4)
    axis.set_xlim(left=0)
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def _size_panel(axis: Any, run: FinishedRun) -> None:
    table = run.report.selection.table
    sizes = [row.activation_size for row in table]
    axis.barh(range(len(table)), sizes, height=0.72, color=_colours(table))
    axis.set_title("|a|: values, log", pad=4)
    _logarithmic(axis, sizes)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))


def _score_panel(axis: Any, run: FinishedRun) -> None:
    """The dashed line is the lowest score that was picked."""
    table = run.report.selection.table
    scored = [(place, row, row.score) for place, row in enumerate(table) if row.score is not None]
    axis.set_title(f"{run.score_name}, log", pad=4)
    _logarithmic(axis, [score for _, _, score in scored])
    axis.xaxis.set_major_formatter(FuncFormatter(lambda score, _: f"{score:.0e}".replace("e-0", "e-")))
    least = axis.get_xlim()[0]
    for colour, picked in ((MUTED, False), (PICK, True)):
        places = [place for place, row, _ in scored if row.picked == picked]
        ends = [max(score, least) for _, row, score in scored if row.picked == picked]
        axis.hlines(places, least, ends, color=colour, linewidth=1, alpha=0.6)
        axis.plot(ends, places, "o", color=colour, markersize=5, clip_on=False)
    if run.threshold is not None:
        axis.axvline(run.threshold, color=PICK, linewidth=1, linestyle=(0, (4, 3)))


def _logarithmic(axis: Any, values: Sequence[float]) -> None:
    """From a little below the smallest value above 0; where all are 0, there is nothing to scale."""
    above = [value for value in values if value > 0]
    if above:
        axis.set_xscale("log")
        axis.set_xlim(min(above) / 2, max(above) * 2)
        axis.xaxis.set_major_locator(LogLocator(numticks=5))
        axis.xaxis.set_minor_locator(NullLocator())


def _name_layers(axis: Any, run: FinishedRun, longest: int) -> None:
    """Names in rows from the top, those that train in colour, with what keeps others from it."""
    table = run.report.selection.table
    axis.set_ylim(len(table) - 0.4, -0.6)
    axis.set_yticks(range(len(table)), [short(row.layer, longest) for row in table], fontsize=11)
    for row, label in zip(table, axis.get_yticklabels(), strict=True):
        label.set_color(PICK if row.picked else MARK if row.over_budget else MUTED if row.obstacle else INK)
        label.set_fontweight("bold" if row.picked else "normal")
    left = axis.get_xlim()[0]
    for place, row in enumerate(table):
        marker = "x" if row.obstacle else "v" if row.over_budget else ""
        if marker:
            axis.plot(left, place, marker, color=MUTED if row.obstacle else MARK, markersize=5, clip_on=False)


def _colours(table: Sequence[Ranked]) -> list[str]:
    return [PICK if row.picked else SOFT for row in table]
