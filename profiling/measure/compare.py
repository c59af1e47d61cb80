"""`python -m profiling compare BEFORE AFTER`: records beside records, with intervals; 1 if something got worse.

Ratios are after ÷ before. Where one run measured both in turn, they are formed within each repeat, and their median is
taken; else it is the ratio of the medians, and what the machine did at either time counts too. A regression lies beyond
the threshold with its whole interval (99 %, bootstrap), on the bad side: above the threshold, or below 1 / threshold
where larger is better. Exit codes: 0 no regression, 1 a regression, or a scenario that now only fails, 2 usage, 3 a
file holds something else, 70 our bug.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from profiling.measure.changes import Change, Comparison, compare
from profiling.measure.metrics import metric_of, shown
from profiling.measure.ratios import LEVEL, TOO_FEW, least_count
from profiling.measure.record import Record, read_records, tell
from profiling.measure.show import FORMATS, add_metric_option, check_patterns, commit_name, loads_of
from profiling.measure.tables import comma_separated, markdown, terminal
from signatures.errors import InputError, UsageError, exit_code_of

THRESHOLD = 1.05
WORSE = 1
"""Exit code."""


def render(comparisons: Sequence[Comparison], threshold: float, form: str) -> str:
    """In one of `FORMATS`; CSV and JSON hold plain numbers, in seconds, bytes and fractions of 1."""
    changes = [change for comparison in comparisons for change in comparison.changes]
    if form == "json":
        found = [{**asdict(comparison), "worse": comparison.worse} for comparison in comparisons]
        return json.dumps({"threshold": threshold, "level": LEVEL, "comparisons": found})
    if form == "csv":
        header = [field.name for field in fields(Change)]
        return comma_separated([header, *([*asdict(change).values()] for change in changes)])
    header = ["scenario", "metric", "repeats", "before", "after", "ratio", f"{LEVEL:.0%} interval", "verdict"]
    table = markdown if form == "markdown" else terminal
    remarks = [f"{comparison.scenario}: only fails after" for comparison in comparisons if comparison.fails]
    if any(change.verdict == TOO_FEW for change in changes):
        remarks.append(f"it takes {least_count(True)} pairs to tell, or {least_count(False)} repeats on both sides")
    return "\n".join([table([header, *map(_cells, changes)]), *remarks])


def _cells(change: Change) -> list[str]:
    unit = metric_of(change.metric).unit
    return [
        change.scenario,
        change.metric,
        f"{change.before_repeats} pairs" if change.paired else f"{change.before_repeats}, {change.after_repeats}",
        shown(change.before, unit),
        shown(change.after, unit),
        "–" if change.ratio is None else f"{change.ratio:.3f}",
        "–" if change.low is None else f"{change.low:.3f} to {change.high:.3f}",
        change.verdict,
    ]


# The command ----------------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m profiling compare", description=__doc__)
    p.add_argument("before", type=Path, help="records that `python -m profiling run` wrote")
    p.add_argument("after", type=Path, nargs="?", help="others; may be left out with --scenarios")
    p.add_argument(
        "--scenarios", nargs=2, metavar=("BEFORE", "AFTER"), help="compare these two (default: each with itself)"
    )
    p.add_argument("--threshold", type=float, default=THRESHOLD, help=f"ratio that matters (default: {THRESHOLD:g})")
    p.add_argument(
        "--format", choices=FORMATS, default="table", help="CSV and JSON hold plain numbers (default: table)"
    )
    add_metric_option(p)
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what changed; returns the exit code."""
    options = parser().parse_args(arguments)
    return exit_code_of(lambda: _compare(options))


def _compare(options: argparse.Namespace) -> int:
    if not (math.isfinite(options.threshold) and options.threshold >= 1):
        raise UsageError(f"--threshold must be a ratio of at least 1, got {options.threshold:g}")
    if options.after is None and options.scenarios is None:
        raise UsageError("give records of after too, or two --scenarios of the same file")
    before = _read("before", options.before)
    after = before if options.after is None else _read("after", options.after)
    sides = [
        (
            [record for record in before if record.scenario == one],
            [record for record in after if record.scenario == other],
        )
        for one, other in _pairs(before, after, options.scenarios)
    ]
    check_patterns(options.metric, (name for _, side in sides for record in side for name in record.metrics))
    comparisons = [compare(*side, options.metric, options.threshold) for side in sides]
    for warning in dict.fromkeys(warning for comparison in comparisons for warning in comparison.warnings):
        concerned = (comparison.scenario for comparison in comparisons if warning in comparison.warnings)
        tell(f"warning: {', '.join(concerned)}: {warning}")
    print(render(comparisons, options.threshold, options.format))
    return WORSE if any(comparison.worse for comparison in comparisons) else 0


def _read(when: str, path: Path) -> list[Record]:
    """The records that count. InputError if there are none."""
    records = [record for record in read_records(path, tell) if not record.warm_up]
    if not records:
        raise InputError(f"{path} holds nothing but warm-ups")
    commits = dict.fromkeys(commit_name(record.git) for record in records)
    tell(f"{when}: {path}, {', '.join(commits)}; {loads_of(records)}")
    return records


def _pairs(before: Sequence[Record], after: Sequence[Record], asked: tuple[str, str] | None) -> list[tuple[str, str]]:
    """Which scenarios are compared. InputError if they are not there."""
    one, other = ({record.scenario for record in side} for side in (before, after))
    if asked is not None:
        for name, side, when in ((asked[0], one, "before"), (asked[1], other, "after")):
            if name not in side:
                raise InputError(f"no record of {name!r} {when}; there are {', '.join(sorted(side))}")
        return [(asked[0], asked[1])]
    if not one & other:
        raise InputError(f"no scenario on both sides: {', '.join(sorted(one))} and {', '.join(sorted(other))}")
    for when, alone in (("before", one - other), ("after", other - one)):
        if alone:
            tell(f"warning: only {when}: {', '.join(sorted(alone))}")
    return [(name, name) for name in sorted(one & other)]
