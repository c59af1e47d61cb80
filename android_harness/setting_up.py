"""An environment on the device in which the adaptation runs: wheels from the host, or Termux' own packages."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import requires
from pathlib import Path
from shlex import join, quote

from packaging.requirements import Requirement

from android_harness.errors import DeviceAnswerError, DeviceFullError, MissingPackageError, WrongAbiError
from android_harness.files import inventory, mirror
from android_harness.places import Place
from android_harness.pythons import OLDEST, Python, examine, find_pythons
from android_harness.session import Session

DISTRIBUTION = "adabet-ondevice"
_INSTALL_S = 1800.0
_DOWNLOAD_S = 900
_OLDEST_GLIBC_MINOR = 17  # manylinux2014


def set_up(session: Session, place: Place, named: str | None, pins: Iterable[str]) -> Python:
    """Make a Python of `place` able to adapt, and return it.

    Termux installs its own packages, from the network; any other Python gets an environment beside our files, made of
    wheels that this host downloads for it. `pins` are further requirements, such as "ai-edge-litert==2.1.2". Raises
    MissingPackageError, WrongAbiError where nothing fits, DeviceFullError.
    """
    bases = find_pythons(session, place, named)
    for python in bases:
        if not python.problems and not list(pins):
            return python
    base = next((p for p in bases if tuple(map(int, p.version.split(".")[:2])) >= OLDEST), None)
    if base is None:
        raise MissingPackageError(
            f"no Python 3.10 or newer in {place.name}. Debian and Raspberry Pi OS: `apt install "
            "python3 python3-venv`; phones: Termux, see docs/devices.md"
        )
    python = _by_termux(session, place, base) if base.is_termux else _by_wheels(session, place, base, pins)
    if python.problems:
        raise python.problem()
    return python


def requirements(python: Python, pins: Iterable[str]) -> tuple[str, ...]:
    """What the device extra of this project asks for on the device that `python` runs on, with `pins` in its place."""
    environment = {
        "extra": "device",
        "platform_machine": python.machine,
        "sys_platform": "linux",
        "python_version": ".".join(python.version.split(".")[:2]),
        "python_full_version": python.version,
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    pinned = {Requirement(pin).name: pin for pin in pins}
    asked = [Requirement(line) for line in requires(DISTRIBUTION) or ()]
    fitting = [one for one in asked if one.marker is None or one.marker.evaluate(environment)]
    runtimes = {"ai-edge-litert", "tflite-runtime"}
    if runtimes & pinned.keys():
        fitting = [one for one in fitting if one.name not in runtimes]
    return (*(f"{one.name}{one.specifier}" for one in fitting), *pinned.values())


def platforms(python: Python) -> tuple[str, ...]:
    """The tags of wheels that run there, newest first. WrongAbiError where there are none, as without glibc."""
    name, _, version = (python.libc or "").partition(" ")
    if name != "glibc" or (python.pointer_bits == 32 and python.machine not in ("armv7l", "armv8l", "aarch64")):
        raise WrongAbiError(
            f"{' '.join(python.command)}: no wheels for {python.machine} with {python.libc or 'an unknown C library'}; "
            "Debian's Python in a proot has glibc"
        )
    machine = "armv7l" if python.pointer_bits == 32 else python.machine
    minor = int(version.split(".")[1])
    newest_first = range(minor, _OLDEST_GLIBC_MINOR - 1, -1)
    return (*(f"manylinux_2_{n}_{machine}" for n in newest_first), f"manylinux2014_{machine}", f"linux_{machine}")


def _by_termux(session: Session, place: Place, base: Python) -> Python:
    output = place.shell(f"sh {quote(session.scripts)}/setup_termux.sh", _INSTALL_S)
    print(output.text, file=sys.stderr)
    if output.code:
        raise MissingPackageError("Termux could not install everything; see above")
    python = examine(session, place, base.command)
    if python is None:
        raise DeviceAnswerError(f"{' '.join(base.command)} does not start any more")
    return python


def _by_wheels(session: Session, place: Place, base: Python, pins: Iterable[str]) -> Python:
    needed = requirements(base, pins)
    with _downloaded(base, needed) as wheels:
        remote = f"{session.work}/inputs/wheels"
        print(f"pushing {len(list(wheels.iterdir()))} wheels …", file=sys.stderr, flush=True)
        mirror(session.link, inventory(wheels), remote)
        pip = next(wheels.glob("pip-*.whl")).name
    folder = f"{session.work}/env" if place.own_user else f"{session.own_folder(place)}/env"
    command = (f"{folder}/bin/python",)
    print("installing …", file=sys.stderr, flush=True)
    # Debian's Python makes environments without python3-venv only where they need no pip; pip runs from its own wheel.
    output = place.shell(
        f"rm -rf {quote(folder)} && {join(base.command)} -m venv --without-pip {quote(folder)} && "
        f"{quote(command[0])} {quote(remote)}/{pip}/pip install --quiet --no-index --no-cache-dir "
        f"--disable-pip-version-check --find-links {quote(remote)} {join(needed)}",
        _INSTALL_S,
    )
    if output.code:
        place.shell(f"rm -rf {quote(folder)}")
        words = output.text.strip()[-600:]
        kind = DeviceFullError if "No space left" in words else MissingPackageError
        raise kind(f"the environment {folder} could not be made: {words}")
    session.link.checked(f"rm -rf {quote(remote)}")
    python = examine(session, place, command)
    if python is None:
        raise DeviceAnswerError(f"{command[0]} does not start")
    return python


@contextmanager
def _downloaded(python: Python, needed: tuple[str, ...]) -> Iterator[Path]:
    """A folder with wheels for the device's Python, pip among them."""
    arguments = [
        *(argument for platform in platforms(python) for argument in ("--platform", platform)),
        *("--python-version", python.version, "--implementation", "cp", "--only-binary", ":all:"),
    ]
    with tempfile.TemporaryDirectory(prefix="adabet-wheels-") as folder:
        print(f"downloading {', '.join(needed)} for {python.machine}, Python {python.version} …", file=sys.stderr)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", folder, *arguments, *needed, "pip"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_DOWNLOAD_S)
        if done.returncode:
            words = " ".join(line for line in done.stderr.splitlines() if line.startswith("ERROR"))[-600:]
            raise WrongAbiError(
                f"no wheels for {python.machine}, {python.libc}, Python {python.version}: {words or done.stderr[-400:]}"
            )
        yield Path(folder)
