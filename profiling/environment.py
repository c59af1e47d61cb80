"""The machine that measures, its software, and the state of this repository.

`python -m profiling.environment` prints the versions of what the Python has that runs it, as JSON.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from android_harness.parsers.cpu import parse_cpuinfo
from ondevice.runtime import interpreter_module
from signatures.errors import CapabilityError

ROOT = Path(__file__).resolve().parents[1]
DISTRIBUTIONS = (
    "numpy",
    "ai-edge-litert",
    "tflite-runtime",
    "flatbuffers",
    "tflite",
    "numba",
    "pillow",
    "tensorflow",
    "keras",
    "torch",
    "onnxruntime-training-cpu",
    "executorch",
    "MNN",
)
"""Those that matter to what is measured, where they are installed."""
_CPU_INFO = Path("/proc/cpuinfo")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


@dataclass(frozen=True)
class Environment:
    """The machine. None where it does not tell."""

    machine: str
    cpu: str
    """Names of its cores."""
    cores: int
    """That this process may use."""
    memory_bytes: int
    system: str
    """With the version of its kernel."""
    governor: str | None
    """Of the first core: what chooses its frequency."""
    load: float
    """Mean number of processes that ran or wanted to, over the minute before."""


@dataclass(frozen=True)
class Commit:
    """What git says of the program."""

    sha1: str
    dirty: bool
    """Whether tracked files differ from the commit."""


def environment() -> Environment:
    """This machine, now."""
    names = {core.name or core.part or "" for core in parse_cpuinfo(_text(_CPU_INFO)).processors} - {""}
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Environment(
        machine=platform.machine(),
        cpu=", ".join(sorted(names)) or platform.processor() or "unknown",
        cores=usable,
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        system=f"{platform.system()} {platform.release()}",
        governor=_text(_GOVERNOR).strip() or None,
        load=os.getloadavg()[0],
    )


def versions(distributions: Iterable[str] = DISTRIBUTIONS) -> dict[str, str]:
    """Of this Python, and of each of the distributions that it has."""
    found = {"python": platform.python_version()}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def versions_of(python: str) -> dict[str, str]:
    """The same of another Python. CapabilityError if it cannot be asked."""
    if python == sys.executable:
        return versions()
    command = [python, "-m", "profiling.environment"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        answer: dict[str, str] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise CapabilityError(f"{python} does not tell its versions: {error}") from None
    return answer


def commit(root: Path = ROOT) -> Commit | None:
    """The state of the git checkout whose top is `root`; None if there is none, or no git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return None  # unpacked inside of another checkout
        return Commit(git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no")))
    except (OSError, subprocess.CalledProcessError):
        return None


def in_words() -> dict[str, str]:
    """Machine, interpreter, versions and commit, for records that keep them as texts alone."""
    here, git = environment(), commit()
    return {
        "machine": f"{here.machine}, {here.cores} CPUs, {here.system}",
        "runtime": interpreter_module()[0],
        **versions(("numpy", "scipy")),
        "commit": "unknown" if git is None else f"{git.sha1}{'-dirty' if git.dirty else ''}",
    }


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    print(json.dumps(versions()))
