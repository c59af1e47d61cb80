"""How pictures of the page are drawn: each for a desktop and for a phone, in colours that follow the reader's theme."""

from __future__ import annotations

import base64
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib
from matplotlib.figure import Figure

WIDE, NARROW = 960, 358
"""Widths in CSS pixels, of which a point of Matplotlib's is one here: text has the size that it says."""
COLOURS = {
    "ink": ("#1c2733", "#e6e9ed"),
    "muted": ("#5c6773", "#a3adb8"),
    "line": ("#dfe3e8", "#3a434d"),
    "paper": ("#ffffff", "#161b21"),
    "card": ("#f4f6f8", "#1f262e"),
    "main": ("#1f6f8b", "#63b8d6"),
    "soft": ("#a5c9d7", "#2f5d6d"),
    "pick": ("#c2410c", "#ff9d5c"),
    "mark": ("#6d3fa0", "#c39bf0"),
}
"""By name, for light and for dark themes."""
INK, MUTED, LINE, PAPER, MAIN, SOFT, PICK, MARK = (
    COLOURS[name][0] for name in ("ink", "muted", "line", "paper", "main", "soft", "pick", "mark")
)
_STYLE: dict[Any, Any] = {
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.labelsize": 12,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.linewidth": 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 11,
    "ytick.labelsize": 12,
    "legend.frameon": False,
    "legend.fontsize": 12,
    "text.parse_math": False,  # a class may be called $x$
    "svg.fonttype": "none",  # text stays text: small, and in any script that the reader's fonts have
    "svg.hashsalt": "adabet",  # the same file for the same run
}
_LONGEST = 26
_DENSITY = 144
"""Dots an inch of the PNG files: two a pixel."""


@dataclass(frozen=True)
class Picture:
    """A chart, drawn."""

    name: str
    """Of its PNG file, without the suffix."""
    alt: str
    """What it says, for those who do not see it."""
    wide: str
    """SVG as a data: address."""
    narrow: str
    png: bytes


def picture(name: str, alt: str, draw: Callable[[bool], Figure]) -> Picture:
    """Draw a chart twice, by `draw(wide)`."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # The file's font lacks some scripts; in the page, the browser has others.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        wide, narrow = (_laid_out(draw(of_desktop)) for of_desktop in (True, False))
        png = BytesIO()
        wide.savefig(png, format="png", dpi=_DENSITY)
        return Picture(name, alt, _address(wide), _address(narrow), png.getvalue())


def canvas(width: float, height: float) -> Figure:
    """An empty figure of so many CSS pixels."""
    return Figure(figsize=(width / 72, height / 72), layout="constrained")


def short(name: str, longest: int = _LONGEST) -> str:
    """A name that fits beside an axis: without its middle where it is long."""
    half = longest // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[half + 1 - longest :]}"


def style_sheet(selector: str) -> str:
    """The colours as custom properties of CSS."""
    light, dark = (";".join(f"--{name}:{pair[theme]}" for name, pair in COLOURS.items()) for theme in (0, 1))
    return f"{selector}{{{light}}}@media(prefers-color-scheme:dark){{{selector}{{{dark}}}}}"


def _laid_out(figure: Figure) -> Figure:
    """With everything in its place for good: else each file that is written lays it out twice more."""
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # by the defaults: none
    return figure


def _address(figure: Figure) -> str:
    file = BytesIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    names = {light: name for name, (light, _) in COLOURS.items()}
    text = re.sub(
        r"\b(fill|stroke): (#[0-9a-f]{6})\b",
        lambda match: f"{match[1]}: var(--{names[match[2]]})" if match[2] in names else match[0],
        file.getvalue().decode(),
    )
    text = re.sub(r'(width="[\d.]+)pt" (height="[\d.]+)pt"', r'\1" \2"', text, count=1)
    text = text.replace('<style type="text/css">', f'<style type="text/css">{style_sheet("svg")}', 1)
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()
