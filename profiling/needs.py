"""What a command needs before it measures anything: packages, and a folder to write to."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from signatures.errors import CapabilityError

PICTURES = {"matplotlib": "matplotlib"}
"""Module → package, of what draws."""


def need_packages(what: str, packages: Mapping[str, str]) -> None:
    """CapabilityError where `what` lacks packages, given as module → package."""
    if missing := [package for module, package in packages.items() if importlib.util.find_spec(module) is None]:
        raise CapabilityError(f"{what} take {' and '.join(missing)}: pip install {' '.join(missing)}")


def need_folder(folder: Path) -> None:
    """Make a folder where there is none. CapabilityError if that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CapabilityError(f"cannot make {folder}: {error.strerror}; choose another") from None
