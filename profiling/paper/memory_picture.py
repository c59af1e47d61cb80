"""The picture of peak memory by network: measured bars filled, the paper's formula hatched, published values a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from profiling.paper.memory import ADABET, FORMULA, FULL, INFERENCE, KINDS, MB, MEASURED, PUBLISHED_BAR, Bar
from profiling.pictures import BLUE, GREY, ORANGE, WIDTH

_COLOURS = {INFERENCE: GREY, ADABET: BLUE, FULL: ORANGE}
_BAR, _GAP = 0.8, 0.9
"""Width of a bar, and the space between networks, where two bars stand 1 apart."""


def memory_picture(bars: Sequence[Bar]) -> Any:
    """A group of bars for each network; to be called within `pictures.drawing`."""
    figure, axis = plt.subplots(figsize=(WIDTH, 6.2), layout="constrained")
    ticks, start = {}, 0.0
    for network in dict.fromkeys(bar.network for bar in bars):
        of_network = [bar for bar in bars if bar.network == network]
        slots = _slots(of_network)
        for bar in of_network:
            alone = bar.source == PUBLISHED_BAR and not any(_is_formula_of(bar, other) for other in of_network)
            _draw(axis, bar, start + slots.index(_slot(bar)), alone)
        ticks[network] = start + (len(slots) - 1) / 2
        start += len(slots) + _GAP
    axis.set_xticks(list(ticks.values()), list(ticks), fontsize=12)
    axis.tick_params(axis="x", length=0)
    axis.grid(visible=False, axis="x")
    axis.set_xlim(-0.7, start - _GAP - 0.3)
    axis.margins(y=0.08)
    axis.set_ylabel("peak memory in MB (10⁶ bytes)", fontsize=11)
    figure.legend(handles=_legend(bars), fontsize=11, frameon=False, ncols=3, loc="outside lower center")
    measured = any(bar.source == MEASURED for bar in bars)
    figure.suptitle(
        "Peak memory of whole processes, and by the formula of arXiv 2510.03101"
        if measured
        else "Peak memory by the formula of arXiv 2510.03101: nothing here is measured",
        fontsize=13,
    )
    return figure


def _slot(bar: Bar) -> tuple[bool, int]:
    """What is published stands where the formula does; what is measured before both."""
    return bar.source != MEASURED, KINDS.index(bar.kind)


def _slots(bars: Sequence[Bar]) -> list[tuple[bool, int]]:
    return sorted({_slot(bar) for bar in bars})


def _is_formula_of(published: Bar, other: Bar) -> bool:
    return (other.source, other.kind) == (FORMULA, published.kind)


def _draw(axis: Any, bar: Bar, place: float, alone: bool) -> None:
    """`alone`: what is published lies on no bar, and says by itself what it is."""
    size, colour = bar.peak_bytes / MB, _COLOURS[bar.kind]
    if bar.source == PUBLISHED_BAR:
        axis.hlines(size, place - _BAR / 2, place + _BAR / 2, color=colour if alone else "black", linewidth=2.5)
    else:
        hatched = {"color": "white", "edgecolor": colour, "hatch": "////", "linewidth": 1.2}
        axis.bar(place, size, _BAR, **(hatched if bar.source == FORMULA else {"color": colour}))
    if bar.source != PUBLISHED_BAR or alone:
        axis.annotate(
            f"{size:,.0f}", (place, size), xytext=(0, 4), textcoords="offset points", ha="center", fontsize=10
        )


def _legend(bars: Sequence[Bar]) -> list[Any]:
    kinds = [kind for kind in KINDS if any(bar.kind == kind for bar in bars)]
    handles: list[Any] = [Patch(color=_COLOURS[kind], label=kind) for kind in kinds]
    sources = {bar.source for bar in bars}
    if MEASURED in sources:
        handles.append(Patch(color="#444444", label="filled: measured"))
    if FORMULA in sources:
        handles.append(Patch(facecolor="white", edgecolor="#444444", hatch="////", label="hatched: paper's formula"))
    if PUBLISHED_BAR in sources:
        handles.append(Line2D([], [], color="black", linewidth=2.5, label="line: as published"))
    return handles
