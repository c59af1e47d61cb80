"""Records that no process measured."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from profiling.environment import Commit, Environment
from profiling.measure.record import Failure, Record, Settings, append_record

MACHINE = Environment("x86_64", "Some CPU", 2, 8 << 30, "Linux 6.1", None, 0.5)
SETTINGS = Settings("bundle", "data", None, 2, ())
COMMIT = Commit("0123456789" * 4, False)


def record(repeat: int, run: str = "first", scenario: str = "adapt-head", **metrics: float) -> Record:
    """A process that counts and did not fail."""
    return Record(
        run=run,
        scenario=scenario,
        repeat=repeat,
        warm_up=False,
        started="2025-01-01T00:00:00.000+00:00",
        seconds=1.5,
        metrics=metrics,
        outcome={"layers": "head"},
        failure=None,
        settings=SETTINGS,
        inputs={"bundle": "ab" * 32},
        environment=MACHINE,
        versions={"python": "3.11.7", "numpy": "2.0.0"},
        git=COMMIT,
    )


def records(values: Iterable[float], run: str = "first", scenario: str = "adapt-head") -> list[Record]:
    """One a value of `seconds`."""
    return [record(i, run, scenario, seconds=value) for i, value in enumerate(values, 1)]


FAILED = Failure(-9, ("Traceback", "MemoryError"))


def write(path: Path, some: Iterable[Record]) -> Path:
    """Append them to a file."""
    for one in some:
        append_record(one, path)
    return path
