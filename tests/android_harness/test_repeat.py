"""Between two runs: until when a device is let cool down."""

from __future__ import annotations

from dataclasses import replace

import pytest

from android_harness import repeat
from android_harness.conditions import Conditions, parse_conditions
from android_harness.parsers.cpu import Policy
from android_harness.parsers.thermal import Temperature
from android_harness.repeat import cool_down

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
