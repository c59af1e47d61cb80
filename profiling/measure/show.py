"""`python -m profiling show FILE…`: medians of records, run by run, and what failed.

A run is what one `python -m profiling run` measured; its warm-ups do not count. Exit codes: 0 shown, 2 usage, 3 a file
holds something else, 70 our bug.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median

from profiling.environment import Commit
from profiling.measure.metrics import is_wanted, metric_of, shown
from profiling.measure.record import Record, read_records, tell
from profiling.measure.tables import comma_separated, markdown, terminal
from signatures.errors import UsageError, exit_code_of

FORMATS = ("table", "markdown", "csv", "json")


@dataclass(frozen=True)
class Median:
    """One metric of one scenario, over the repeats of a run that count and did not fail."""

    file: str
    run: str
    scenario: str
    metric: str
    unit: str
    repeats: int
    median: float
    smallest: float
    largest: float


@dataclass(frozen=True)
class Failed:
    """Processes of a scenario that failed, warm-ups included."""

    scenario: str
    count: int
    exit_code: int
    """Of the last one."""
    said: tuple[str, ...]

    @property
    def last(self) -> str:
        """How the last one failed, for people."""
        return f"exit code {self.exit_code}: {' '.join(self.said[-1:])}"


@dataclass(frozen=True)
class Run:
    """What one command measured."""

    file: str
    run: str
    started: str
    git: Commit | None
    loads: str
    """Of the machine, before each process."""
    medians: tuple[Median, ...]
    failed: tuple[Failed, ...]


def runs_of(records: Iterable[tuple[str, Record]], patterns: Sequence[str] = ()) -> list[Run]:
    """The runs of records, each given with the name of its file, in the order in which they come.

    UsageError if a pattern names no metric of theirs.
    """
    found: dict[tuple[str, str], list[Record]] = {}
    for file, record in records:
        found.setdefault((file, record.run), []).append(record)
    check_patterns(patterns, (name for of_run in found.values() for record in of_run for name in record.metrics))
    return [
        Run(
            file,
            run,
            of_run[0].started,
            of_run[0].git,
            loads_of(of_run),
            _medians(file, of_run, patterns),
            failed_of(of_run),
        )
        for (file, run), of_run in found.items()
    ]


def check_patterns(patterns: Sequence[str], names: Iterable[str]) -> None:
    """UsageError if a pattern names none of these metrics."""
    there = sorted(set(names))
    for pattern in patterns:
        if not any(is_wanted(name, (pattern,)) for name in there):
            raise UsageError(f"--metric {pattern} names none of those that there are: {', '.join(there)}")


def _medians(file: str, records: Sequence[Record], patterns: Sequence[str]) -> tuple[Median, ...]:
    """Of the records of one run, by scenario."""
    measured: dict[tuple[str, str], list[float]] = {}
    for record in sorted(records, key=lambda record: record.scenario):
        if not record.warm_up:
            for name, value in record.metrics.items():
                if is_wanted(name, patterns):
                    measured.setdefault((record.scenario, name), []).append(value)
    return tuple(
        Median(file, records[0].run, scenario, name, metric_of(name).unit, len(of), median(of), min(of), max(of))
        for (scenario, name), of in measured.items()
    )


def failed_of(records: Iterable[Record]) -> tuple[Failed, ...]:
    """Which scenarios failed."""
    failures = [(record.scenario, record.failure) for record in records if record.failure is not None]
    last = dict(failures)
    counts = {name: sum(scenario == name for scenario, _ in failures) for name in last}
    return tuple(Failed(name, counts[name], last[name].exit_code, last[name].said) for name in sorted(last))


def render(runs: Sequence[Run], form: str) -> str:
    """In one of `FORMATS`; CSV and JSON hold plain numbers, in seconds, bytes and fractions of 1."""
    if form == "json":
        return json.dumps([asdict(run) for run in runs])
    if form == "csv":
        header = [field.name for field in fields(Median)]
        return comma_separated([header, *([*asdict(row).values()] for run in runs for row in run.medians)])
    table = markdown if form == "markdown" else terminal
    return "\n\n".join(_section(run, table(_cells(run.medians))) for run in runs)


def _cells(rows: Sequence[Median]) -> list[list[str]]:
    cells = [["scenario", "metric", "repeats", "median", "smallest", "largest"]]
    for row in rows:
        values = (shown(value, metric_of(row.metric).unit) for value in (row.median, row.smallest, row.largest))
        cells.append([row.scenario, row.metric, str(row.repeats), *values])
    return cells


def _section(run: Run, table: str) -> str:
    failures = [f"{failed.scenario}: {failed.count} failed, the last with {failed.last}" for failed in run.failed]
    title = f"{run.file}: {run.started}, {commit_name(run.git)}; {run.loads}"
    return "\n".join([title, "", *([table] if run.medians else []), *failures])


def loads_of(records: Sequence[Record]) -> str:
    """How busy the machine was, for people; more than there are cores means that others used it too."""
    loads = [record.environment.load for record in records]
    return f"load {min(loads):.1f} to {max(loads):.1f} on {records[0].environment.cores} cores"


def commit_name(git: Commit | None) -> str:
    """A commit for people."""
    return "no git" if git is None else f"commit {git.sha1[:10]}{', changed' if git.dirty else ''}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m profiling show", description=__doc__)
    p.add_argument("files", type=Path, nargs="+", metavar="FILE", help="that `python -m profiling run` wrote")
    p.add_argument(
        "--format", choices=FORMATS, default="table", help="CSV and JSON hold plain numbers (default: table)"
    )
    add_metric_option(p)
    return p


def add_metric_option(p: argparse.ArgumentParser) -> None:
    """What commands that read records have in common."""
    p.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="only this one, or a pattern: 'seconds:*' for every phase; may be repeated (default: all but phases)",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the medians; returns the exit code."""
    options = parser().parse_args(arguments)
    return exit_code_of(lambda: _show(options))


def _show(options: argparse.Namespace) -> int:
    records = [(str(path), record) for path in options.files for record in read_records(path, tell)]
    print(render(runs_of(records, options.metric), options.format))
    return 0
