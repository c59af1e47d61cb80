"""What a study of rankings says: stability of each criterion, agreement between them, and tables of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ondevice.ranking import FROM_BETTI_NUMBERS
from profiling.ranking.record import Study
from profiling.ranking.stability import Agreement, Scores, among, best, between


@dataclass(frozen=True)
class Stability:
    """How stable a criterion's ranking is."""

    criterion: str
    draws: Agreement
    """Between draws."""
    batches: Agreement
    """Between single batches of the same draw."""
    always: tuple[str, ...]
    """Layers that every draw picks, in model order."""
    ever: int
    """How many layers any draw picks."""
    with_size: Agreement
    """With the ranking by 1/|a|."""
    seconds: float | None
    """A draw's measurement, median; None where nothing is measured."""


@dataclass(frozen=True)
class Summary:
    """What a study says at one ρ."""

    network: str
    data: str
    description: str
    """Of the data."""
    batch: int
    batches: int
    """A draw."""
    rho: float
    picks: int
    layers: int
    draws: int
    stability: tuple[Stability, ...]
    between: dict[str, Agreement]
    """By "one and other": of two criteria on the same draw."""


def summarise(study: Study, rho: float) -> Summary:
    """Stability of every criterion of a study, and agreement between them."""
    count, able = study.pick_count(rho), study.able
    by_size = 1.0 / study.sizes
    found = []
    for name in study.criteria:
        rankings = study.rankings(name)
        picks = [best(ranking, able, count) for ranking in rankings]
        within = [pair for draw in study.draws for pair in _pairs(draw.single[name])]
        seconds = [draw.seconds[key] for draw in study.draws if (key := _measured(name)) in draw.seconds]
        found.append(
            Stability(
                criterion=name,
                draws=among(rankings, able, count),
                batches=between(within, able, count),
                always=tuple(study.layers[i].name for i in sorted(frozenset.intersection(*picks))),
                ever=len(frozenset.union(*picks)),
                with_size=between([(ranking, by_size) for ranking in rankings], able, count),
                seconds=float(np.median(seconds)) if seconds else None,
            )
        )
    pairs = {
        f"{one} and {other}": between(list(zip(study.rankings(one), study.rankings(other), strict=True)), able, count)
        for i, one in enumerate(study.criteria)
        for other in study.criteria[i + 1 :]
    }
    return Summary(
        network=study.network,
        data=study.data,
        description=study.description,
        batch=study.batch,
        batches=study.batches,
        rho=rho,
        picks=count,
        layers=len(study.layers),
        draws=len(study.draws),
        stability=tuple(found),
        between=pairs,
    )


def _pairs(rankings: Sequence[Sequence[float]]) -> list[tuple[Scores, Scores]]:
    arrays = [np.array(ranking) for ranking in rankings]
    return [(a, b) for i, a in enumerate(arrays) for b in arrays[i + 1 :]]


def _measured(criterion: str) -> str:
    return "b1" if criterion in FROM_BETTI_NUMBERS else criterion


def render(summaries: Sequence[Summary]) -> str:
    """The tables for a terminal."""
    lines: list[str] = []
    for summary in summaries:
        lines += [
            f"{summary.network}, {summary.data}: {summary.picks} of {summary.layers} layers at ρ {summary.rho:g}; "
            f"{summary.draws} draws of {summary.batches} batches of {summary.batch}",
            f"{'criterion':13} {'between':14} {'Kendall τ':24} {'picks shared':24} {'Jaccard':24} "
            f"{'picked':>7} {'s a draw':>8}",
        ]
        for row in summary.stability:
            seconds = "–" if row.seconds is None else f"{row.seconds:.1f}"
            picked = f"{len(row.always)} ({row.ever})"
            lines += [
                f"{row.criterion:13} {'draws':14} {_cells(row.draws)} {picked:>7} {seconds:>8}",
                f"{'':13} {'single batches':14} {_cells(row.batches)}".rstrip(),
            ]
        against = {f"{row.criterion} and 1/|a|": row.with_size for row in summary.stability}
        lines += [
            f"{names:28} {_cells(agreement)}".rstrip() for names, agreement in {**summary.between, **against}.items()
        ]
        lines.append("")
    lines.append("mean (smallest to largest) over pairs; picked: layers that every draw picks (that any picks)")
    return "\n".join(lines)


def _cells(agreement: Agreement) -> str:
    return " ".join(f"{spread!s:24}" for spread in (agreement.tau, agreement.shared, agreement.jaccard))
