"""Medians of records as tables and files, and how values are shown."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from sample_records import FAILED, record, records, write

from profiling.measure.metrics import METRICS, is_wanted, metric_of, shown
from profiling.measure.show import main
from profiling.measure.tables import markdown, terminal

MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two runs; of the first one repeat failed, and a warm-up took long."""
    some = [
        record(i, seconds=s, peak_bytes=p * MIB, **{"seconds:train": s / 2}) for i, s, p in ((1, 3, 64), (2, 1, 65))
    ]
    warm = replace(record(1, seconds=500.0), warm_up=True)
    failed = replace(record(3), failure=FAILED, metrics={})
    return write(tmp_path / "records.jsonl", [warm, *some, failed, *records([0.25], "second", "infer")])


def rows(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> list[dict[str, str]]:
    assert main([str(path), "--format", "csv", *options]) == 0
    return list(csv.DictReader(capsys.readouterr().out.splitlines()))


def test_medians_run_by_run(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = rows(path, capsys)
    assert (first["run"], first["metric"], first["unit"], first["repeats"]) == ("first", "seconds", "s", "2")
    assert [float(first[name]) for name in ("median", "smallest", "largest")] == [2, 1, 3]
    assert (second["metric"], float(second["median"])) == ("peak_bytes", 64.5 * MIB)
    assert (third["run"], third["scenario"]) == ("second", "infer")


def test_metrics_that_are_asked_for(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [row["metric"] for row in rows(path, capsys, "--metric", "seconds:*")] == ["seconds:train"]
    assert {row["metric"] for row in rows(path, capsys, "--metric", "*")} == {"seconds", "peak_bytes", "seconds:train"}
    assert main([str(path), "--metric", "speed"]) == 2
    assert "seconds:train" in capsys.readouterr().err


def test_the_table_has_units_and_failures(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(path)]) == 0
    table = capsys.readouterr().out
    assert "2.00 s" in table
    assert "64.5 MiB" in table
    assert "250 ms" in table
    assert "500" not in table
    assert "adapt-head: 1 failed, the last with exit code -9: MemoryError" in table
    assert table.count("commit 0123456789; load 0.5 to 0.5 on 2 cores") == 2


def test_json_is_one_document(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(path), str(path), "--format", "json"]) == 0
    runs = json.loads(capsys.readouterr().out)
    assert [run["run"] for run in runs] == ["first", "second"]
    assert runs[0]["failed"] == [
        {"scenario": "adapt-head", "count": 2, "exit_code": -9, "said": ["Traceback", "MemoryError"]}
    ]


def test_files_that_hold_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes").write_text("notes\n")
    assert main([str(tmp_path / "notes")]) == 3
    assert "notes, line 1" in capsys.readouterr().err


def test_records_of_a_study_are_refused_by_their_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "records.jsonl"
    copy = Path(__file__).parents[3] / "docs" / "study" / "records.jsonl.gz"
    path.write_bytes(gzip.decompress(copy.read_bytes()))
    for given, why in ((path, "it has format 'adabet-study', version 1"), (copy, "decode")):
        assert main([str(given)]) == 3
        captured = capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        assert f"{given}, line 1 is no record of a measurement" in line
        assert why in line


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "s", "0 ms"),
        (0.0000257, "s", "0.0257 ms"),
        (0.00534, "s", "5.34 ms"),
        (0.0751, "s", "75.1 ms"),
        (0.844, "s", "844 ms"),
        (1.1, "s", "1.10 s"),
        (62.94, "s", "62.9 s"),
        (1234.5, "s", "1234 s"),
        (126.7 * MIB, "bytes", "126.7 MiB"),
        (0.9749, "fraction", "97.5%"),
        (191402, "count", "191,402"),
    ],
)
def test_values_for_people(value: float, unit: str, text: str) -> None:
    assert shown(value, unit) == text


def test_every_metric_has_a_direction_that_fits() -> None:
    assert {name for name, metric in METRICS.items() if metric.better != "smaller"} == {
        "accuracy",
        "trained_parameters",
    }
    assert metric_of("peak_bytes:train") is METRICS["peak_bytes"]
    assert is_wanted("seconds", ())
    assert not is_wanted("seconds:train", ())


def test_tables() -> None:
    rows = [["a", "b", "n"], ["long", "x|y", "12"]]
    assert terminal(rows).splitlines() == ["a     b     n", "long  x|y  12"]
    assert markdown(rows).splitlines() == ["| a | b | n |", "| --- | --- | ---: |", r"| long | x\|y | 12 |"]
