"""The picture of a graph's memory: every value of arena and workspace as a box, from birth to death, at its place.

Steps go to the right and bytes up, so that a box has the width of a value's life and the height of its bytes, and gaps
are what the planner could not use. What is there all the time is named above.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from profiling.ops.lifetimes import ARENA, ARGUMENT, SCRATCH, WORKSPACE, Timeline, Value
from profiling.ops.roles import FORWARD, LOSS, TO_INPUT, TO_WEIGHT, UPDATE, Role
from profiling.pictures import BLUE, GREEN, ORANGE, PURPLE, RED
from signatures.arenas import ALIGNMENT
from signatures.memory import Footprint

_WIDTH, _HEIGHT = 32 / 3, 7.2
"""Inches: 1600 dots wide at 150 dots an inch."""
_STAGE = {
    ARGUMENT: "#bdbdbd",
    FORWARD: BLUE,
    LOSS: PURPLE,
    TO_INPUT: ORANGE,
    TO_WEIGHT: GREEN,
    UPDATE: ORANGE,
    SCRATCH: "#d8c3a5",
}
_DELEGATED, _BUILTIN = ("#8fb8c6", "#b9d4dd"), "#4a4a4a"
"""Of neighbouring parts that XNNPACK runs, in turn; of what builtin kernels run."""
_ARENA_ALIVE, _WORKSPACE_ALIVE = "#84939c", "#bcc8cf"
_MOST_LABELS = 80
_LETTER, _LINE = 0.0054, 0.021
"""A letter's width and a line's height in boxes, as fractions of the map."""
_TITLE = 150
"""Letters in a line of the title."""
_TICK = 0.0118
"""Least distance of two layers' names, as a fraction of the map's width."""
_MIB = 1 << 20


def lifetime_picture(timeline: Timeline, footprint: Footprint, title: str) -> Figure:
    """The picture of a timeline, and of what `footprint` says is there beside it; drawn within `pictures.drawing`."""
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    curve, stages, runners, place = figure.subplots(
        4, 1, sharex=True, gridspec_kw={"height_ratios": [2.2, 0.4, 0.4, 13]}
    )
    _draw_curve(curve, timeline)
    _draw_strip(stages, "stage", [(*span, _STAGE[stage]) for span, stage in _runs([r.stage for r in timeline.roles])])
    shades = [_DELEGATED[i % 2] if taken else _BUILTIN for i, (_, _, taken) in enumerate(timeline.spans)]
    _draw_strip(runners, "kernels", [(*span[:2], shade) for span, shade in zip(timeline.spans, shades, strict=True)])
    _draw_places(place, timeline, footprint)
    _name_layers(place, timeline.roles)
    for axis in (curve, place):
        axis.axvline(timeline.peak_step + 0.5, color=RED, linewidth=1, linestyle=(0, (4, 2)), zorder=3)
    heading = textwrap.fill(title, _TITLE)
    figure.suptitle(f"{heading}\n{_always(footprint)}", fontsize=9, x=0.01, ha="left")
    figure.legend(handles=_legend(timeline), loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return figure


def _draw_curve(axis: Any, timeline: Timeline) -> None:
    """Bytes alive at each step."""
    arena, both = timeline.live_bytes(ARENA) / _MIB, timeline.live_bytes() / _MIB
    edges = np.arange(len(both) + 1)
    axis.stairs(both, edges, fill=True, color=_WORKSPACE_ALIVE)
    axis.stairs(arena, edges, fill=True, color=_ARENA_ALIVE)
    axis.grid(visible=False, axis="x")
    axis.tick_params(bottom=False)
    axis.set_ylim(0, max(both.max(initial=0), 1e-6) * 1.45)
    axis.set_ylabel("alive\nMiB")
    if len(both):
        step = timeline.peak_step
        role = timeline.roles[step]
        of_layer = f" of {role.layer}" if role.layer else ""
        text = f"peak: {both[step]:.1f} MiB at step {step}, {timeline.ops[step].kind}, {role.stage}{of_layer}"
        right = step > len(both) / 2
        axis.annotate(
            text, (step + 0.5, both[step]), (-6 if right else 6, 6), textcoords="offset points",
            ha="right" if right else "left", color=RED, fontsize=8.5,
        )  # fmt: skip


def _draw_strip(axis: Any, name: str, spans: Sequence[tuple[int, int, str]]) -> None:
    axis.add_collection(
        PatchCollection(
            [Rectangle((first, 0), end - first, 1) for first, end, _ in spans], facecolors=[c for _, _, c in spans]
        )
    )
    axis.set_ylim(0, 1)
    axis.set_yticks([])
    axis.grid(visible=False)
    axis.set_ylabel(name, rotation=0, ha="right", va="center")
    axis.spines[:].set_visible(False)
    axis.tick_params(bottom=False)


def _draw_places(axis: Any, timeline: Timeline, footprint: Footprint) -> None:
    """The map: the arena, and above it the workspace."""
    steps = len(timeline.ops)
    base = {ARENA: 0, WORKSPACE: footprint.arena_bytes}
    top = max(1, footprint.arena_bytes + footprint.workspace_bytes)
    boxes = [(value, base[value.space] + value.place) for value in timeline.values]
    axis.add_collection(
        PatchCollection(
            [Rectangle((v.born, at / _MIB), v.dies + 1 - v.born, v.n_bytes / _MIB) for v, at in boxes],
            facecolors=[_STAGE[value.stage] for value, _ in boxes],
            edgecolors="white",
            linewidths=0.4 if len(boxes) < 400 else 0.15,
        )
    )
    _label_boxes(axis, boxes, steps, top)
    _name_spaces(
        axis,
        {"arena": (0, footprint.arena_bytes), "XNNPACK's\nworkspace": (base[WORKSPACE], footprint.workspace_bytes)},
        top,
    )
    axis.set_xlim(0, max(1, steps))
    axis.set_ylim(0, top / _MIB)
    axis.set_ylabel("MiB")
    axis.grid(visible=False)


def _label_boxes(axis: Any, boxes: Sequence[tuple[Value, int]], steps: int, top: int) -> None:
    """Names of the largest values, where there is room. Those of one life that lie on one another are named as one."""
    stacks: list[list[tuple[Value, int]]] = []
    for value, at in sorted(boxes, key=lambda box: (box[0].born, box[0].dies, box[0].stage, box[0].layer, box[1])):
        below, place = stacks[-1][-1] if stacks else (None, 0)
        if below is not None and _alike(below, value) and at - (place + below.n_bytes) < ALIGNMENT:
            stacks[-1].append((value, at))
        else:
            stacks.append([(value, at)])
    stacks.sort(key=lambda stack: -sum(v.n_bytes for v, _ in stack) * (stack[0][0].dies + 1 - stack[0][0].born))
    for stack in stacks[:_MOST_LABELS]:
        (first, low), (last, high) = stack[0], stack[-1]
        width, height = (first.dies + 1 - first.born) / steps, (high + last.n_bytes - low) / top
        text = next((text for text in _texts([v for v, _ in stack]) if (len(text) + 2) * _LETTER < width), None)
        if text is not None and height > _LINE:
            axis.text(
                first.born + 0.004 * steps, (low + high + last.n_bytes) / 2 / _MIB, text, fontsize=6.5, va="center",
                color="black" if first.stage in (ARGUMENT, SCRATCH) else "white", zorder=4, clip_on=True,
            )  # fmt: skip


def _alike(one: Value, other: Value) -> bool:
    return (one.born, one.dies, one.stage, one.layer) == (other.born, other.dies, other.stage, other.layer)


def _texts(values: Sequence[Value]) -> list[str]:
    """What a stack of values may be called, the longest first."""
    value, size = values[0], f"{sum(value.n_bytes for value in values) / _MIB:.1f} MiB"
    name = value.names[0] if value.names else "a kernel's own"
    if len(values) > 1:
        what = "arguments" if value.stage == ARGUMENT else "values"
        of_layer = f"{value.layer}: " if value.layer else ""
        many = f"{len(values)} {what}"
        return [f"{text}  {size}" for text in (f"{of_layer}{many}, {name} …", f"{of_layer}{many}", many)]
    owned = name if not value.layer or name.startswith(value.layer) else f"{value.layer}: {name}"
    return [f"{owned}  {list(value.shape)}  {size}", f"{owned}  {size}", owned, name]


def _name_spaces(axis: Any, spaces: dict[str, tuple[int, int]], top: int) -> None:
    """What lies where, at the right edge; a space that is too low for its name has it above the one before."""
    free = 0.0
    for name, (low, size) in spaces.items():
        if size:
            axis.axhline(low / _MIB, color="black", linewidth=0.8, zorder=3)
            middle = max((low + size / 2) / top, free + 0.035)
            free = middle + 0.035
            axis.text(
                1.008, middle, f"{name}\n{size / _MIB:.1f} MiB", transform=axis.transAxes, fontsize=8, va="center"
            )


def _always(footprint: Footprint) -> str:
    """What is there from first to last."""
    sizes = {
        "weights packed by XNNPACK": footprint.packed_bytes,
        "operands packed by builtin kernels": footprint.operand_bytes,
        "variables": footprint.variable_bytes,
        "interpreter": footprint.interpreter_bytes,
        "model file": footprint.read_again_bytes,
        "code": footprint.code_bytes,
    }
    named = [f"{name} {size / _MIB:.1f}" for name, size in sizes.items() if size >= _MIB / 20]
    return f"not drawn, for it is there all the time, in MiB: {', '.join(named)}"


def _name_layers(axis: Any, roles: Sequence[Role]) -> None:
    """Layers below the steps where they start, as far as there is room."""
    ticks: list[float] = []
    for (first, end), (layer, stage) in _runs([(role.layer, role.stage) for role in roles]):
        at = (first + end) / 2
        if layer and (not ticks or at - ticks[-1] >= _TICK * len(roles)):
            ticks.append(at)
            axis.text(
                at, -0.012, layer if len(layer) <= 22 else f"…{layer[-21:]}", color=_STAGE[stage], rotation=90,
                fontsize=6.5, ha="center", va="top", transform=axis.get_xaxis_transform(),
            )  # fmt: skip
    axis.set_xticks(ticks)
    axis.tick_params(axis="x", labelbottom=False, length=2)


def _runs(labels: Sequence[Any]) -> list[tuple[tuple[int, int], Any]]:
    """Neighbours that are alike: (first step, the one behind the last) and what they have in common."""
    found, first = [], 0
    for label, group in groupby(labels):
        end = first + len(list(group))
        found.append(((first, end), label))
        first = end
    return found


def _legend(timeline: Timeline) -> list[Patch]:
    used = {role.stage for role in timeline.roles} | {value.stage for value in timeline.values}
    handles = [Patch(color=colour, label=stage) for stage, colour in _STAGE.items() if stage in used]
    kernels = {True: ("run by XNNPACK", _DELEGATED[0]), False: ("run by builtin kernels", _BUILTIN)}
    others = [kernels[taken] for taken in (True, False) if any(span[2] is taken for span in timeline.spans)]
    others += [("alive in the arena", _ARENA_ALIVE), ("alive in the workspace", _WORKSPACE_ALIVE)]
    return [*handles, *(Patch(color=colour, label=name) for name, colour in others)]
