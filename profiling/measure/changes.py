"""What changed between the records of one scenario and those of another, or of the same one later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from profiling.measure.metrics import is_wanted, metric_of
from profiling.measure.ratios import TOO_FEW, Verdict, enough, paired_ratio, ratio_of_medians, verdict
from profiling.measure.record import Record
from profiling.measure.show import failed_of

_DIGITS = 12
"""Of a digest, as many are shown."""


@dataclass(frozen=True)
class Change:
    """One metric before and after."""

    scenario: str
    metric: str
    unit: str
    before_repeats: int
    after_repeats: int
    paired: bool
    """Whether ratios are formed within each repeat."""
    before: float
    """The median."""
    after: float
    ratio: float | None
    """None where a value is 0."""
    low: float | None
    """The interval; None where there are too few repeats for one."""
    high: float | None
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """Of one scenario before and after, or of one with another."""

    scenario: str
    changes: tuple[Change, ...]
    fails: bool
    """Whether it could be measured before, and only fails after."""
    warnings: tuple[str, ...]
    """What else is not the same, and what failed."""

    @property
    def worse(self) -> bool:
        """Whether something got worse beyond doubt."""
        return self.fails or any(change.verdict == "regression" for change in self.changes)


def compare(before: Sequence[Record], after: Sequence[Record], patterns: Sequence[str], threshold: float) -> Comparison:
    """Records of one scenario before and of one after; neither is empty, and no warm-up is among them.

    `patterns` as in `metrics.is_wanted`; `threshold` is the ratio, at least 1, that matters.
    """
    scenario = " → ".join(dict.fromkeys((before[0].scenario, after[0].scenario)))
    names = dict.fromkeys(name for record in after for name in record.metrics if is_wanted(name, patterns))
    works, worked = ([record for record in side if record.failure is None] for side in (after, before))
    failed = [
        f"{when}, {one.count} of {len(side)} failed, the last with {one.last}"
        for when, side in (("before", before), ("after", after))
        for one in failed_of(side)
    ]
    return Comparison(
        scenario,
        tuple(_changes(scenario, names, worked, works, threshold)),
        bool(worked) and not works,
        (*_differences(worked, works), *failed),
    )


def _changes(
    scenario: str, names: Iterable[str], before: Sequence[Record], after: Sequence[Record], threshold: float
) -> Iterator[Change]:
    for name in names:
        one, other = (
            {(record.run, record.repeat): record.metrics[name] for record in side if name in record.metrics}
            for side in (before, after)
        )
        both = sorted(one.keys() & other.keys())
        if both and {run for run, _ in one} == {run for run, _ in other}:
            yield _change(scenario, name, [one[key] for key in both], [other[key] for key in both], True, threshold)
        elif one and other:
            yield _change(scenario, name, list(one.values()), list(other.values()), False, threshold)


def _change(
    scenario: str, name: str, before: Sequence[float], after: Sequence[float], paired: bool, threshold: float
) -> Change:
    metric = metric_of(name)
    ratio = low = high = None
    said: Verdict = ""
    if min(*before, *after) > 0:
        found = (paired_ratio if paired else ratio_of_medians)(before, after)
        ratio = found.value
        if enough(min(len(before), len(after)), paired):
            low, high, said = found.low, found.high, verdict(found, metric.better, threshold)
        elif metric.better is not None:
            said = TOO_FEW
    return Change(
        scenario=scenario,
        metric=name,
        unit=metric.unit,
        before_repeats=len(before),
        after_repeats=len(after),
        paired=paired,
        before=median(before),
        after=median(after),
        ratio=ratio,
        low=low,
        high=high,
        verdict=said,
    )


def _differences(before: Sequence[Record], after: Sequence[Record]) -> Iterator[str]:
    """What is not the same in all records, in words; of what the processes did only if it is the same scenario."""
    if not before or not after:
        return
    same = before[0].scenario == after[0].scenario
    sides = [[_facts(record, same) for record in side] for side in (before, after)]
    for name in dict.fromkeys(name for side in sides for facts in side for name in facts):
        one, other = (sorted({facts.get(name, "none") for facts in side}) for side in sides)
        if one != other or len(one) > 1:
            yield f"{name}: {', '.join(one)} → {', '.join(other)}"


def _facts(record: Record, outcome: bool) -> dict[str, str]:
    machine = {name: str(value) for name, value in asdict(record.environment).items() if name != "load"}
    settings = {"threads": str(record.settings.threads), "arguments": " ".join(record.settings.arguments)}
    inputs = {name: digest[:_DIGITS] for name, digest in record.inputs.items()}
    return {**machine, **record.versions, **settings, **inputs, **(record.outcome if outcome else {})}
