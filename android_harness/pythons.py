"""The Pythons of a device: which there are, what each lacks, and which one runs the adaptation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
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
_USUAL = "/usr/bin/python3 /usr/local/bin/python3"  # a daemon's PATH may be anything
_BESIDE = {
    "adb": f"/data/local/tmp/*/bin/python3 {_USUAL}",  # the first: what someone unpacked beside us
    "run-as": _USUAL,
    "ssh": f"~/env/bin/python {_USUAL}",
}
"""Where to look beside the environment that `setup` makes and the PATH."""
_LISTED = """
ours=$1
shift
for p in "$ours" "$(command -v python3)" "$(command -v python)" "$@"; do [ -x "$p" ] && echo "$p"; done
:"""
_ARM = ("aarch64", "armv8l", "armv7l")
ARMV7 = "armv7l"
ARMV7_HELP = (
    'on 32-bit ARM, NumPy and Pillow come from the distribution or from piwheels: docs/devices.md, "32-bit, armv7"'
)


@dataclass(frozen=True)
class Python:
    """A Python of the device and what it says of itself.

    place: see Place. prefix: the words that start something where it lives, such as those of proot-distro; mostly none.
    interpreter: its path there, or its name on the PATH. machine: of the kernel, see `userland`. runtime: the
    interpreter that imports, with its version.
    """

    place: str
    prefix: tuple[str, ...]
    interpreter: str
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
    def command(self) -> tuple[str, ...]:
        """The words that start it."""
        return (*self.prefix, self.interpreter)

    @property
    def userland(self) -> str:
        """The machine that packages are for: armv7l too where a 64-bit kernel runs a 32-bit ARM system."""
        return ARMV7 if self.pointer_bits == 32 and self.machine in _ARM else self.machine

    @property
    def is_termux(self) -> bool:
        """Whether it is Termux' own, which wheels do not fit."""
        return not self.prefix and "com.termux" in self.interpreter

    @property
    def remedy(self) -> str:
        """The line that installs what is missing."""
        if self.is_termux:
            return "run `sh setup_termux.sh` in Termux (docs/devices.md), or `python -m android_harness setup`"
        if self.userland == ARMV7:
            return ARMV7_HELP
        named = f" --python {quote(self.interpreter)}" if self.prefix else ""  # setup would take the place's own
        return (
            f"`python -m android_harness setup --place {self.place}{named}` makes an environment for it; by hand: on "
            f"Debian `apt install python3-venv`, then {join(self.command)} -m venv env, "
            "env/bin/pip install '.[device]'"
        )

    def problem(self) -> AdabetError:
        """What to tell the user where this one is the best there is."""
        words = f"{join(self.command)} ({self.place}): {'; '.join(self.problems)}"
        kind = WrongAbiError if self.wrong_abi else MissingPackageError
        return kind(f"{words}. {self.remedy[0].upper()}{self.remedy[1:]}")


def find_pythons(session: Session, place: Place, named: str | None = None) -> Iterator[Python]:
    """The Pythons of one place, each examined as it is asked for; with `named`, the one at that path or of that name.

    Those inside Debian's proot come last, and one named is looked for there where it is not outside.
    """
    if not place.own_user:  # or its user could not read our scripts
        session.link.checked(f"chmod 755 {quote(session.work)}")
    for prefix in ((), _proot(session)):
        for interpreter in [named] if named else _listed(session, place, prefix):
            python = examine(session, place, prefix, interpreter)
            if python is not None:
                yield python
                if named:
                    return


def environment_name(prefix: tuple[str, ...]) -> str:
    """The folder in which `setup` makes an environment: one made in a proot starts nowhere else."""
    return "env-proot" if prefix else "env"


def choose(session: Session, place: str | None, named: str | None) -> tuple[Place, Python]:
    """The first Python that has all it needs: adb's user first, then Termux by run-as, then by ssh, or only `place`.

    Raises MissingPackageError or WrongAbiError of the one that comes closest, or whatever else keeps us out.
    """
    pythons: list[Python] = []
    closed: list[AdabetError] = []
    for name in [place] if place else promising(session):
        try:
            there = session.place(name)
        except AdabetError as error:
            closed.append(error)
            continue
        with ExitStack() as stack:
            stack.callback(there.close)
            for python in find_pythons(session, there, named):
                if not python.problems:
                    stack.pop_all()
                    return there, python
                pythons.append(python)
    raise best_problem(pythons, closed, named)


def best_problem(pythons: Sequence[Python], closed: Sequence[AdabetError], named: str | None) -> AdabetError:
    """What to raise where none of `pythons` is ready: what the closest lacks, or what kept us out of other places."""
    if pythons:
        return min(pythons, key=lambda python: len(python.problems)).problem()
    if closed:
        return closed[0]
    return MissingPackageError(
        f"no Python found{f' at {named}' if named else ''}. Debian and Raspberry Pi OS: `apt install python3 "
        "python3-venv`; phones: Termux, see docs/devices.md; elsewhere name one by --python"
    )


def promising(session: Session) -> Iterator[str]:
    """The places worth a try, without being asked for: Termux only where it is installed."""
    yield "adb"
    if session.link.shell("pm path com.termux 2>/dev/null | grep -q .").code == 0:
        yield "run-as"
        yield "ssh"


def examine(session: Session, place: Place, prefix: tuple[str, ...], interpreter: str) -> Python | None:
    """Have a Python tell of itself; None for what is no Python 3.8 or newer."""
    command = join((*prefix, interpreter))
    output = place.shell(f"{command} {quote(f'{session.scripts}/python_facts.py')} {quote(session.work)}", _LOOK_S)
    *_, last = output.text.strip().splitlines() or [""]
    if output.code:
        return None
    try:
        return _read(place.name, prefix, interpreter, json.loads(last))
    except (ValueError, KeyError, TypeError) as error:
        raise DeviceAnswerError(f"{command} answered {last[:200]!r} ({type(error).__name__}: {error})") from None


def _read(place: str, prefix: tuple[str, ...], interpreter: str, told: dict[str, Any]) -> Python:
    version = str(told["python"])
    packages = {str(name): version and str(version) for name, version in told["packages"].items()}
    runtime = None
    problems = []
    wrong_abi = False
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        problems.append(f"Python {version} is too old, 3.10 is needed")
    problems += [f"{package} is missing" for package in NEEDED if packages.get(package) is None]
    broken = []
    for tried in told["interpreters"]:
        package = tried["module"].partition(".")[0].replace("_", "-")
        if tried["imports"]:
            runtime = runtime or f"{package} {packages[package]}"
        else:
            broken.append(f"{package} {packages[package]} does not load: {tried['problem']}")
    if runtime is None and all(packages.get(package) for package in NEEDED):
        # Without NumPy no interpreter loads, and that says nothing of the interpreter.
        problems += broken or ["an interpreter (ai-edge-litert or tflite-runtime) is missing"]
        wrong_abi = bool(broken)
    elif runtime is None and not broken:
        problems.append("an interpreter (ai-edge-litert or tflite-runtime) is missing")
    return Python(
        place,
        prefix,
        interpreter,
        version,
        str(told["machine"]),
        int(told["pointer_bits"]),
        told["libc"],
        runtime,
        packages,
        tuple(problems),
        wrong_abi,
    )


def _proot(session: Session) -> tuple[str, ...]:
    """The words that start something inside Termux' Debian: it sees our folder and Termux' home as they are outside."""
    return ("proot-distro", "login", "debian", "--bind", f"{session.work}:{session.work}", "--")


def _listed(session: Session, place: Place, prefix: tuple[str, ...]) -> list[str]:
    """Paths of what may be Pythons, best first, each once.

    By their text: an environment's Python is a link to the one that it was made with, and another Python.
    """
    ours = quote(session.work) if place.own_user else "~/.adabet"  # the shell outside of a proot knows which home
    where = f"{ours}/{environment_name(prefix)}/bin/python {_USUAL if prefix else _BESIDE[place.name]}"
    inside = f"{join((*prefix, 'sh', '-c', _LISTED, 'sh'))} {where}"
    output = place.shell(inside if prefix else f"set -- {where}{_LISTED}", _LOOK_S)  # sh may not be on the PATH
    if output.code:  # no proot-distro there, or no Debian in it, which it alone knows: its folders have moved
        return []
    return [path for path in dict.fromkeys(output.text.splitlines()) if path.startswith("/")]
