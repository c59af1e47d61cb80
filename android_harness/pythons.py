"""The Pythons of a device: which there are, what each lacks, and which one runs the adaptation."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from shlex import join, quote
from typing import Any

from android_harness.errors import DeviceAnswerError, MissingPackageError, WrongAbiError
from android_harness.places import Place
from android_harness.session import Session
from signatures.errors import AdabetError

OLDEST = (3, 10)
NEEDED = ("numpy", "flatbuffers", "tflite")
_LOOK_S = 180.0
"""A first import from an SD card takes its time."""
_WHERE = {
    # The environment that `setup` makes, what is on the PATH, what someone unpacked beside us, proot's Debian.
    "adb": '{work}/env/bin/python "$(command -v python3)" "$(command -v python)" /data/local/tmp/*/bin/python3',
    "run-as": '"$(command -v python)"',
    "ssh": '"$(command -v python3)" "$(command -v python)" ~/env/bin/python ~/.adabet/env/bin/python',
}
_PROOT = "proot-distro login debian --bind {work}:{work} --"


@dataclass(frozen=True)
class Python:
    """A Python of the device and what it says of itself.

    place: see Place. command: the words that start it. runtime: the interpreter that imports, with its version.
    """

    place: str
    command: tuple[str, ...]
    version: str
    machine: str
    pointer_bits: int
    libc: str | None
    runtime: str | None
    packages: dict[str, str | None]
    problems: tuple[str, ...]
    """Why it cannot run the adaptation; empty if it can."""
    wrong_abi: bool
    """Whether a package is there, but built for another processor or Python."""

    @property
    def is_termux(self) -> bool:
        """Whether it is Termux' own, which wheels do not fit."""
        return "com.termux" in self.command[-1]

    @property
    def remedy(self) -> str:
        """The line that installs what is missing."""
        if self.is_termux:
            return "run `sh setup_termux.sh` in Termux (docs/devices.md), or `python -m android_harness setup`"
        return (
            "`python -m android_harness setup` makes an environment for it; by hand: on Debian `apt install "
            f"python3-venv`, then {' '.join(self.command)} -m venv env, env/bin/pip install '.[device]'"
        )

    def problem(self) -> AdabetError:
        """What to tell the user where this one is the best there is."""
        words = f"{' '.join(self.command)} ({self.place}): {'; '.join(self.problems)}"
        kind = WrongAbiError if self.wrong_abi else MissingPackageError
        return kind(f"{words}. {self.remedy[0].upper()}{self.remedy[1:]}")


def find_pythons(session: Session, place: Place, named: str | None = None) -> tuple[Python, ...]:
    """The Pythons of one place, each examined; only the one at the path `named`, where that is given."""
    found = [examine(session, place, command) for command in _commands(session, place, named)]
    return tuple(python for python in found if python is not None)


def choose(session: Session, place: str | None, named: str | None) -> tuple[Place, Python]:
    """The first Python that has all it needs: adb's user first, then Termux by run-as, then by ssh, or only `place`.

    Raises MissingPackageError or WrongAbiError of the one that comes closest, or whatever else keeps us out.
    """
    pythons: list[Python] = []
    closed: list[AdabetError] = []
    for name in [place] if place else _promising(session):
        try:
            there = session.place(name)
        except AdabetError as error:
            closed.append(error)
            continue
        for python in find_pythons(session, there, named):
            if not python.problems:
                return there, python
            pythons.append(python)
        there.close()
    if pythons:
        raise min(pythons, key=lambda python: len(python.problems)).problem()
    if closed:
        raise closed[0]
    raise MissingPackageError(
        f"no Python found{f' at {named}' if named else ''}. Debian and Raspberry Pi OS: `apt install python3 "
        "python3-venv`; phones: Termux, see docs/devices.md; elsewhere name one by --python"
    )


def examine(session: Session, place: Place, command: tuple[str, ...]) -> Python | None:
    """Have a Python tell of itself; None for what is no Python 3.8 or newer."""
    script = f"{session.scripts}/python_facts.py"
    output = place.shell(f"{join(command)} {quote(script)} {quote(session.work)}", _LOOK_S)
    *_, last = output.text.strip().splitlines() or [""]
    if output.code:
        return None
    try:
        return _read(place.name, command, json.loads(last))
    except (ValueError, KeyError, TypeError) as error:
        raise DeviceAnswerError(
            f"{' '.join(command)} answered {last[:200]!r} ({type(error).__name__}: {error})"
        ) from None


def _read(place: str, command: tuple[str, ...], told: dict[str, Any]) -> Python:
    version = str(told["python"])
    packages = {str(name): version and str(version) for name, version in told["packages"].items()}
    runtime = None
    problems = []
    wrong_abi = False
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        problems.append(f"Python {version} is too old, 3.10 is needed")
    problems += [f"{package} is missing" for package in NEEDED if packages.get(package) is None]
    broken = []
    for interpreter in told["interpreters"]:
        package = interpreter["module"].partition(".")[0].replace("_", "-")
        if interpreter["imports"]:
            runtime = runtime or f"{package} {packages[package]}"
        else:
            broken.append(f"{package} {packages[package]} does not load: {interpreter['problem']}")
    if runtime is None and all(packages.get(package) for package in NEEDED):
        # Without NumPy no interpreter loads, and that says nothing of the interpreter.
        problems += broken or ["an interpreter (ai-edge-litert or tflite-runtime) is missing"]
        wrong_abi = bool(broken)
    elif runtime is None and not broken:
        problems.append("an interpreter (ai-edge-litert or tflite-runtime) is missing")
    return Python(
        place,
        command,
        version,
        str(told["machine"]),
        int(told["pointer_bits"]),
        told["libc"],
        runtime,
        packages,
        tuple(problems),
        wrong_abi,
    )


def _promising(session: Session) -> Iterable[str]:
    """The places worth a try, without being asked for: Termux only where it is installed."""
    yield "adb"
    if session.link.shell("pm path com.termux 2>/dev/null | grep -q .").code == 0:
        yield "run-as"
        yield "ssh"


def _commands(session: Session, place: Place, named: str | None) -> list[tuple[str, ...]]:
    if named:
        return [(named,)]
    where = _WHERE[place.name].format(work=quote(session.work))
    listed = place.shell(f'for p in {where}; do [ -x "$p" ] && echo "$p"; done').text.splitlines()
    commands: list[tuple[str, ...]] = [(path,) for path in dict.fromkeys(listed) if path.startswith("/")]
    if place.shell(
        "command -v proot-distro >/dev/null && [ -d $PREFIX/var/lib/proot-distro/installed-rootfs/debian ]"
    ).code:
        return commands
    return [*commands, (*_PROOT.format(work=session.work).split(), "python3")]
