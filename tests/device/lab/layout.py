"""What the lab is made of and where its parts lie."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tomllib

from signatures.errors import CapabilityError

PROJECT = Path(__file__).resolve().parents[3]
PYTHON = "3.11"
"""Of the Debian release."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment in the root, at /opt/<name>; anyone there may read it."""

    name: str
    pins: tuple[str, ...]
    """The runtime, and what its own metadata does not say it needs."""

    @property
    def place(self) -> str:
        return f"/opt/{self.name}"

    @property
    def python(self) -> str:
        return f"{self.place}/bin/python"


@dataclass(frozen=True)
class Recipe:
    """All that decides what a build makes; another recipe makes another lab."""

    suite: str
    packages: tuple[str, ...]
    environments: tuple[Environment, ...]
    requirements: tuple[str, ...]
    """Of every environment, besides its pins."""
    users: tuple[tuple[str, int], ...]
    version: int
    """Of the program that follows the recipe: raise it when it makes something else of the same words."""

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def device_requirements() -> tuple[str, ...]:
    """What the extra `device` installs, without the lines that choose a runtime by the machine: those with a marker."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["device"]]
    return tuple(requirement for requirement in wanted if ";" not in requirement)


# What the extra installs on a 64-bit board today, pinned: 2.1.2 would overwrite the package tflite's __init__.py.
LITERT = Environment("litert", ("ai-edge-litert==2.3.0",))
TFLITE214 = Environment("tflite214", ("tflite-runtime==2.14.0", "numpy<2"))

RECIPE = Recipe(
    suite="bookworm",
    # Dropbear takes a fifth of OpenSSH's server, and starts nothing by itself in this package.
    packages=("python3", "python3-venv", "dropbear-bin", "openssh-sftp-server"),
    environments=(LITERT, TFLITE214),
    requirements=device_requirements(),
    users=(("shell", 2000),),  # adb's user on a phone
    version=1,
)


@dataclass(frozen=True)
class Lab:
    """A lab on disk."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def stamp(self) -> Path:
        """Holds the digest of the recipe; written last."""
        return self.folder / "recipe.sha256"

    def wheels(self, environment: Environment) -> Path:
        """The aarch64 wheels that an environment was installed from."""
        return self.folder / "wheels" / environment.name

    def is_current(self) -> bool:
        """Whether a build with today's recipe has finished here."""
        return self.stamp.is_file() and self.stamp.read_text().strip() == RECIPE.digest

    def require(self) -> None:
        """CapabilityError unless it is current."""
        if not self.is_current():
            state = "was made with another recipe" if self.stamp.is_file() else "is not there"
            raise CapabilityError(f"the device lab {state} ({self.folder}): run `make device-lab`")


LAB = Lab(PROJECT / ".work" / "device-lab")
"""Where `make device-lab` puts it."""


def exec_command(command: Sequence[str], *, tmpfs: Sequence[str] = (), lab: Lab = LAB) -> list[str]:
    """The command line that runs `command` beside the lab, to be started in the project's folder.

    tmpfs: "PLACE:SIZE" each, a small empty disk at an absolute path of the root.
    """
    disks = [argument for disk in tmpfs for argument in ("--tmpfs", disk)]
    return [sys.executable, "-m", "tests.device.lab", "--lab", str(lab.folder), "exec", *disks, "--", *command]


def is_native() -> bool:
    """Whether this machine runs arm64 programs itself."""
    return platform.machine() == "aarch64"


def parse_size(text: str) -> int:
    """Bytes of "64m" (k, m, g: powers of 1024). ValueError if it is not one."""
    match = re.fullmatch(r"([1-9]\d*)([kmg]?)", text)
    if match is None:
        raise ValueError(f"{text!r} is not a size like 64m")
    return int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[match[2]]
