"""events.jsonl and the progress line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ondevice.events import Events
from signatures.errors import CapabilityError


def lines(path: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_one_object_a_line_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    stream = io.StringIO()
    with Events(path, stream) as events:
        with events.phase("train"):
            events.emit("step", step=1, loss=np.float32(0.5), picked=("a", "b"), sizes=np.arange(2), best=None)
            events.progress(1, 2, "loss 0.5")
            assert len(lines(path)) == 2  # nothing waits in a buffer
        events.emit("done")
    start, step, end, done = lines(path)
    assert (start["phase"], start["event"]) == ("train", "start")
    assert list(step)[:3] == ["t_s", "phase", "event"]
    assert {key: step[key] for key in ("step", "loss", "picked", "sizes", "best")} == {
        "step": 1, "loss": 0.5, "picked": ["a", "b"], "sizes": [0, 1], "best": None,
    }  # fmt: skip
    assert (end["event"], end["completed"]) == ("end", True)
    assert 0 <= start["t_s"] <= step["t_s"] <= end["t_s"]
    assert done["phase"] is None
    assert stream.getvalue() == "train …\ntrain: done after 0.0 s\n"


def test_what_json_has_no_number_for_is_null(tmp_path: Path) -> None:
    with Events(tmp_path / "e", io.StringIO()) as events:
        events.emit("diverged", loss=float("nan"), norms=np.array([1.0, np.inf]))
    (event,) = lines(tmp_path / "e")
    assert event["loss"] is None
    assert event["norms"] == [1.0, None]


def test_a_phase_that_raises_is_said_to_be_stopped(tmp_path: Path) -> None:
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Events(tmp_path / "e", stream) as events, events.phase("train"):
        raise KeyboardInterrupt
    assert lines(tmp_path / "e")[-1]["completed"] is False
    assert stream.getvalue().endswith("train: stopped after 0.0 s\n")


def test_a_resumed_run_appends_after_a_line_that_broke_off(tmp_path: Path) -> None:
    (tmp_path / "e").write_text('{"t_s": 1, "phase": null, "event": "a"}\n{"t_s": 2, "ph')
    with Events(tmp_path / "e", io.StringIO()) as events:
        events.emit("b")
    first, broken, last = (tmp_path / "e").read_text().splitlines()
    assert json.loads(first)["event"] == "a"
    assert broken == '{"t_s": 2, "ph'
    assert json.loads(last)["event"] == "b"


def read_all(terminal: int) -> str:
    """What was written to the other end, which is closed."""
    shown = b""
    with os.fdopen(terminal, "rb", buffering=0) as stream, contextlib.suppress(OSError):  # EIO is Linux's end of file
        while part := stream.read(1 << 16):
            shown += part
    return shown.decode()


def test_on_a_terminal_one_line_is_redrawn_and_cleared(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, Events(tmp_path / "e", terminal) as events, events.phase("train"):
        for step in range(1000):
            events.progress(step + 1, 1000, "loss 0.5 " + "x" * 500)
    shown = read_all(ours)
    assert "\n" not in shown
    assert "\rtrain 1000/1000 loss 0.5 xxx" in shown.replace("\x1b[K", "")
    assert shown.endswith("\r\x1b[K")
    assert shown.count("train") < 100  # redrawn ten times a second, not at every step
    assert max(map(len, shown.split("\r"))) < 500  # cut to the width


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CapabilityError, match="cannot be written"):
        Events(tmp_path / "missing" / "events.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk() -> None:
    with pytest.raises(CapabilityError, match="No space left"), Events(Path("/dev/full"), io.StringIO()) as events:
        events.emit("step")
