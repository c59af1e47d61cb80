"""The picture shows what the timeline holds: boxes where they belong, the peak, the parts."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from profiling.ops.lifetime_picture import lifetime_picture
from profiling.ops.lifetimes import WORKSPACE, Timeline, timeline
from profiling.pictures import drawing
from signatures.layers import find_layers
from signatures.memory import Footprint, footprint
from signatures.micro_batches import suffix_model
from signatures.subset import Subset
from signatures.xnnpack import LITERT
from tests.end_to_end import tiny

MIB = 1 << 20


@pytest.fixture(scope="module")
def drawn() -> tuple[Timeline, Footprint, Figure]:
    network = tiny.source().graph
    model = suffix_model(network, Subset(find_layers(network)), 4, 8)
    (signature,) = model.signatures
    lived, predicted = timeline(signature, LITERT), footprint(model, [signature.name], LITERT)
    with drawing():
        figure = lifetime_picture(lived, predicted, "tiny, all layers " * 20)
        FigureCanvasAgg(figure).draw()
    return lived, predicted, figure


def boxes(axis: Any) -> list[tuple[float, float, float, float]]:
    """Left, right, low, high of the rectangles of an axis."""
    (collection,) = axis.collections
    extents = [path.get_extents() for path in collection.get_paths()]
    return [(box.x0, box.x1, box.y0, box.y1) for box in extents]


def test_every_value_is_a_box_in_its_place(drawn: tuple[Timeline, Footprint, Figure]) -> None:
    lived, predicted, figure = drawn
    place = figure.axes[3]
    expected = []
    for value in lived.values:
        low = value.place + (predicted.arena_bytes if value.space == WORKSPACE else 0)
        expected.append((value.born, value.dies + 1, low / MIB, (low + value.n_bytes) / MIB))
    assert boxes(place) == [pytest.approx(box) for box in expected]
    assert place.get_xlim() == (0, len(lived.ops))
    assert place.get_ylim() == pytest.approx((0, (predicted.arena_bytes + predicted.workspace_bytes) / MIB))


def test_the_peak_is_marked(drawn: tuple[Timeline, Footprint, Figure]) -> None:
    lived, _, figure = drawn
    for axis in (figure.axes[0], figure.axes[3]):
        assert lived.peak_step + 0.5 in [line.get_xdata()[0] for line in axis.lines]
    (note,) = (text.get_text() for text in figure.axes[0].texts)
    assert f"step {lived.peak_step}, {lived.ops[lived.peak_step].kind}" in note


def test_strips_cover_all_steps_without_a_gap(drawn: tuple[Timeline, Footprint, Figure]) -> None:
    lived, _, figure = drawn
    for axis in figure.axes[1:3]:
        strip = boxes(axis)
        assert [left for left, *_ in strip] == [0, *(right for _, right, *_ in strip[:-1])]
        assert strip[-1][1] == len(lived.ops)
    assert len(boxes(figure.axes[2])) == len(lived.spans)


def test_it_is_1600_dots_wide_and_text_stays_inside(drawn: tuple[Timeline, Footprint, Figure]) -> None:
    _, _, figure = drawn
    assert round(figure.get_figwidth() * 150) == 1600
    width, height = figure.canvas.get_width_height()
    texts = [*figure.texts, *(text for axis in figure.axes for text in axis.texts), *figure.legends[0].get_texts()]
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
