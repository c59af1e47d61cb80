"""Prints, as one JSON object, what a Python on a device is: `python python_facts.py [FOLDER]`.

For any Python from 3.8 on, standard library only, since it runs before anything is installed:

    python, implementation, executable, machine, system (sys.platform), pointer_bits, libc (name and version)
    packages        name → version, null where it is not installed
    interpreters    of each runtime that is installed: module, imports, problem (null, or why it does not)
    folder, free_bytes   of FOLDER (default: where it is started), null where it does not exist

An interpreter is imported in a process of its own: one built for another processor ends it by a signal, such as SIGILL.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

PACKAGES = ("numpy", "flatbuffers", "tflite", "ai-edge-litert", "tflite-runtime", "pillow", "numba")
INTERPRETERS = {"ai-edge-litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}
_IMPORT_S = 120  # a first import from an SD card, on an emulated processor


def version(package: str) -> str | None:
    """Version of an installed package, None where it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def import_problem(module: str) -> str | None:
    """Why this Python cannot import `module`, in one line; None where it can."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_IMPORT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"took more than {_IMPORT_S} s"
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"ended by {signal_name(-done.returncode)}"
    words = done.stderr.decode(errors="replace").strip().splitlines()
    return words[-1] if words else f"exit code {done.returncode}"


def signal_name(number: int) -> str:
    """Name of a signal, such as SIGILL; real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def free_bytes(folder: str) -> int | None:
    """What can still be written in a folder; None where there is none."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def facts(folder: str) -> dict[str, object]:
    """All of it, see above."""
    packages = {package: version(package) for package in PACKAGES}
    interpreters = []
    for package, module in INTERPRETERS.items():
        if packages[package] is not None:
            problem = import_problem(module)
            interpreters.append({"module": module, "imports": problem is None, "problem": problem})
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "machine": platform.machine(),
        "system": sys.platform,
        "pointer_bits": struct.calcsize("P") * 8,
        "libc": " ".join(part for part in platform.libc_ver() if part) or None,
        "packages": packages,
        "interpreters": interpreters,
        "folder": str(Path(folder).resolve()),
        "free_bytes": free_bytes(folder),
    }


if __name__ == "__main__":
    print(json.dumps(facts(sys.argv[1] if len(sys.argv) > 1 else ".")))
