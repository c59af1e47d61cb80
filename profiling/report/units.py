"""Values for people: shares, sizes, counts, times."""

from __future__ import annotations

from profiling.report.answers import Share

_MIB = 1 << 20


def percent(value: float) -> str:
    """Of a value in 0..1."""
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def interval(share: Share) -> str:
    """Its 95 % interval."""
    low, high = share.interval
    return f"{100 * low:.1f}–{100 * high:.1f}\N{NO-BREAK SPACE}%"


def mib(size: float | None) -> str:
    """A size in bytes as MiB; an en dash where it is not known."""
    return "–" if size is None else f"{size / _MIB:,.0f} MiB"


def counted(count: int, one: str, more: str = "") -> str:
    """A number with its noun."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def seconds(value: float) -> str:
    """A time as people say it."""
    if value >= 3600:
        return f"{value // 3600:.0f} h {value % 3600 // 60:.0f} min"
    if value >= 120:
        return f"{value // 60:.0f} min {value % 60:.0f} s"
    return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s" if value >= 0.1 else f"{value:.2f} s"
