"""Files of records: what was written is read, and what is no record is refused with file and line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sample_records import FAILED, record, write

from profiling.measure.record import Record, prepare_file, read_records
from signatures.errors import CapabilityError, InputError

PEAK = 123 << 20


def read(path: Path) -> list[Record]:
    """With nothing to be told."""
    return read_records(path, lambda line: pytest.fail(line))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.jsonl"


def test_what_was_written_is_read(path: Path) -> None:
    phases = {"seconds:train": 1.25, "peak_bytes:train": float(PEAK)}
    odd = replace(record(2), failure=FAILED, git=None, metrics={}, outcome={"layers": "é, \N{SNOWMAN}"})
    some = [record(1, seconds=2.5, accuracy=0.975, **phases), odd, replace(record(1), warm_up=True)]
    assert read(write(path, some)) == some
    lines = path.read_text().splitlines()
    assert [json.loads(line)["repeat"] for line in lines] == [1, 2, 1]


def test_a_cut_last_line_is_told_and_the_rest_read(path: Path) -> None:
    write(path, [record(1), record(2)])
    path.write_bytes(path.read_bytes()[:-100])
    told: list[str] = []
    assert read_records(path, told.append) == [record(1)]
    assert len(told) == 1
    assert f"{path}, line 2" in told[0]


def test_the_next_run_goes_on_behind_a_cut_line(path: Path) -> None:
    write(path, [record(1), record(2)])
    path.write_bytes(path.read_bytes()[:-100])
    told: list[str] = []
    prepare_file(path, told.append)
    assert len(told) == 1
    assert read(write(path, [record(3)])) == [record(1), record(3)]


def test_a_last_line_that_only_lacks_its_end_is_kept(path: Path) -> None:
    write(path, [record(1), record(2)])
    path.write_bytes(path.read_bytes()[:-1])
    assert read(path) == [record(1), record(2)]
    prepare_file(path, lambda line: pytest.fail(line))
    assert read(write(path, [record(3)])) == [record(1), record(2), record(3)]


def test_nothing_is_appended_to_what_holds_no_records(path: Path) -> None:
    path.write_text("my notes\n")
    with pytest.raises(InputError, match="line 1"):
        prepare_file(path, lambda line: None)
    assert path.read_text() == "my notes\n"


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CapabilityError, match="choose another --out"):
        prepare_file(tmp_path, lambda line: None)


def changed(*keys: str, value: Any) -> bytes:
    """A line of which one field is another."""
    document = json.loads(record(1, seconds=1.0).line())
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return json.dumps(document).encode()


def lacking(key: str) -> bytes:
    document = json.loads(record(1).line())
    del document[key]
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"null",
        b"[1]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": "adabet-report", "version": 1}',
        changed("version", value=2),
        changed("format", value=["adabet-measurement"]),
        lacking("metrics"),
        lacking("git"),
        changed("metrics", value=[1]),
        changed("metrics", "seconds", value="1"),
        changed("metrics", "seconds", value=True),
        changed("metrics", "seconds", value=-1),
        changed("metrics", "seconds", value=float("nan")),
        changed("metrics", "seconds", value=float("inf")),
        changed("metrics", "seconds", value=10**400),
        changed("metrics", "speed", value=1),
        changed("metrics", "accuracy:train", value=1),
        changed("metrics", "seconds:", value=1),
        changed("repeat", value=0),
        changed("repeat", value=1.5),
        changed("warm_up", value=0),
        changed("scenario", value="a b"),
        changed("scenario", value="\x1b[2J"),
        changed("failure", value={"exit_code": 1}),
        changed("failure", value={"exit_code": 1, "said": "no"}),
        changed("settings", "arguments", value=[1]),
        changed("environment", "cores", value=0),
        changed("environment", value=None),
        changed("versions", value={"python": 3}),
        changed("git", value="abc"),
    ],
)
def test_what_is_no_record_is_refused(line: bytes, path: Path) -> None:
    path.write_bytes(record(1).line() + line + b"\n" + record(2).line())
    with pytest.raises(InputError, match="line 2") as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("content", [b"", b"{"])
def test_files_without_a_record(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError, match="holds no records"):
        read_records(path, lambda line: None)


def test_a_file_that_is_not_there(path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read(path)


def test_texts_cannot_change_a_terminal(path: Path) -> None:
    path.write_bytes(changed("versions", "numpy", value="2\x1b[2J\n\ud800") + b"\n")
    (one,) = read(path)
    assert one.versions["numpy"].isprintable()
    assert one.versions["numpy"].startswith("2")
