"""Measurements of several frameworks as one table: medians over the repeats, and ratios formed within each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from profiling.peers.measurement import Measurement

COMPARED: tuple[Callable[[Measurement], float], ...] = (
    lambda one: one.first_s,
    lambda one: one.later_s,
    lambda one: one.peak_bytes,
)
"""What ratios are formed of, in the order of the columns."""
FIRST_STEPS = 5
"""Steps whose losses have to agree."""
AGREEMENT = 1e-3
"""Largest relative difference of a loss that rounding explains."""
_MIB = 1 << 20


@dataclass(frozen=True)
class Ratio:
    """Ours over theirs: the median over the repeats, the smallest and the largest."""

    median: float
    smallest: float
    largest: float

    def __str__(self) -> str:
        smallest, middle, largest = (
            f"{value:.2f}" if value >= 0.095 else f"{value:.3f}" for value in (self.smallest, self.median, self.largest)
        )
        return f"{middle} ({smallest}–{largest})"


@dataclass(frozen=True)
class Row:
    """One framework: medians over the repeats; ratios are None for ours."""

    framework: str
    note: str
    first_s: float
    later_s: float
    peak_bytes: float
    added_bytes: float
    """Peak above the process with the framework alone."""
    first: Ratio | None = None
    later: Ratio | None = None
    peak: Ratio | None = None


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Repeat by repeat: what disturbs the machine for a while disturbs both."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Ratio(median(ratios), min(ratios), max(ratios))


def rows(ours: Sequence[Measurement], others: Sequence[Sequence[Measurement]]) -> list[Row]:
    """A row for each framework, ours first; each is measured once a repeat."""

    def row(measured: Sequence[Measurement], *ratios: Ratio) -> Row:
        one, (first_s, later_s, peak_bytes) = measured[0], (median(map(value, measured)) for value in COMPARED)
        added_bytes = median(one.added_bytes for one in measured)
        return Row(one.framework, one.note, first_s, later_s, peak_bytes, added_bytes, *ratios)

    def compared(theirs: Sequence[Measurement]) -> list[Ratio]:
        return [ratio(list(map(value, ours)), list(map(value, theirs))) for value in COMPARED]

    return [row(ours), *(row(theirs, *compared(theirs)) for theirs in others)]


def disagreement(ours: Measurement, theirs: Measurement) -> float:
    """Largest relative difference of a loss over the first steps."""
    pairs = zip(ours.losses[:FIRST_STEPS], theirs.losses[:FIRST_STEPS], strict=True)
    return max(abs(a - b) / abs(a) for a, b in pairs)


def render(title: str, table: Sequence[Row], remarks: Sequence[str]) -> str:
    """The table for a terminal."""
    width = max(len(row.framework) for row in table)
    lines = [
        title,
        f"{'':{width}} {'s a step':^18} {'peak MiB':^13} │ {'ours ÷ theirs: median (smallest–largest)':^59}".rstrip(),
        f"{'':{width}} {'first':>8} {'later':>8}  {'peak':>6} {'added':>6} │ "
        f"{'first epoch':>19} {'later epochs':>19} {'peak':>19}",
    ]
    for row in table:
        cells = (f"{ratio!s:>19}" for ratio in (row.first, row.later, row.peak) if ratio is not None)
        lines.append(
            f"{row.framework:{width}} {_seconds(row.first_s):>8} {_seconds(row.later_s):>8}  "
            f"{row.peak_bytes / _MIB:>6,.0f} {row.added_bytes / _MIB:>6,.0f} │ {' '.join(cells)}".rstrip()
        )
    notes = [f"{row.framework}: {row.note}" for row in table if row.note]
    return "\n".join((*lines, *notes, *remarks))


def _seconds(value: float) -> str:
    return f"{value:.3f}" if value >= 0.1 else f"{value:.4f}"
