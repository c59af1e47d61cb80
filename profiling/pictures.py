"""How pictures look, and how they are written: PNG to look at, SVG to enlarge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt

from signatures.errors import CapabilityError

WIDTH, DPI = 10.0, 150
"""Inches, dots an inch: text of 8 points is still read where the picture is shrunk to 800 pixels."""
BLUE, ORANGE, PURPLE, GREEN, GREY, RED = "#1f6f8b", "#d17a00", "#5b3f8c", "#3c7d3c", "#7a7a7a", "#c8102e"
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "svg.hashsalt": "adabet",  # the same file for the same record
}


@contextmanager
def drawing() -> Iterator[None]:
    """What is drawn in the block looks like all our pictures, and needs no display."""
    matplotlib.use("Agg")
    with matplotlib.rc_context(_STYLE):
        yield


def write_picture(figure: Any, folder: Path, stem: str) -> list[Path]:
    """Write a figure as FOLDER/STEM.png and .svg, within `drawing`, and close it; returns their paths.

    Raises CapabilityError where they cannot be written.
    """
    paths = [folder / f"{stem}{suffix}" for suffix in (".png", ".svg")]
    for path in paths:
        try:
            figure.savefig(path, dpi=DPI, metadata={"Date": None} if path.suffix == ".svg" else None)
        except OSError as error:
            raise CapabilityError(f"cannot write {path}: {error.strerror}") from None
    plt.close(figure)
    return paths
