"""What changed between records: intervals, verdicts, and the command with its exit code."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_records import FAILED, MACHINE, record, records, write

from profiling.measure.changes import compare
from profiling.measure.compare import main
from profiling.measure.ratios import LEVEL, Ratio, enough, paired_ratio, ratio_of_medians, verdict

BEFORE = [10.0, 10.1, 9.9, 10.2, 9.8, 10.05, 9.95]
SLOWER = [12.1, 12.0, 12.2, 11.9, 12.3, 12.05, 11.95]


# Statistics -----------------------------------------------------------------------------------------------------------


def median_of_ratios(before: Any, after: Any, axis: int = -1) -> Any:
    return np.median(after / before, axis=axis)


def ratio_of_two_medians(before: Any, after: Any, axis: int = -1) -> Any:
    return np.median(after, axis=axis) / np.median(before, axis=axis)


@pytest.mark.parametrize(
    ("ours", "theirs", "paired"),
    [(paired_ratio, median_of_ratios, True), (ratio_of_medians, ratio_of_two_medians, False)],
)
def test_intervals_are_those_of_scipy(
    ours: Callable[[Sequence[float], Sequence[float]], Ratio], theirs: Callable[..., Any], paired: bool
) -> None:
    bootstrap = pytest.importorskip("scipy.stats").bootstrap
    random = np.random.default_rng(4)
    before, after = random.normal(10, 1, 25), random.normal(11, 1, 25)
    found = ours(before.tolist(), after.tolist())
    expected = bootstrap(
        (before, after), theirs, paired=paired, confidence_level=LEVEL, method="percentile", n_resamples=10_000
    ).confidence_interval
    assert found.value == pytest.approx(theirs(before, after))
    # Both draw at random.
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert found.low < found.value < found.high


def test_the_same_records_give_the_same_interval() -> None:
    assert ratio_of_medians(BEFORE, SLOWER) == ratio_of_medians(BEFORE, SLOWER)


def test_how_many_repeats_can_tell() -> None:
    """Of 2^7 ways in which pairs can fall, one is all worse; of C(10, 5) orders of 5 and 5, one is fully apart."""
    assert [enough(n, paired=True) for n in (6, 7)] == [False, True]
    assert [enough(n, paired=False) for n in (4, 5)] == [False, True]


@pytest.mark.parametrize(
    ("low", "high", "smaller", "larger"),
    [
        (1.06, 1.3, "regression", "improvement"),
        (1.04, 1.3, "unclear", "unclear"),
        (0.97, 1.04, "the same", "the same"),
        (0.8, 0.97, "unclear", "unclear"),
        (0.8, 0.94, "improvement", "regression"),
        (0.5, 2.0, "unclear", "unclear"),
    ],
)
def test_verdicts(low: float, high: float, smaller: str, larger: str) -> None:
    ratio = Ratio((low + high) / 2, low, high)
    assert verdict(ratio, "smaller", 1.05) == smaller
    assert verdict(ratio, "larger", 1.05) == larger
    assert verdict(ratio, None, 1.05) == ""


def drawn(kind: str, spread: float, count: int, random: np.random.Generator) -> list[float]:
    """Times around 10, some of them disturbed."""
    values = 10 * np.exp(random.normal(0, spread, count))
    if kind == "disturbed":
        values *= 1 + (random.random(count) < 0.15) * random.random(count) * 5 * spread
    return list(values)


@pytest.mark.parametrize("kind", ["even", "disturbed"])
@pytest.mark.parametrize("paired", [True, False])
def test_noise_is_no_regression_and_a_fifth_is(kind: str, paired: bool) -> None:
    """Over 30 draws each of 2 % and of 30 % noise, 7 repeats on both sides."""
    random = np.random.default_rng(7)
    formed = paired_ratio if paired else ratio_of_medians
    said: dict[tuple[float, float], list[str]] = {}
    for _ in range(30):
        for spread, factor in ((0.02, 1.0), (0.3, 1.0), (0.02, 1.2), (0.02, 1 / 1.2)):
            before, after = (drawn(kind, spread, 7, random) for _ in range(2))
            ratio = formed(before, [value * factor for value in after])
            said.setdefault((spread, factor), []).append(verdict(ratio, "smaller", 1.05))
    assert said[0.02, 1.0].count("regression") == 0
    assert said[0.3, 1.0].count("regression") <= 1
    assert said[0.02, 1.2].count("regression") >= 28
    assert said[0.02, 1 / 1.2].count("improvement") >= 28


# Records --------------------------------------------------------------------------------------------------------------


def test_what_one_run_measured_in_turn_is_paired() -> None:
    """The machine is three times slower in half of the repeats: no ratio shows it."""
    busy = [1, 3, 1, 3, 1, 3, 1]
    one = records([10.0 * factor for factor in busy])
    other = records([12.0 * factor for factor in busy], scenario="adapt-betti")
    (change,) = compare(one, other[::-1], (), 1.05).changes
    assert change.scenario == "adapt-head → adapt-betti"
    assert change.paired
    assert (change.ratio, change.low, change.high) == pytest.approx((1.2, 1.2, 1.2))
    assert change.verdict == "regression"
    (apart,) = compare(one, records([record.metrics["seconds"] for record in other], run="later"), (), 1.05).changes
    assert not apart.paired
    assert apart.verdict == "unclear"


def test_pairs_of_which_one_failed_are_left_out() -> None:
    one, other = records(BEFORE), records(SLOWER, scenario="adapt-betti")
    other[0] = replace(other[0], failure=FAILED, metrics={})
    found = compare(one, other, (), 1.05)
    (change,) = found.changes
    assert (change.before_repeats, change.after_repeats) == (6, 6)
    assert change.verdict == "too few to tell"
    assert any("1 of 7 failed" in warning and "MemoryError" in warning for warning in found.warnings)


def test_phases_are_compared_where_they_are_asked_for() -> None:
    sides = [[record(i, run, seconds=1.0, **{"seconds:train": 0.5}) for i in range(5)] for run in ("a", "b")]
    assert [change.metric for change in compare(*sides, (), 1.05).changes] == ["seconds"]
    assert [change.metric for change in compare(*sides, ("seconds:*",), 1.05).changes] == ["seconds:train"]


def test_zeros_have_no_ratio() -> None:
    (change,) = compare(records([0.0] * 7), records([1.0] * 7, run="later"), (), 1.05).changes
    assert (change.ratio, change.low, change.verdict) == (None, None, "")


def test_what_else_differs_is_told() -> None:
    before, after = records(BEFORE), records(BEFORE, run="later")
    assert compare(before, after, (), 1.05).warnings == ()
    after = [
        replace(one, versions={"python": "3.11.7", "numpy": "2.1.0"}, inputs={"bundle": "cd" * 32}) for one in after
    ]
    after[0] = replace(after[0], environment=replace(MACHINE, governor="powersave", load=9.0))
    found = compare(before, after, (), 1.05).warnings
    assert [warning.partition(":")[0] for warning in found] == ["governor", "numpy", "bundle"]
    assert "2.0.0 → 2.1.0" in found[1]


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def before(tmp_path: Path) -> Path:
    warm = replace(record(1, seconds=99.0), warm_up=True)
    return write(tmp_path / "before.jsonl", [warm, *records(BEFORE)])


def after(path: Path, values: Sequence[float]) -> Path:
    return write(path.with_name("after.jsonl"), records(values, run="later"))


@pytest.mark.parametrize(
    ("values", "options", "code", "said"),
    [
        (SLOWER, [], 1, "regression"),
        (SLOWER, ["--threshold", "1.3"], 0, "the same"),
        (BEFORE[::-1], [], 0, "the same"),
        ([8.0, 8.1, 7.9, 8.05, 7.95], [], 0, "improvement"),
        (SLOWER[:3], [], 0, "too few to tell"),
    ],
)
def test_exit_codes(
    values: list[float], options: list[str], code: int, said: str, before: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(before), str(after(before, values)), *options]) == code
    shown = capsys.readouterr()
    assert said in shown.out
    assert "adapt-head" in shown.out
    assert "commit 0123456789" in shown.err


def test_one_file_and_two_scenarios(before: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(before, records(SLOWER, scenario="adapt-betti"))
    assert main([str(before), "--scenarios", "adapt-head", "adapt-betti"]) == 1
    assert main([str(before), "--scenarios", "adapt-betti", "adapt-head"]) == 0
    assert "7 pairs" in capsys.readouterr().out
    assert main([str(before), "--scenarios", "adapt-betti", "infer"]) == 3
    assert main([str(before)]) == 2


def test_a_scenario_that_only_fails_now_is_a_regression(before: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = before.with_name("after.jsonl")
    write(path, [replace(one, failure=FAILED, metrics={}) for one in records(BEFORE, run="later")])
    assert main([str(before), str(path)]) == 1
    shown = capsys.readouterr()
    assert "adapt-head: only fails after" in shown.out
    assert "MemoryError" in shown.err


def test_larger_accuracy_is_better(tmp_path: Path) -> None:
    one, other = (
        write(tmp_path / f"{run}.jsonl", [record(i, run, accuracy=value) for i in range(1, 8)])
        for run, value in (("a", 0.8), ("b", 0.9))
    )
    assert main([str(one), str(other)]) == 0
    assert main([str(other), str(one)]) == 1


def test_formats_hold_the_same_numbers(before: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(before), str(after(before, SLOWER)), "--format"]

    def printed(form: str) -> str:
        assert main([*command, form]) == 1
        return capsys.readouterr().out

    (comparison,) = json.loads(printed("json"))["comparisons"]
    assert comparison["worse"]
    (change,) = comparison["changes"]
    assert (change["before"], change["after"]) == (np.median(BEFORE), np.median(SLOWER))
    assert change["ratio"] == pytest.approx(np.median(SLOWER) / np.median(BEFORE))
    (row,) = csv.DictReader(printed("csv").splitlines())
    assert float(row["ratio"]) == change["ratio"]
    assert row["verdict"] == "regression"
    header, rule, line = printed("markdown").splitlines()
    assert header.count("|") == rule.count("|") == line.count("|") == 9
    assert "1.205" in line


@pytest.mark.parametrize("options", [["--threshold", "0.9"], ["--threshold", "nan"], ["--metric", "speed"]])
def test_what_makes_no_sense(options: list[str], before: Path) -> None:
    assert main([str(before), str(before), *options]) == 2


def test_files_with_nothing_in_common(before: Path, tmp_path: Path) -> None:
    others = write(tmp_path / "others.jsonl", records(BEFORE, scenario="infer"))
    assert main([str(before), str(others)]) == 3
    warm = write(tmp_path / "warm.jsonl", [replace(record(1), warm_up=True)])
    assert main([str(before), str(warm)]) == 3
    assert main([str(before), str(tmp_path / "none.jsonl")]) == 3
