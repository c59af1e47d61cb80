"""An environment on the device in which the adaptation runs: wheels from the host, or Termux' own packages."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import requires
from pathlib import Path
from shlex import join, quote

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from android_harness.errors import DeviceAnswerError, DeviceFullError, MissingPackageError, WrongAbiError
from android_harness.files import inventory, mirror
from android_harness.link import Output
from android_harness.places import Place
from android_harness.pythons import ARMV7, ARMV7_HELP, OLDEST, Python, environment_name, examine, find_pythons
from android_harness.session import Session
from signatures.errors import UsageError

DISTRIBUTION = "adabet-ondevice"
_INSTALL_S = 1800.0
_DOWNLOAD_S = 900
_OLDEST_GLIBC_MINOR = 17  # manylinux2014
_RUNTIMES = {"ai-edge-litert", "tflite-runtime"}
_PIP_OPTIONS = ("--quiet", "--no-index", "--no-cache-dir", "--disable-pip-version-check")


def set_up(session: Session, place: Place, named: str | None, pins: Sequence[str]) -> Python:
    """Make a Python of `place` able to adapt, and return it.

    Termux installs its own packages, from the network; any other Python, one in a proot too, gets an environment beside
    our files, made of wheels that this host downloads for it. `pins` are further requirements, such as
    "ai-edge-litert==2.1.2". Raises MissingPackageError, WrongAbiError where nothing fits, DeviceFullError, UsageError.
    """
    pinned = parse_pins(pins)
    base = None
    for python in find_pythons(session, place, named):
        if not python.problems and not pins:
            return python
        if base is None and tuple(map(int, python.version.split(".")[:2])) >= OLDEST:
            base = python
    if base is None:
        raise MissingPackageError(
            f"no Python 3.10 or newer in {place.name}{f' at {named}' if named else ''}. Debian and Raspberry Pi OS: "
            "`apt install python3 python3-venv`; phones: Termux, see docs/devices.md"
        )
    if base.is_termux and pins:
        raise UsageError(f"--pin {pins[0]}: Termux has its own packages, in the versions that it has")
    made = _by_termux(session, place, base) if base.is_termux else _by_wheels(session, place, base, pinned)
    if made.problems:
        raise made.problem()
    return made


def parse_pins(pins: Sequence[str]) -> tuple[Requirement, ...]:
    """The requirements that `pins` say. UsageError for what says none."""
    parsed = []
    for pin in pins:
        try:
            parsed.append(Requirement(pin))
        except InvalidRequirement as error:
            raise UsageError(f"--pin {pin}: not such as ai-edge-litert==2.1.2 ({str(error).splitlines()[0]})") from None
    return tuple(parsed)


def requirements(python: Python, pins: Sequence[Requirement]) -> tuple[str, ...]:
    """What the device extra of this project asks for where `python` runs, and `pins`; a runtime among them is the only.

    The machine is that of its userland, which wheels are for, and not the kernel's.
    """
    environment = {
        "extra": "device",
        "platform_machine": python.userland,
        "sys_platform": "linux",
        "python_version": ".".join(python.version.split(".")[:2]),
        "python_full_version": python.version,
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    asked = [Requirement(line) for line in requires(DISTRIBUTION) or ()]
    fitting = [one for one in asked if one.marker is None or one.marker.evaluate(environment)]
    if _RUNTIMES & {canonicalize_name(pin.name) for pin in pins}:
        fitting = [one for one in fitting if one.name not in _RUNTIMES]
    return (*(f"{one.name}{one.specifier}" for one in fitting), *map(str, pins))


def platforms(python: Python) -> tuple[str, ...]:
    """The tags of wheels that run there, newest first. WrongAbiError where there are none, as without glibc."""
    glibc = re.fullmatch(r"glibc 2\.(\d+).*", python.libc or "")
    if glibc is None or (python.pointer_bits == 32 and python.userland != ARMV7):
        raise WrongAbiError(
            f"{join(python.command)}: no wheels for {python.machine}, {python.pointer_bits} bits, with "
            f"{python.libc or 'an unknown C library'}; Debian's Python in a proot has glibc: docs/devices.md, "
            '"Debian in Termux"'
        )
    machine = python.userland
    newest_first = range(int(glibc[1]), _OLDEST_GLIBC_MINOR - 1, -1)
    return (*(f"manylinux_2_{n}_{machine}" for n in newest_first), f"manylinux2014_{machine}", f"linux_{machine}")


def _by_termux(session: Session, place: Place, base: Python) -> Python:
    output = place.shell(f"sh {quote(session.scripts)}/setup_termux.sh", _INSTALL_S)
    print(output.text, file=sys.stderr)
    if output.code:
        raise MissingPackageError("Termux could not install everything; see above")
    return _examined(session, place, base.prefix, base.interpreter)


def _by_wheels(session: Session, place: Place, base: Python, pins: Sequence[Requirement]) -> Python:
    needed = requirements(base, pins)
    with _downloaded(base, needed) as wheels:
        remote = _pushed(session, wheels)
        pip = next(wheels.glob("pip-*.whl")).name
    folder = f"{session.work if place.own_user else session.own_folder(place)}/{environment_name(base.prefix)}"
    output = _installed(place, base, folder, f"{remote}/{pip}/pip", ("--find-links", remote, *needed))
    session.link.checked(f"rm -rf {quote(remote)}")
    if output.code:
        place.shell(f"rm -rf {quote(folder)}")
        words = output.text.strip()[-600:]
        kind = DeviceFullError if "No space left" in words else MissingPackageError
        raise kind(f"the environment {folder} could not be made: {words}")
    return _examined(session, place, base.prefix, f"{folder}/bin/python")


def _pushed(session: Session, wheels: Path) -> str:
    """The folder of the device that holds the wheels now."""
    remote = session.inputs("wheels")
    print(f"pushing {len(list(wheels.iterdir()))} wheels …", file=sys.stderr, flush=True)
    mirror(session.link, inventory(wheels), remote)
    return remote


def _installed(place: Place, base: Python, folder: str, pip: str, what: Sequence[str]) -> Output:
    """Make the environment with the Python `base` and install in it, both where that one lives."""
    print("installing …", file=sys.stderr, flush=True)
    # Debian's Python makes environments without python3-venv only where they need no pip; pip runs from its own wheel.
    # --clear and not rm: the base may be the Python of an environment that is there already, and knows its own base.
    make = (base.interpreter, "-m", "venv", "--clear", "--without-pip", folder)
    install = (f"{folder}/bin/python", pip, "install", *_PIP_OPTIONS, *what)
    return place.shell(join((*base.prefix, "sh", "-c", f"{join(make)} && {join(install)}")), _INSTALL_S)


def _examined(session: Session, place: Place, prefix: tuple[str, ...], interpreter: str) -> Python:
    python = examine(session, place, prefix, interpreter)
    if python is None:
        raise DeviceAnswerError(f"{join((*prefix, interpreter))} does not start")
    return python


@contextmanager
def _downloaded(python: Python, needed: tuple[str, ...]) -> Iterator[Path]:
    """A folder with wheels for the device's Python, pip among them."""
    arguments = [
        *(argument for platform in platforms(python) for argument in ("--platform", platform)),
        *("--python-version", python.version, "--implementation", "cp", "--only-binary", ":all:"),
    ]
    with tempfile.TemporaryDirectory(prefix="adabet-wheels-") as folder:
        print(f"downloading {', '.join(needed)} for {python.userland}, Python {python.version} …", file=sys.stderr)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", folder, *arguments, *needed, "pip"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_DOWNLOAD_S)
        if done.returncode:
            words = " ".join(line for line in done.stderr.splitlines() if line.startswith("ERROR"))[-600:]
            raise WrongAbiError(
                f"no wheels for {python.userland}, {python.libc}, Python {python.version}: "
                f"{words or done.stderr[-400:]}{f'; {ARMV7_HELP}' if python.userland == ARMV7 else ''}"
            )
        yield Path(folder)
