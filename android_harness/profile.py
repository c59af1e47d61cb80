"""What adapting on a device took, over all repeats: profile.json, and a table for a terminal."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from android_harness.conditions import Conditions, tells_throttling
from android_harness.facts import DeviceFacts
from android_harness.pythons import Python
from android_harness.repeat import Repeat

FORMAT = "adabet-profile"
VERSION = 1
_MIB = 1 << 20


@dataclass(frozen=True)
class Profile:
    """Everything that profile.json holds."""

    serial: str
    arguments: tuple[str, ...]
    place: str
    python: Python
    changed: tuple[str, ...]
    reconnections: int
    device: DeviceFacts
    repeats: tuple[Repeat, ...]

    @property
    def clean(self) -> tuple[Repeat, ...]:
        """The repeats that may be averaged."""
        return tuple(repeat for repeat in self.repeats if not repeat.concerns and repeat.failure is None)

    def document(self) -> dict[str, Any]:
        """The profile as JSON types, with medians over the clean repeats."""
        return {"format": FORMAT, "version": VERSION, **asdict(self), "medians": self._medians()}

    def _medians(self) -> dict[str, float | int | None]:
        return {
            "repeats": len(self.clean),
            "seconds": _median([repeat.seconds for repeat in self.clean]),
            "accuracy": _median([repeat.accuracy for repeat in self.clean]),
            "inside_peak_bytes": _median([repeat.inside_peak_bytes for repeat in self.clean]),
            "outside_peak_bytes": _median([repeat.outside.peak_bytes for repeat in self.clean]),
        }


def render(profile: Profile) -> str:
    """The profile for a terminal."""
    facts, python = profile.device, profile.python
    rows = [
        f"device     {facts.model or '?'}, {facts.soc or 'SoC not told'}, "
        f"{f'Android {facts.android_version}' if facts.android_version else facts.system or '?'}, "
        f"{len(facts.cores)} cores, {_mib(facts.memory.total_bytes)} MiB",
        f"python     {' '.join(python.command)} ({profile.place}): {python.version}, {python.runtime}",
        "",
        f"{'run':>4} {'seconds':>8} {'accuracy':>9} {'peak MiB inside':>16} {'outside':>8} {'Pss':>6} {'°C':>11}",
    ]
    for repeat in profile.repeats:
        accuracy = "" if repeat.accuracy is None else f"{repeat.accuracy:.1%}"
        warmth = f"{_warmest(repeat.before)}→{_warmest(repeat.after)}"
        rows.append(
            f"{repeat.number:>4} {repeat.seconds:>8.1f} {accuracy:>9} {_mib(repeat.inside_peak_bytes):>16} "
            f"{_mib(repeat.outside.peak_bytes):>8} {_mib(repeat.outside.proportional_bytes):>6} {warmth:>11}"
        )
        rows += [f"     note: {note}" for note in repeat.notes]
        rows += [f"     not averaged: {concern}" for concern in (*repeat.concerns, *filter(None, [repeat.failure]))]
    if not all(tells_throttling(repeat.before) for repeat in profile.repeats):
        rows.append("     the device does not tell whether it was throttled")
    if len(profile.clean) > 1:
        seconds = [repeat.seconds for repeat in profile.clean]
        spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
        rows.append(f"{'':4} {statistics.median(seconds):>8.1f} median of {len(seconds)}, {spread}")
    return "\n".join(rows)


def write_profile(profile: Profile, path: Path) -> None:
    """Write profile.json, replaced atomically."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(profile.document(), indent=1) + "\n")
    partial.replace(path)


def _median(values: Sequence[float | int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _warmest(conditions: Conditions) -> str:
    return f"{max(t.celsius for t in conditions.temperatures):.0f}" if conditions.temperatures else "?"


def _mib(size: int | None) -> str:
    return "?" if size is None else f"{size / _MIB:.0f}"
