"""What is measured: units, which direction is better, and how values are shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

Unit = Literal["s", "bytes", "fraction", "count"]
Better = Literal["smaller", "larger"]


@dataclass(frozen=True)
class Metric:
    """One thing that is measured."""

    unit: Unit
    better: Better | None
    """None: neither is; it says what was done."""
    what: str


METRICS = {
    "seconds": Metric("s", "smaller", "the process from its start to its end; `seconds:PHASE`: a phase of it"),
    "cpu_seconds": Metric("s", "smaller", "of processors, by the process and those that it started"),
    "epoch_seconds": Metric("s", "smaller", "an epoch of training, the median"),
    "first_step_seconds": Metric("s", "smaller", "a training step of the first epoch, with its part of the prefix"),
    "step_seconds": Metric("s", "smaller", "a training step of later epochs, the median"),
    "load_seconds": Metric("s", "smaller", "loading the model, and the first call"),
    "call_seconds": Metric("s", "smaller", "a call, the median"),
    "mean_call_seconds": Metric("s", "smaller", "a call, the mean"),
    "import_seconds": Metric("s", "smaller", "the import alone, without the start of Python"),
    "peak_bytes": Metric("bytes", "smaller", "largest resident memory (VmHWM); `peak_bytes:PHASE`: of a phase"),
    "worker_peak_bytes": Metric("bytes", "smaller", "the same, of the process that loaded Numba for b1"),
    "accuracy": Metric("fraction", "larger", "on the test images, of the adapted network"),
    "trained_parameters": Metric("count", None, "values that train"),
}
"""By name. `seconds` and `peak_bytes` exist of phases too, as `seconds:train`."""
_OF_PHASES = ("seconds", "peak_bytes")
_MIB = 1 << 20


def metric_of(name: str) -> Metric:
    """The metric of that name, be it of a phase. ValueError if there is none."""
    base, colon, phase = name.partition(":")
    if base not in METRICS or (colon and (base not in _OF_PHASES or not phase.isidentifier())):
        raise ValueError(f"no metric is called {name!r}")
    return METRICS[base]


def is_wanted(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns (as of file names) names this metric; without patterns, all but those of phases."""
    return any(fnmatchcase(name, pattern) for pattern in patterns) if patterns else ":" not in name


def shown(value: float, unit: Unit) -> str:
    """A value for people."""
    match unit:
        case "s":
            return f"{_three_digits(value)} s" if value >= 1 else f"{_three_digits(value * 1e3)} ms"
        case "bytes":
            return f"{value / _MIB:.1f} MiB"
        case "fraction":
            return f"{value:.1%}"
        case "count":
            return f"{value:,.0f}"


def _three_digits(value: float) -> str:
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value else "0"
