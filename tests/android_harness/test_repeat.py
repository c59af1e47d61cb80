"""Around a run: until when a device is let cool down, what an interruption must not stop, what is left there."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from android_harness import repeat
from android_harness.conditions import Conditions, parse_conditions
from android_harness.errors import DeviceAnswerError
from android_harness.job import Ended
from android_harness.parsers.cpu import Policy
from android_harness.parsers.thermal import Temperature
from android_harness.repeat import cool_down, measure, uninterrupted

SILENT = parse_conditions("")


def at(celsius: float, khz: int = 2_000_000, status: int = 0) -> Conditions:
    policy = Policy("policy0", (0,), "schedutil", 300_000, khz, None, 2_000_000)
    return replace(
        SILENT, temperatures=(Temperature("skin", celsius, None, None),), policies=(policy,), thermal_status=status
    )


class Readings:
    """A job whose device tells these, one after the other; the last for ever."""

    def __init__(self, *readings: Conditions) -> None:
        self.left = list(readings)

    def conditions(self) -> Conditions:
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


@pytest.mark.parametrize(
    ("readings", "asked"),
    [
        ([at(30)], 0),
        ([at(40), at(33), at(31.5), at(50)], 2),
        ([at(30, status=2), at(30, status=1), at(30), at(50)], 2),
        ([at(30, khz=1_500_000), at(30), at(50)], 1),
        ([SILENT], 0),
    ],
)
def test_until_it_is_as_before(monkeypatch: pytest.MonkeyPatch, readings: list[Conditions], asked: int) -> None:
    waits: list[float] = []
    monkeypatch.setattr(repeat.time, "sleep", waits.append)
    cool_down(Readings(*readings), at(30), 300)
    assert len(waits) == asked


def test_no_longer_than_allowed_and_not_before_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(repeat.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(repeat.time, "sleep", lambda _: None)
    assert cool_down(Readings(at(90)), at(30), 35) >= 35
    assert cool_down(Readings(at(90)), None, 300) == 10  # one tick of this clock: nothing was waited for


def test_nothing_interrupts_what_is_put_right() -> None:
    heard: list[int] = []

    def hear(number: int, _: object) -> None:
        heard.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, hear) for number in numbers]
    try:
        with uninterrupted("…"):
            for number in numbers:
                signal.raise_signal(number)
            assert heard == []
        for number in numbers:
            signal.raise_signal(number)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    assert heard == [*numbers]


class Done:
    """A job whose run is over at once, and whose device stops making sense then, where `fails` is asked."""

    folder = "/device/jobs/1"

    def __init__(self, fails: str) -> None:
        self.fails = fails
        self.removed = self.ended = False

    def start(self, *_: object) -> None:
        self.ended = True

    def follow(self, _: Callable[..., None]) -> Ended:
        return Ended(1, None, 1.0, (), ())

    def conditions(self) -> Conditions:
        self._ask("conditions")
        return SILENT

    def failure(self, _: Ended) -> None:
        self._ask("failure")

    def remove(self) -> None:
        self.removed = True

    def _ask(self, what: str) -> None:
        if self.ended and self.fails == what:
            raise DeviceAnswerError("nonsense")


@pytest.mark.parametrize("fails", ["conditions", "failure"])
def test_a_run_that_is_over_stays_until_it_is_fetched(
    fails: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Done(fails)
    with pytest.raises(DeviceAnswerError, match="nonsense"):
        measure(1, job, (), (), 60, tmp_path, None, 0)
    assert "still in /device/jobs/1 on the device: `pull` fetches it" in capsys.readouterr().err
    assert job.ended
    assert not job.removed
