"""Budgets: which layers train, and how, within a limit of memory and one of time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ondevice.limits import SystemLimit
from ondevice.pace import Pace
from ondevice.planning import Cost, Planner
from ondevice.selection import Fits, Selection
from signatures.errors import BudgetError

_MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What a run may take, and what it does for that."""

    n_bytes: int | None
    """The process at its peak; None for no limit."""
    seconds: float | None
    """Prefix and training; None for no limit."""
    epochs: int
    images: int
    """Training images."""


def plan_within(
    limits: Limits,
    planner: Planner,
    target_bytes: int,
    select: Callable[[Fits], Selection],
    measure_pace: Callable[[Cost], Pace],
) -> tuple[Selection, Cost]:
    """The layers that `select` picks of those that fit, and what training them takes, within `target_bytes` if it can.

    `measure_pace` runs what a plan would run, and is called only under a limit of time.
    BudgetError if not even the head fits.
    """
    least = planner.cost((), 0)
    if limits.n_bytes is not None and least.peak_bytes > limits.n_bytes:
        raise too_small(limits.n_bytes, least.peak_bytes)

    def in_memory(names: Sequence[str]) -> bool:
        return limits.n_bytes is None or planner.cost(names, 0).peak_bytes <= limits.n_bytes

    selection = select(in_memory)
    plan = planner.cost(selection.picked, target_bytes)
    if limits.seconds is None:
        return selection, plan
    most_seconds, pace = limits.seconds, measure_pace(plan)

    def seconds(cost: Cost) -> float:
        return pace.seconds(cost, limits.images, limits.epochs, planner.keeping.variants)

    if seconds(least) > most_seconds:
        raise BudgetError(
            f"even the head alone would train for {math.ceil(seconds(least))} s: give at least that as "
            "--time-budget, or fewer --epochs"
        )
    selection = select(lambda names: in_memory(names) and seconds(planner.cost(names, 0)) <= most_seconds)
    return selection, planner.cost(selection.picked, target_bytes)


def too_small(budget_bytes: int, least_bytes: int) -> BudgetError:
    """What to raise where not even the head trains within `budget_bytes`."""
    least = -(-least_bytes // _MIB)
    return BudgetError(
        f"{budget_bytes // _MIB} MiB are too little even for the head alone: give at least --budget-mib {least}",
        least_bytes,
    )


def beyond(limit: SystemLimit, needed_bytes: int, least_bytes: int, begun: bool = False) -> BudgetError:
    """What to raise where the system will not let the process have what it needs.

    least_bytes: what it needs where all layers are passed over that can be.
    begun: the run was begun where it fitted; it goes on with the layers that it has picked, or not at all.
    """
    budget_mib = limit.n_bytes * 95 // 100 // _MIB
    how = "start anew with --force and" if begun else "give"
    otherwise = f", or {how} --budget-mib {budget_mib} and have layers passed over that do not fit"
    return BudgetError(
        f"it would take {-(-needed_bytes // _MIB)} MiB, and the {limit.name} leaves {limit.n_bytes // _MIB}: raise "
        f"that{otherwise if least_bytes <= budget_mib * _MIB else ''}",
        needed_bytes,
    )
