"""`python -m profiling report RUN…`: one HTML file that shows what was picked in a run, why, what it cost and what it
gained, and several runs side by side; its pictures also lie beside it as PNG files.

FOLDER/report.html      complete in itself: no scripts, nothing loaded from anywhere
FOLDER/*.png            profile, memory, timeline, learning, confusion; of several runs also comparison
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from ondevice.ranking_table import ranks_of
from ondevice.selection import Ranked
from ondevice.show import differences, read_run
from profiling.report import captions, facts, units, words
from profiling.report.answers import (
    Confusion,
    Paired,
    Share,
    accuracy,
    by_class,
    confused,
    confusion_matrix,
    same_images,
)
from profiling.report.drawing import Picture, picture, style_sheet
from profiling.report.layers_picture import profile
from profiling.report.pictures import comparison, confused_pairs, confusion, learning, memory, timeline
from profiling.report.reading import FinishedRun, read_runs
from signatures.errors import CapabilityError, UsageError, exit_code_of

PAGE = "report.html"
MATRIX_CLASSES, PAIRS, PICKED_ROWS = 20, 20, 12
"""With more classes than these, the pairs that are confused most stand in place of the matrix; how many of them; how
many layers are listed outside of the table of all."""


@dataclass(frozen=True)
class Part:
    """What the page shows of one run, beside the run itself."""

    run: FinishedRun
    pictures: dict[str, Picture]
    pairs: tuple[Confusion, ...]
    """Classes that were confused, the worst first; empty also where the answers are not known."""
    classes: tuple[tuple[str, Share | None], ...]
    ranks: dict[str, int]

    @property
    def accuracy(self) -> Share:
        """On the test images, after."""
        return accuracy(self.run.report.after)

    @property
    def has_b1(self) -> bool:
        """Whether any layer was probed."""
        return any(row.b1_by_batch for row in self.run.report.selection.table)

    @property
    def picked(self) -> tuple[Ranked, ...]:
        """Layers that trained, the best first, as many as are listed; the head last."""
        chosen = sorted(self.run.chosen, key=lambda row: self.ranks.get(row.layer, 0))
        return (*chosen[:PICKED_ROWS], self.run.head)

    @property
    def unlisted(self) -> int:
        """How many trained beside these."""
        return max(0, len(self.run.chosen) - PICKED_ROWS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    p = argparse.ArgumentParser(prog="python -m profiling report", description=__doc__.split("\n\n")[0])
    p.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run folder that `ondevice.adapt` wrote")
    p.add_argument(
        "--out", type=Path, help="folder for the page and its pictures (default: the first RUN with -report)"
    )
    options = p.parse_args(arguments)
    return exit_code_of(lambda: _report(options.runs, options.out))


def _report(folders: Sequence[Path], out: Path | None) -> int:
    runs = read_runs(folders)
    first = folders[0].resolve()
    out = first.with_name(f"{first.name}-report") if out is None else out
    if (out / "report.json").exists():
        raise UsageError(f"{out} is a run folder, which holds nothing but its run: choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write(runs, out)
    except OSError as error:
        raise CapabilityError(f"cannot write to {out}: {error.strerror}; choose another --out") from None
    print(out / PAGE)
    return 0


def _write(runs: Sequence[FinishedRun], out: Path) -> None:
    """The page and its pictures into an existing folder; those of several runs are numbered and named."""
    numbered = len(runs) > 1
    parts = [_part(run, f"{place}-{_slug(run.name)}-" if numbered else "") for place, run in enumerate(runs, 1)]
    pictures = [drawn for part in parts for drawn in part.pictures.values()]
    overview = None
    if numbered:
        overview = picture("comparison", captions.comparison_alt(runs), lambda wide: comparison(runs, wide))
        pictures.append(overview)
    for drawn in pictures:
        (out / f"{drawn.name}.png").write_bytes(drawn.png)
    (out / PAGE).write_text(_page(parts, overview), encoding="utf-8")


def _part(run: FinishedRun, prefix: str) -> Part:
    def drawn(name: str, alt: str, draw: Callable[[FinishedRun, bool], Figure]) -> Picture:
        return picture(prefix + name, alt, lambda wide: draw(run, wide))

    pictures = {
        "profile": drawn("profile", captions.profile_alt(run), profile),
        "memory": drawn("memory", captions.memory_alt(run), memory),
        "timeline": drawn("timeline", captions.timeline_alt(run), timeline),
        "learning": drawn("learning", captions.learning_alt(run), learning),
    }
    ranks = ranks_of(run.report.selection.table)
    if not run.knows_answers:
        return Part(run, pictures, (), (), ranks)
    matrix = confusion_matrix(run)
    pairs = confused(matrix)
    alt = words.mistakes(run, pairs)
    if len(matrix) <= MATRIX_CLASSES:
        pictures["confusion"] = picture(prefix + "confusion", alt, lambda wide: confusion(run, matrix, wide))
    elif pairs:
        pictures["confusion"] = picture(
            prefix + "confusion", alt, lambda wide: confused_pairs(run, pairs[:PAIRS], wide)
        )
    classes = tuple(zip(run.report.classes, by_class(matrix), strict=True))
    return Part(run, pictures, tuple(pairs), classes, ranks)


def _page(parts: Sequence[Part], overview: Picture | None) -> str:
    here = Path(__file__).parent
    templates = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters.update(interval=units.interval, percent=units.percent, mib=units.mib, seconds=units.seconds)
    runs = [part.run for part in parts]
    style = style_sheet(":root") + (here / "page.css").read_text(encoding="utf-8")
    template = templates.get_template("page.html")
    return template.render(
        title=words.headline(runs[0]) if overview is None else words.several(runs),
        style=Markup(style),  # our own; all else is escaped
        parts=parts,
        overview=overview,
        differing=differences([read_run(run.folder).conditions for run in runs]),
        beside_first=[beside(runs[0], run) for run in runs[1:]],
        matrix_classes=MATRIX_CLASSES,
        words=words,
        captions=captions,
        facts_of=facts,
    )


def beside(first: FinishedRun, second: FinishedRun) -> str:
    """What the answers to the same test images say of two runs."""
    if same_images(first, second):
        return words.verdict(first.name, second.name, Paired.of(first.labels, first.answers, second.answers))
    return words.not_comparable(first, second)


def _slug(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name)
