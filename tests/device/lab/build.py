"""Build the lab: an arm64 Debian root, and the device's packages in it, one environment a runtime.

The packages are downloaded here, where pip is quick, and installed in the root by its own pip, so that the
environments are what a user of a board gets. All of it happens in `<lab>.part`, which takes the lab's name at the end.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from signatures.errors import CapabilityError
from tests.device.lab.layout import PROJECT, PYTHON, RECIPE, Environment, Lab

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Wheels say the oldest glibc that they run on; the release has 2.36.
_DEBIAN_WHEELS = "usr/share/python-wheels"
_PLATFORMS = ("manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, 37)))


def build(lab: Lab) -> None:
    """Make the lab, unless it is current. CapabilityError where a tool fails; what it said is on stderr by then."""
    lab.folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(lab.folder.with_suffix(".lock")):
        if lab.is_current():
            _say(f"up to date: {lab.folder}")
            return
        started = time.monotonic()
        part = Lab(lab.folder.with_suffix(".part"))
        shutil.rmtree(part.folder, ignore_errors=True)  # of a build that was killed
        try:
            _make(part)
            shutil.rmtree(lab.folder, ignore_errors=True)
            part.folder.rename(lab.folder)
        finally:
            shutil.rmtree(part.folder, ignore_errors=True)
        _say(f"ready after {time.monotonic() - started:.0f} s: {lab.folder}")


def _make(lab: Lab) -> None:
    lab.folder.mkdir()
    with _step("wheels"):
        for environment in RECIPE.environments:
            _download(lab, environment)
    with _step(f"Debian {RECIPE.suite} (3 to 7 minutes)"):
        _debootstrap(lab)
    with _step("users and folders"):
        _furnish(lab)
    with _step("environments"), ThreadPoolExecutor() as pool:
        list(pool.map(lambda environment: _install(lab, environment), RECIPE.environments))
    lab.stamp.write_text(RECIPE.digest + "\n")


def _download(lab: Lab, environment: Environment) -> None:
    if importlib.util.find_spec("pip") is None:  # an environment that uv made
        raise CapabilityError(f"no pip to download wheels with: uv pip install --python {sys.executable} pip")
    platforms = [argument for platform in _PLATFORMS for argument in ("--platform", platform)]
    _tool(
        sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(lab.wheels(environment)),
        "--only-binary", ":all:", "--implementation", "cp", "--python-version", PYTHON, *platforms,
        *_wanted(environment), environment=dict(os.environ),
    )  # fmt: skip


def _debootstrap(lab: Lab) -> None:
    mirror = debian_mirror()
    include = ",".join(RECIPE.packages)
    _tool(
        *_launcher(), "debootstrap", "--arch", "arm64", "--variant", "minbase", "--include", include,
        RECIPE.suite, str(lab.root), *([mirror] if mirror else []), environment=dict(os.environ),
    )  # fmt: skip
    for leftover in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(lab.root / leftover)
        (lab.root / leftover / "partial").mkdir(parents=True)  # apt wants it


def _furnish(lab: Lab) -> None:
    """The user and the folder that adb's shell has on a phone."""
    for name, number in RECIPE.users:
        inside(lab, "groupadd", "--gid", str(number), name)
        home = ("--home-dir", "/data/local/tmp", "--no-create-home", "--shell", "/bin/sh")
        inside(lab, "useradd", "--uid", str(number), "--gid", str(number), *home, name)
    inside(lab, "install", "-d", "-m", "0771", "-o", "shell", "-g", "shell", "/data/local/tmp")


def _install(lab: Lab, environment: Environment) -> None:
    """Make an environment with the root's pip, from the wheels alone.

    As `python3 -m venv` and `pip install` do, but pip installs itself along with the rest: under emulation that
    takes half the time.
    """
    wheels = lab.root / "tmp" / environment.name
    shutil.copytree(lab.wheels(environment), wheels)
    (pip,) = (lab.root / _DEBIAN_WHEELS).glob("pip-*.whl")
    inside(lab, "python3", "-m", "venv", "--without-pip", environment.place)
    inside(
        lab, "env", f"PYTHONPATH=/{pip.relative_to(lab.root)}", environment.python, "-m", "pip", "install", "--quiet",
        "--no-index", "--find-links", f"/tmp/{environment.name}", "--find-links", f"/{_DEBIAN_WHEELS}",
        "--root-user-action", "ignore", "pip", *_wanted(environment),
    )  # fmt: skip
    shutil.rmtree(wheels)


def _wanted(environment: Environment) -> tuple[str, ...]:
    return (*environment.pins, *RECIPE.requirements)


def debian_mirror() -> str:
    """The mirror that this machine's apt takes Debian from; empty where it takes none, for debootstrap's own choice."""
    try:
        listed = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)", "Created-By: Packages"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return parse_mirror(listed)


def parse_mirror(listed: str) -> str:
    """The first of apt's index targets, "origin label URI" a line, that is Debian's archive; empty if none is."""
    for line in listed.splitlines():
        match line.split():
            case ["Debian", "Debian", uri] if uri.startswith(("http://", "https://")):
                return uri
    return ""


def emulated_cpu() -> str:
    """The processor that QEMU plays: QEMU_CPU, else a Raspberry Pi 4's."""
    return os.environ.get("QEMU_CPU", "cortex-a72")


def inside(lab: Lab, *command: str) -> None:
    """Run a command of the root, as its root and with nothing of this machine's environment."""
    clean = {"PATH": SYSTEM_PATH, "HOME": "/root", "LANG": "C.UTF-8", "QEMU_CPU": emulated_cpu()}
    _tool(*_launcher("--root", str(lab.root)), "chroot", str(lab.root), *command, environment=clean)


def _launcher(*options: str) -> tuple[str, ...]:
    """Start of a command line that runs the rest in namespaces of its own."""
    return (sys.executable, "-m", "tests.device.lab.namespace", *options, "--")


def _tool(*command: str, environment: dict[str, str]) -> None:
    """Run a tool; what it says is shown only if it fails."""
    done = subprocess.run(
        command,
        cwd=PROJECT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise CapabilityError(f"exit code {done.returncode} of {' '.join(command)}; what it said is above")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let one build at a time go on; the system frees the lock of a process that died."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _step(name: str) -> Iterator[None]:
    _say(f"{name} …")
    started = time.monotonic()
    yield
    _say(f"{name}: {time.monotonic() - started:.0f} s")


def _say(what: str) -> None:
    print(f"device lab: {what}", file=sys.stderr)
