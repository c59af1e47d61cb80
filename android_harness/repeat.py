"""One adaptation on the device in a process of its own: cooled down before, followed, fetched, and judged."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from android_harness.conditions import Conditions, concerns, notes
from android_harness.errors import ConnectionLostError, DeviceAnswerError
from android_harness.files import fetch_folder
from android_harness.job import Ended, Job, Sample
from signatures.errors import AdabetError

_MIB = 1 << 20
_COOL_CELSIUS = 2.0
"""A sensor this much warmer than before the first run counts as cool again: what sensors vary by at rest."""
_COOL_PERIOD_S = 5.0
_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Outside:
    """The process's memory as seen over adb, in bytes: largest of all samples; None where the system does not tell.

    peak: VmHWM, which the run itself resets between its phases. resident: VmRSS. proportional: Pss. swap: VmSwap.
    """

    samples: int
    peak_bytes: int | None
    resident_bytes: int | None
    proportional_bytes: int | None
    swap_bytes: int | None


@dataclass(frozen=True)
class Repeat:
    """One run in a process of its own.

    folder: here, with what the run left and samples.jsonl. inside_peak_bytes: VmHWM as the run itself read it.
    concerns: why it must not be averaged in, empty if it may. notes: what its reader should know. failure: what went
    wrong, or None.
    """

    number: int
    folder: str
    seconds: float
    cooled_s: float
    accuracy: float | None
    inside_peak_bytes: int | None
    outside: Outside
    before: Conditions
    after: Conditions
    concerns: tuple[str, ...]
    notes: tuple[str, ...]
    failure: str | None


def measure(
    number: int,
    job: Job,
    command: Sequence[str],
    prefix: Sequence[str],
    timeout_s: int,
    out: Path,
    rest: Conditions | None,
    cooldown_s: float,
) -> tuple[Repeat, AdabetError | None]:
    """One repeat: cool down to `rest`, run, fetch what it left to the folder `out`, remove it from the device.

    What goes wrong in the run comes back beside the repeat, with the files that there are; what goes wrong with the
    connection is raised. Whatever is raised, Ctrl-C too, a run that goes on is stopped and removed where that can be,
    and one that has ended stays on the device until it was fetched whole.
    """
    cooled_s = cool_down(job, rest, cooldown_s)
    before = job.conditions()
    with _stopped(job):
        job.start(command, timeout_s, prefix)
        ended = job.follow(tell)
    try:
        after = job.conditions()
        failure = job.failure(ended)
        fetch(job, out)
    except BaseException:
        print(f"what the run left is still in {job.folder} on the device: `pull` fetches it", file=sys.stderr)
        raise
    job.remove()
    _write_samples(ended, out / "samples.jsonl")
    swap = [sample.status.swap_bytes for sample in ended.samples if sample.status.swap_bytes is not None]
    report = _report(out)
    repeat = Repeat(
        number,
        out.name,
        _run_seconds(out) or round(ended.seconds, 3),
        cooled_s,
        report.get("after", {}).get("accuracy"),
        report.get("peak_bytes"),
        _outside(ended.samples),
        before,
        after,
        concerns(before, ended.during, after, swap),
        notes(before, ended.during, after),
        None if failure is None else str(failure),
    )
    return repeat, failure


def fetch(job: Job, out: Path) -> None:
    """Copy what a run left: its run folder, stdout and stderr."""
    fetch_folder(job.place, f"{job.folder}/run", out, lambda name: not name.startswith("work/"))
    fetch_folder(job.place, f"{job.folder}/said", out)


def cool_down(job: Job, rest: Conditions | None, limit_s: float) -> float:
    """Wait until the device is as cool as at `rest`, at most `limit_s`; returns seconds waited.

    A device that tells no temperatures is not waited for.
    """
    began = time.monotonic()
    while rest is not None and time.monotonic() - began < limit_s and (why := _warmer(rest, job.conditions())):
        print(f"cooling down: {why}", file=sys.stderr, flush=True)
        time.sleep(_COOL_PERIOD_S)
    return round(time.monotonic() - began, 1)


def tell(event: dict[str, Any], sample: Sample | None) -> None:
    """An event of the run on the device, as a line of progress on stderr."""
    resident = sample.status.resident_bytes if sample else None
    memory = "" if resident is None else f"  [{resident / _MIB:.0f} MiB]"
    match event:
        case {"event": "start", "phase": phase}:
            line = f"{phase} …"
        case {"event": "end", "phase": phase, "duration_s": seconds, "completed": done}:
            line = f"{phase}: {'done' if done else 'stopped'} after {seconds:.1f} s"
        case {"event": "epoch", "number": number, "loss": loss, "seconds": seconds}:
            line = f"epoch {number}: loss {loss if loss is None else format(loss, '.4f')}, {seconds:.1f} s"
        case {"event": "picked", "layers": layers}:
            line = f"picked {', '.join(layers)}"
        case _:
            return
    print(line + memory, file=sys.stderr, flush=True)


@contextmanager
def _stopped(job: Job) -> Iterator[None]:
    """If the block fails, the run is off the device behind it; a second interruption does not keep it from that."""
    try:
        yield
    except ConnectionLostError:
        raise  # `pull` fetches what there is, or `restore` removes it; the run ends itself after LEASE_S
    except BaseException:
        with uninterrupted("stopping the run on the device …"), suppress(AdabetError):
            job.stop()
            job.remove()
        raise


@contextmanager
def uninterrupted(what: str) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP do nothing in the block; stderr says `what` it does."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _INTERRUPTIONS}
    print(what, file=sys.stderr, flush=True)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _warmer(rest: Conditions, now: Conditions) -> str | None:
    """What is warmer than at rest, or still slowed by that, in words."""
    if (now.thermal_status or 0) > (rest.thermal_status or 0):
        return f"thermal status {now.thermal_status} ({now.thermal_status_name})"
    cool = {temperature.name: temperature.celsius for temperature in rest.temperatures}
    for temperature in now.temperatures:
        if temperature.celsius > cool.get(temperature.name, temperature.celsius) + _COOL_CELSIUS:
            return (
                f"{temperature.name} at {temperature.celsius:.0f} °C, {cool[temperature.name]:.0f} before the first run"
            )
    limits = {policy.name: policy.max_khz or 0 for policy in rest.policies}
    for policy in now.policies:
        if policy.max_khz is not None and policy.max_khz < limits.get(policy.name, 0):
            return f"{policy.name} is limited to {policy.max_khz // 1000} MHz"
    return None


def _outside(samples: Sequence[Sample]) -> Outside:
    def largest(values: Iterable[int | None]) -> int | None:
        return max((value for value in values if value is not None), default=None)

    return Outside(
        len(samples),
        largest(sample.status.peak_bytes for sample in samples),
        largest(sample.status.resident_bytes for sample in samples),
        largest(sample.rollup.proportional_bytes for sample in samples),
        largest(sample.status.swap_bytes for sample in samples),
    )


def _write_samples(ended: Ended, path: Path) -> None:
    """One JSON object a line: t_s, status, smaps_rollup."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(sample)) + "\n" for sample in ended.samples))


def _report(run: Path) -> dict[str, Any]:
    """What the run says of itself; nothing of a run that failed. DeviceAnswerError for what is no report."""
    path = run / "report.json"
    if not path.exists():
        return {}
    try:
        report = json.loads(path.read_text())
    except ValueError as error:
        raise DeviceAnswerError(f"{path}: not JSON ({error})") from None
    if not isinstance(report, dict) or report.get("format") != "adabet-report":
        raise DeviceAnswerError(f"{path}: not a report of ondevice.adapt")
    return report


def _run_seconds(run: Path) -> float | None:
    """Time of the last event: how long the run took by its own clock, without starting Python."""
    path = run / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    with suppress(ValueError, IndexError, KeyError, TypeError):
        return float(json.loads(lines[-1])["t_s"])
    return None
