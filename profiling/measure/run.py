"""`python -m profiling run SCENARIO…`: measure scenarios, each time in a fresh process, and append records to a file.

Repeat by repeat all scenarios take turns, in an order that is drawn anew for each. Warm-ups come first; they are
recorded and marked, and no table counts them. A scenario that fails is recorded with what it said, and the others go
on. The processes use the user's cache of train files and kernels, as adaptations do. What stands behind -- goes to
`python -m ondevice.adapt`. Exit codes: 0 all measured, 1 a process failed, 2 usage, 3 bad bundle, data or file of
records, 7 missing capability, 70 our bug, 130 Ctrl-C (what was measured is in the file).
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path

from profiling.environment import commit, environment, versions_of
from profiling.measure.given import Given, check, open_given
from profiling.measure.metrics import METRICS, shown
from profiling.measure.record import Failure, Record, append_record, prepare_file, tell
from profiling.measure.scenarios import SCENARIOS, Reading, Scenario
from profiling.measure.show import render, runs_of
from signatures.errors import INTERRUPTED, CapabilityError, exit_code_of

FAILED = 1
"""Exit codes: a process failed; Ctrl-C."""
_LAST_LINES, _LONGEST_LINE = 5, 300
"""How much of what a failed process said is recorded."""


@dataclass(frozen=True)
class Turn:
    """One process to be measured."""

    scenario: str
    repeat: int
    """From 1, warm-ups apart."""
    warm_up: bool


def turns(scenarios: Sequence[str], warm_ups: int, repeats: int) -> Iterator[Turn]:
    """All scenarios once a repeat, in an order that the repeat's number decides; warm-ups first."""
    for warm_up, count in ((True, warm_ups), (False, repeats)):
        for repeat in range(1, count + 1):
            order = random.Random(repeat).sample(scenarios, len(scenarios))
            yield from (Turn(name, repeat, warm_up) for name in order)


def measured(names: Sequence[str], given: Given, warm_ups: int, repeats: int, workspace: Path) -> Iterator[Record]:
    """Records of all scenarios, one by one as they are measured; what processes write goes to `workspace`."""
    run, git = uuid.uuid4().hex[:12], commit()
    versions = {name: versions_of(given.python(name)) for name in names}
    for turn in turns(names, warm_ups, repeats):
        scenario = SCENARIOS[turn.scenario]
        before, started = environment(), datetime.now(timezone.utc)
        taken, answer = _process(given.command(turn.scenario, workspace / "run"), scenario)
        shutil.rmtree(workspace / "run", ignore_errors=True)
        failure, reading = (answer, Reading({}, {})) if isinstance(answer, Failure) else (None, answer)
        outside = {name: taken[name] for name in scenario.metrics if name in taken and failure is None}
        record = Record(
            run=run,
            scenario=turn.scenario,
            repeat=turn.repeat,
            warm_up=turn.warm_up,
            started=started.isoformat(timespec="milliseconds"),
            seconds=taken["seconds"],
            metrics={**outside, **reading.metrics},
            outcome=reading.outcome,
            failure=failure,
            settings=given.settings(scenario),
            inputs=given.inputs(scenario),
            environment=before,
            versions=versions[turn.scenario],
            git=git,
        )
        of = f"warm-up {turn.repeat} of {warm_ups}" if turn.warm_up else f"repeat {turn.repeat} of {repeats}"
        tell(f"{of}: {_in_short(record)}")
        yield record


def _process(command: Sequence[str], scenario: Scenario) -> tuple[dict[str, float], Reading | Failure]:
    """Run it: the metrics that are taken from outside, and what it told or how it failed."""
    cpu_seconds, started = _cpu_seconds_of_children(), time.perf_counter()
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    taken = {"seconds": time.perf_counter() - started, "cpu_seconds": _cpu_seconds_of_children() - cpu_seconds}
    if done.returncode:
        return taken, Failure(done.returncode, _last_lines(done.stderr))
    try:
        return taken, scenario.read(json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, LookupError, TypeError) as error:
        said = f"its output is not what this scenario reads: {error!r}"
        return taken, Failure(done.returncode, (*_last_lines(done.stderr), said))


def _cpu_seconds_of_children() -> float:
    """Of all that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _last_lines(text: str) -> tuple[str, ...]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return tuple(line[:_LONGEST_LINE] for line in lines[-_LAST_LINES:])


def _in_short(record: Record) -> str:
    seconds, peak = shown(record.seconds, "s"), record.metrics.get("peak_bytes")
    if record.failure is not None:
        said = " ".join(record.failure.said[-1:])
        return f"{record.scenario} failed with exit code {record.failure.exit_code} after {seconds}: {said}"
    return f"{record.scenario} {seconds}" + ("" if peak is None else f", peak {shown(peak, 'bytes')}")


# The command ----------------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The command line, but for -- and what stands behind it."""
    p = argparse.ArgumentParser(
        prog="python -m profiling run",
        description=__doc__,
        usage="%(prog)s SCENARIO… [OPTIONS] [-- ARGUMENTS OF ondevice.adapt]",
    )
    p.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="what to measure; --list tells which there are")
    p.add_argument("--list", action="store_true", help="list the scenarios, what they take and what comes out")
    p.add_argument("--bundle", type=Path, help="bundle folder that `make export` wrote")
    p.add_argument("--data", type=Path, help="packed dataset or folder of images by class")
    p.add_argument("--model", type=Path, metavar="FILE", help="a .tflite for infer (default: the bundle's)")
    p.add_argument("--threads", type=int, default=2, help="of every process (default: 2)")
    p.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="SCENARIO=PYTHON",
        help="have another Python run this scenario, such as one with torch step-pytorch; may be repeated",
    )
    p.add_argument("--repeats", type=int, default=7, help="that count (default: 7)")
    p.add_argument("--warm-up", type=int, default=1, metavar="REPEATS", help="before those (default: 1)")
    p.add_argument("--out", type=Path, default=Path("records.jsonl"), help="append here (default: records.jsonl)")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the medians come last, on stdout. Returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    at = words.index("--") if "--" in words else len(words)
    options = parser().parse_intermixed_args(words[:at])
    return exit_code_of(lambda: _list() if options.list else _run(options, tuple(words[at + 1 :])))


def _list() -> int:
    for metrics, alike in groupby(SCENARIOS.items(), lambda item: item[1].metrics):
        for name, scenario in alike:
            print(f"{name:20} {' '.join(f'--{need}' for need in scenario.needs):16} {scenario.what}")
        print(f"{'':20} gives {', '.join(metrics)}\n")
    for name, metric in METRICS.items():
        print(f"{name:20} {metric.what}")
    return 0


def _run(options: argparse.Namespace, arguments: tuple[str, ...]) -> int:
    names = tuple(dict.fromkeys(options.scenarios))
    check(names, options, arguments)
    path: Path = options.out
    records: list[Record] = []
    try:
        with _ended_as_by_ctrl_c(), _workspace(path.parent) as folder:
            given = open_given(names, options, arguments, Path(folder))
            prepare_file(path, tell)
            for record in measured(names, given, options.warm_up, options.repeats, Path(folder)):
                append_record(record, path)
                records.append(record)
    except KeyboardInterrupt:
        tell(f"interrupted; {len(records)} records are in {path}")
        return INTERRUPTED
    print(render(runs_of((str(path), record) for record in records), "table"))
    return FAILED if any(record.failure for record in records) else 0


def _workspace(parent: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder beside the records, on a disk with room: run folders hold what training keeps."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=".profiling-", dir=parent)
    except OSError as error:
        raise CapabilityError(f"cannot write {parent}: {error.strerror}; choose another --out") from None


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """Take SIGTERM for Ctrl-C: what is measured must not go on without us, and disturb what is measured next."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
