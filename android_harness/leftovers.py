"""What earlier commands left on a device: results that nobody fetched, runs, files, changed settings."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from shlex import quote

from android_harness.errors import DeviceAnswerError
from android_harness.job import Job
from android_harness.places import Place
from android_harness.repeat import fetch
from android_harness.session import Session
from android_harness.settings import restore
from signatures.errors import AdabetError


def pull(session: Session, out: Path) -> tuple[Path, ...]:
    """Fetch every run that has ended, to a folder each under `out`, and remove it from the device."""
    fetched = []
    for place in _places(session):
        with closing(place):
            for job in _jobs(session, place):
                name = job.folder.rpartition("/")[2]
                if job.is_running():
                    print(f"{name} is still running: left there", file=sys.stderr)
                    continue
                fetch(job, out / name)
                job.remove()
                fetched.append(out / name)
    return tuple(fetched)


def stop_abandoned(session: Session, place: Place) -> None:
    """Stop runs that are still going on: one device measures one thing at a time, and their host has left them."""
    for job in _jobs(session, place):
        if job.is_running():
            print(f"stopping {job.folder}, which an earlier command left running", file=sys.stderr)
            job.stop()
            job.remove()


def clean(session: Session) -> int:
    """Stop what runs, put settings back, remove everything of ours; returns how many settings were put back.

    What cannot be entered any more is named on stderr, and the rest is done. Raises DeviceAnswerError, after all else,
    with the settings that could not be put back.
    """
    settings: int | DeviceAnswerError
    try:
        settings = restore(session.link, session.journal)
    except DeviceAnswerError as error:
        settings = error
    for place in _places(session):
        with closing(place):
            for job in _jobs(session, place):
                job.stop()
            place.shell(f"rm -rf {quote(session.own_folder(place))}", timeout_s=300)
    session.link.checked(f"rm -rf {quote(session.work)}", timeout_s=300)
    if isinstance(settings, DeviceAnswerError):
        raise settings
    return settings


def _places(session: Session) -> Iterator[Place]:
    yield session.adb
    for name in session.places_used():
        try:
            yield session.place(name)
        except AdabetError as error:
            print(f"what {name} left cannot be reached: {error}", file=sys.stderr)


def _jobs(session: Session, place: Place) -> Iterator[Job]:
    folder = f"{session.own_folder(place)}/jobs"
    for name in place.shell(f"ls {quote(folder)} 2>/dev/null").text.split():
        yield Job(place, session.adb, session.scripts, f"{folder}/{name}")
