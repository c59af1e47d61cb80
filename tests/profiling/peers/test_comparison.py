from __future__ import annotations

import json
from pathlib import Path

import pytest

from ondevice.report import FORMAT, VERSION
from profiling.peers.command import trained_by
from profiling.peers.comparison import disagreement, ratio, render, rows
from profiling.peers.measurement import Measurement
from signatures.errors import InputError, UsageError

MIB = 1 << 20


def measurement(
    framework: str, later: float, once: float, peak: int, losses: tuple[float, ...] = (2.0,) * 8
) -> Measurement:
    steps = (later, later * 1.5, later * 0.5, later, later)
    return Measurement(framework, "", losses, once, steps, 4, 10 * MIB, peak * MIB)


def test_the_first_epoch_carries_its_part_of_what_is_done_once() -> None:
    one = measurement("ours", 0.2, 0.4, 50)
    assert one.later_s == pytest.approx(0.2)
    assert one.first_s == pytest.approx(0.3)
    assert one.added_bytes == 40 * MIB


def test_ratios_are_formed_within_a_repeat() -> None:
    # The machine is three times slower in the second repeat: no ratio shows it.
    found = ratio([1.0, 3.0, 1.2], [2.0, 6.0, 2.0])
    assert (found.median, found.smallest, found.largest) == pytest.approx((0.5, 0.5, 0.6))
    assert str(found) == "0.50 (0.50–0.60)"
    assert str(ratio([0.001], [1.0])) == "0.001 (0.001–0.001)"


def test_rows() -> None:
    ours = [measurement("ours", s, 0.4, 50) for s in (0.2, 0.3, 0.1)]
    theirs = [measurement("theirs", s, 0.0, 100) for s in (0.4, 0.5, 0.4)]
    first, second = rows(ours, [theirs])
    assert first.later is None
    assert (first.later_s, first.first_s, first.peak_bytes) == pytest.approx((0.2, 0.3, 50 * MIB))
    assert second.later is not None
    assert second.first is not None
    assert second.peak is not None
    assert (second.later.smallest, second.later.median, second.later.largest) == pytest.approx((0.25, 0.5, 0.6))
    assert second.first.median == pytest.approx(0.75)
    assert second.peak.median == pytest.approx(0.5)
    assert second.added_bytes == 90 * MIB


def test_disagreement_looks_at_the_first_steps() -> None:
    ours = measurement("ours", 1.0, 0.0, 50, (2.0, 2.0, 2.0, 2.0, 2.0, 2.0))
    theirs = measurement("theirs", 1.0, 0.0, 50, (2.0, 2.0, 2.002, 2.0, 2.0, 9.0))
    assert disagreement(ours, theirs) == pytest.approx(1e-3)


def test_the_table_fits_a_terminal() -> None:
    one = measurement("ai-edge-litert 2.3.0", 0.05, 0.4, 1500)
    other = measurement("TensorFlow 2.21.0", 12.5, 0.0, 1500)
    table = render("title", rows([one], [[other]]), ["remark"]).splitlines()
    assert [line.split()[0] for line in (table[0], table[-1])] == ["title", "remark"]
    assert "0.0500" in table[3]
    assert table[4].endswith("1.00 (1.00–1.00)")
    assert max(map(len, table)) <= 120


def run(folder: Path, criterion: str = "betti", channels: list[int] | None = None) -> Path:
    """A run folder, as far as it matters here."""
    table = [{"layer": "a", "picked": True, "channels": channels}, {"layer": "b", "picked": False}]
    report = {
        "format": FORMAT, "version": VERSION, "classes": ["red", "green"], "plan": {"micro_batch": 4},
        "settings": {"batch": 8, "criterion": criterion},
        "selection": {"table": [*table, {"layer": "head", "picked": True}]},
    }  # fmt: skip
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_what_a_run_trained(tmp_path: Path) -> None:
    assert trained_by(run(tmp_path)) == ("a", "head")


def test_runs_that_trained_no_whole_layers(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="whole layers"):
        trained_by(run(tmp_path, "bias"))
    with pytest.raises(UsageError, match="whole layers"):
        trained_by(run(tmp_path, channels=[0, 1]))


@pytest.mark.parametrize("text", [None, "[", "{}"])
def test_a_run_without_a_report(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    with pytest.raises(InputError, match=r"report\.json"):
        trained_by(tmp_path)
