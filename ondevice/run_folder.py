"""The run folder: what a run asks for, keeps while it works, and leaves; one process at a time.

RUN/adapted.tflite, weights.npz, report.json   the result, which comes there together, the report last
RUN/events.jsonl                               the conversation; whoever works in the folder holds a lock on it
RUN/work/                                      all that `--resume` needs, and what can be made again
RUN/finished/                                  the same once the result is whole, on its way into RUN
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ondevice.documents import read_document, write_document
from ondevice.request import Request
from signatures.durable import remove_left_over, sync_file, sync_folder
from signatures.errors import CapabilityError, UsageError

ADAPTED, WEIGHTS, REPORT = RESULTS = ("adapted.tflite", "weights.npz", "report.json")
EVENTS = "events.jsonl"
WORK, FINISHED, BEGUN, DISCARDED = FOLDERS = ("work", "finished", "begun", "discarded")
DECISION = "decision.json"
REQUEST = "request.json"
_FORMAT, _VERSION = "adabet-request", 1


@contextmanager
def begun(run: Path, request: Request, force: bool) -> Iterator[None]:
    """A run folder without traces of an older run, ours for as long as the block runs; an older result stays until the
    new one is there.

    UsageError if the folder holds something else, or a result or an interrupted training and not `force`, or another
    process works in it; CapabilityError if it cannot be written.
    """
    with _told(run):
        run.mkdir(parents=True, exist_ok=True)
        sync_folder(run.parent)
        _check_no_others(run)
        if not os.access(run, os.W_OK):
            raise PermissionError(13, os.strerror(13))
    with _locked(run):
        with _told(run):
            _tidy(run)
            if not force:
                _check_nothing_is_lost(run)
            (run / BEGUN).mkdir()
            write_document(request, run / BEGUN / REQUEST, _FORMAT, _VERSION)
            if (run / WORK).exists():
                (run / WORK).rename(run / DISCARDED)
            (run / BEGUN).rename(run / WORK)
            sync_folder(run)
            _tidy(run)
            (run / EVENTS).write_bytes(b"")
        yield


@contextmanager
def resumed(run: Path) -> Iterator[Request | None]:
    """The folder of an interrupted run, ours for as long as the block runs: what it was asked to do.

    None where the run is finished. UsageError if there is nothing to go on with, or another process works in it;
    InputError where what it kept is damaged; CapabilityError if it cannot be written.
    """
    with _told(run):
        if not (run / EVENTS).exists():
            raise UsageError(f"{run} holds no run to go on with")
    with _locked(run):
        with _told(run):
            _tidy(run)
            kept = run / WORK / REQUEST
            request = read_document(Request, kept, _FORMAT, _VERSION) if kept.exists() else None
            if request is None and not (run / REPORT).exists():
                raise UsageError(f"{run} holds no run to go on with: it ended before it began to work")
        yield request


def finish(run: Path) -> None:
    """The result in the work folder is whole: bring it into the run folder, in place of an older one."""
    for name in RESULTS:
        sync_file(run / WORK / name)
    sync_folder(run / WORK)
    (run / WORK).rename(run / FINISHED)
    sync_folder(run)
    publish(run)


def publish(run: Path) -> None:
    """Go on with bringing a result into the run folder, from wherever a process was killed at it; else nothing."""
    finished = run / FINISHED
    if not finished.exists():
        return
    if (finished / REPORT).exists():
        (run / REPORT).unlink(missing_ok=True)  # where a report lies, all of its run does
        sync_folder(run)
    for name in RESULTS:
        if (finished / name).exists():
            (finished / name).replace(run / name)
    sync_folder(run)
    shutil.rmtree(finished)


def _tidy(run: Path) -> None:
    """Go on with whatever a process was killed at between two states of the folder."""
    publish(run)
    if (run / DISCARDED).exists() and not (run / WORK).exists():
        (run / BEGUN).rename(run / WORK)
    for name in (BEGUN, DISCARDED):
        if (run / name).exists():
            shutil.rmtree(run / name)
    remove_left_over(run / WORK)


def _check_no_others(run: Path) -> None:
    ours = (*RESULTS, EVENTS, *FOLDERS) if (run / EVENTS).exists() else RESULTS  # a run begins with its events
    foreign = sorted(entry.name for entry in run.iterdir() if entry.name not in ours)
    if foreign:
        raise UsageError(f"{run} holds other files ({', '.join(foreign[:3])}): choose another --out")


def _check_nothing_is_lost(run: Path) -> None:
    if any((run / name).exists() for name in RESULTS):
        raise UsageError(f"{run} holds the result of a run: choose another --out, or --force to replace it")
    if (run / WORK / DECISION).exists():
        raise UsageError(
            f"{run} holds a run that was interrupted: go on with `--resume {run}`, or --force to start anew"
        )


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    with _told(run):
        file = (run / EVENTS).open("ab")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another process works in {run}: wait for it, or choose another --out") from None
        except OSError:
            pass  # a file system without locks
        yield


@contextmanager
def _told(run: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CapabilityError(f"cannot write the run folder {run}: {error.strerror}; choose another --out") from None
