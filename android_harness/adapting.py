"""Adapt on the device and profile it: inputs there, repeats in fresh processes, results here, settings as they were."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from shlex import quote

from android_harness.conditions import Conditions
from android_harness.errors import ThrottledError
from android_harness.inputs import BUNDLE, CODE, DATA, push_inputs
from android_harness.job import Job
from android_harness.leftovers import stop_abandoned
from android_harness.places import Place
from android_harness.profile import Profile, write_profile
from android_harness.pythons import Python, choose
from android_harness.repeat import Repeat, measure, uninterrupted
from android_harness.session import Session
from android_harness.settings import Setting, change, restore
from signatures.errors import AdabetError


@dataclass(frozen=True)
class Plan:
    """What to run. arguments: for ondevice.adapt, beyond bundle, data and run folder. place, python: None chooses.

    timeout_s: of one repeat. cooldown_s: how long to wait at most until the device is cool again.
    """

    bundle: Path
    data: Path
    out: Path
    arguments: tuple[str, ...]
    repeats: int
    timeout_s: int
    cooldown_s: float
    place: str | None
    python: str | None


def adapt(session: Session, plan: Plan, settings: Sequence[Setting]) -> tuple[Profile, AdabetError | None]:
    """Run the plan; the profile of what was done, and what ended it early.

    profile.json is written after every repeat. Settings are put back whatever happens, unless the connection is gone:
    then the next command does it, for what they were is written down on the device.
    """
    restore(session.link, session.journal)  # of a run that could not
    place, python = choose(session, plan.place, plan.python)
    try:
        _let_in(session, place)
        stop_abandoned(session, place)
        push_inputs(session, plan.bundle, plan.data)
        with _changed(session, settings) as changed:
            return _repeat(session, plan, place, python, changed)
    finally:
        place.close()


def command(session: Session, python: Python, job: str, cache: str, arguments: Iterable[str]) -> tuple[str, ...]:
    """The words that adapt in the folder `job` of the device, once they are where the Python lives.

    Compiled train files and kernels are kept in the job too, so that every repeat is a first run; Python's bytecode,
    which says nothing of the method, in `cache`.
    """
    environment = (f"PYTHONPATH={session.inputs(CODE)}", f"PYTHONPYCACHEPREFIX={cache}/bytecode")
    return (
        *("env", *environment, f"XDG_CACHE_HOME={job}/cache", python.interpreter, "-m", "ondevice.adapt"),
        *(session.inputs(BUNDLE), "--data", session.inputs(DATA), "--out", f"{job}/run", *arguments),
    )


def _repeat(
    session: Session, plan: Plan, place: Place, python: Python, changed: tuple[str, ...]
) -> tuple[Profile, AdabetError | None]:
    own = session.own_folder(place)
    started = datetime.now().strftime("%Y%m%d-%H%M%S")
    repeats: list[Repeat] = []
    rest: Conditions | None = None
    device = session.facts()
    failure: AdabetError | None = None
    for number in range(1, plan.repeats + 1):
        print(f"run {number} of {plan.repeats}, {' '.join(python.command)} ({place.name})", file=sys.stderr, flush=True)
        job = Job(place, session.adb, session.scripts, f"{own}/jobs/{started}-{number}")
        words = command(session, python, job.folder, own, plan.arguments)
        out = plan.out / f"run{number}"
        repeat, failure = measure(number, job, words, python.prefix, plan.timeout_s, out, rest, plan.cooldown_s)
        rest = rest or repeat.before
        repeats.append(repeat)
        profile = Profile(
            session.link.serial,
            plan.arguments,
            place.name,
            python,
            changed,
            session.link.reconnections,
            device,
            tuple(repeats),
        )
        write_profile(profile, plan.out / "profile.json")
        if failure is not None:
            break
    if failure is None and not profile.clean:
        failure = ThrottledError(
            f"every run was throttled or swapped, so nothing was averaged (the figures are in "
            f"{plan.out}); let it cool down, on a mains charger, with nothing else open, or allow more --cooldown"
        )
    return profile, failure


@contextmanager
def _changed(session: Session, settings: Sequence[Setting]) -> Iterator[tuple[str, ...]]:
    """The settings are so in the block, and what they were behind it, however it ends."""
    try:
        yield change(session.link, settings, session.journal)
    finally:
        if settings:
            with uninterrupted("putting the device's settings back …"):
                restore(session.link, session.journal)


def _let_in(session: Session, place: Place) -> None:
    """Other users of the device may read our folder only where one of them runs the adaptation."""
    session.link.checked(f"chmod {'700' if place.own_user else '755'} {quote(session.work)}")
