"""Pictures of rankings, as in figures 2 and 3 of arXiv 2510.03101: by layer, rank by layer over draws, rank by rank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from ondevice.ranking import SCORE_NAMES
from profiling.pictures import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, WIDTH, drawing, write_picture
from profiling.ranking.record import Study
from profiling.ranking.stability import Spread, among, best, between

_COLOURS = (BLUE, ORANGE, PURPLE, GREEN)


def draw_pictures(study: Study, rho: float, folder: Path) -> list[Path]:
    """Write the pictures of a study to `folder`, PNG and SVG; returns their paths.

    Raises CapabilityError where they cannot be written.
    """
    figures = {"ranks": _ranks}
    if "betti" in study.criteria:
        figures = {"layers": layers_picture, **figures}
    if len(study.criteria) > 1:
        figures["against"] = _against
    stem = f"{study.network}-{study.data}-{study.fingerprint[:6]}"
    with drawing():
        return [
            path for name, make in figures.items() for path in write_picture(make(study, rho), folder, f"{stem}-{name}")
        ]


def layers_picture(study: Study, rho: float, clusters: NDArray[np.int64] | None = None) -> Any:
    """b1 with its range, |a|, the score, and what betti picks; ranges are over draws, over batches if there is one.

    `clusters`: of each layer, in several embeddings, [embeddings, layers]; they get a panel of their own below b1.
    """
    panels = 3 if clusters is None else 4
    figure, axes = plt.subplots(panels, 1, figsize=(WIDTH, 1.5 + 2.5 * panels), sharex=True, layout="constrained")
    top, *between_them, sizes, bottom = axes
    places = np.arange(len(study.layers))
    b1, scores, ranged = _b1_and_scores(study)
    often = _how_often(study, "betti", rho)
    for axis in axes:
        for place in places[often > 0]:
            axis.axvspan(place - 0.5, place + 0.5, color=RED, alpha=0.22 * often[place], linewidth=0)
    _with_range(top, places, b1, BLUE)
    top.set_ylabel(f"b1\n(of {study.batch} images)")
    top.set_ylim(bottom=-0.03 * max(1.0, b1.max()))
    if clusters is not None:
        (axis,) = between_them
        _with_range(axis, places, clusters.astype(np.float64), PURPLE)
        axis.set_ylabel(f"clusters\n(of {study.batches * study.batch} images)")
        axis.set_ylim(bottom=0)
    sizes.vlines(places, study.sizes.min() / 2, study.sizes, color=GREY, linewidth=5)
    sizes.set_yscale("log")
    sizes.set_ylim(bottom=study.sizes.min() / 2)
    sizes.set_ylabel("|a|\n(elements, one image)")
    known = scores.mean(axis=0) > 0
    if known.any():
        floor = min(scores[scores > 0].min(), scores.mean(axis=0)[known].min()) / 2
        _with_range(bottom, places[known], scores[:, known], BLUE, floor)
        bottom.set_yscale("log")
        bottom.set_ylim(bottom=floor)
    bottom.set_ylabel("score b1/|a|\n(none where b1 is always 0)")
    note = f"red: picked at ρ {rho:g} ({study.pick_count(rho)} of {len(study.layers)} layers)"
    if len(study.draws) > 1:
        note += "; the number below says in how many draws"
        _label_often(bottom, places, often, len(study.draws))
    if clusters is not None:
        note += f"\nclusters: DBSCAN on UMAP, bar: over {len(clusters)} embeddings"
    figure.suptitle(f"{study.network} on {study.data}: mean and range over {ranged}\n{note}", fontsize=11)
    _name_layers(bottom, study)
    return figure


def _b1_and_scores(study: Study) -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
    """b1 and b1/|a| by layer, [draws, layers], or [batches, layers] of the only draw; and in words, of what."""
    b1 = np.array([draw.b1 for draw in study.draws], np.float64)
    if len(study.draws) == 1:
        return b1[0], np.array(study.draws[0].single["betti"]), f"{study.batches} batches of {study.batch} images"
    return b1.mean(axis=1), np.array(study.rankings("betti")), f"{_draws(study)} of the images"


def _ranks(study: Study, rho: float) -> Any:
    """Rank by layer over draws, a panel for each criterion."""
    criteria = study.criteria
    figure, panels = plt.subplots(
        len(criteria), 1, figsize=(WIDTH, 1.6 + 3.7 * len(criteria)), sharex=True, layout="constrained", squeeze=False
    )
    places, count = np.arange(len(study.layers)), study.pick_count(rho)
    for axis, name, colour in zip(panels[:, 0], criteria, _COLOURS * len(criteria), strict=False):
        ranks = np.array([_ranks_of(ranking) for ranking in study.rankings(name)])
        agreement = among(study.rankings(name), study.able, count)
        axis.axhspan(-0.5, count + 0.5, color=RED, alpha=0.12, linewidth=0)
        axis.vlines(places, ranks.min(axis=0), ranks.max(axis=0), color=colour, alpha=0.35, linewidth=7)
        # Scores of 0 tie, and model order decides between them: hollow, because such a rank means little.
        tied = np.mean(np.array(study.rankings(name)) == 0, axis=0) >= 0.5
        for those, inside in ((~tied, colour), (tied, "white")):
            middle = np.median(ranks[:, those], axis=0)
            axis.plot(places[those], middle, "o", color=colour, markerfacecolor=inside, markersize=5)
        axis.set_ylim(len(places) + 1.5, -0.5)
        axis.set_yticks(_rank_ticks(len(places)))
        axis.set_ylabel("rank (1 = best)")
        axis.set_title(
            f"{_called(name)}: Kendall τ between draws {_short(agreement.tau)}; "
            f"picks shared {_percent(agreement.shared)}",
            fontsize=10,
            loc="left",
        )
    title = f"{study.network} on {study.data}: median rank over {_draws(study)}, bar: best to worst"
    if len(criteria) > 1:
        pairs = list(zip(study.rankings(criteria[0]), study.rankings(criteria[1]), strict=True))
        both = between(pairs, study.able, count)
        title += f"; {criteria[0]} and {criteria[1]}: τ {_short(both.tau)}"
    note = f"red: ranks that ρ {rho:g} picks ({count}); hollow: score 0 in half of the draws, tied in model order"
    figure.suptitle(f"{title}\n{note}", fontsize=11)
    _name_layers(panels[-1, 0], study)
    return figure


def _against(study: Study, rho: float) -> Any:
    """Rank by one criterion against rank by another, median over draws; layers that either picks by name."""
    one, other = study.criteria[:2]
    count = study.pick_count(rho)
    ranks = [np.array([_ranks_of(ranking) for ranking in study.rankings(name)]) for name in (one, other)]
    x, y = (np.median(rank, axis=0) for rank in ranks)
    agreement = between(list(zip(study.rankings(one), study.rankings(other), strict=True)), study.able, count)
    figure, axis = plt.subplots(figsize=(WIDTH, WIDTH), layout="constrained")
    last = len(study.layers) + 1.5
    axis.axvspan(-0.5, count + 0.5, color=BLUE, alpha=0.12, linewidth=0)
    axis.axhspan(-0.5, count + 0.5, color=ORANGE, alpha=0.12, linewidth=0)
    axis.plot([1, last], [1, last], color=GREY, linewidth=1)
    axis.hlines(y, ranks[0].min(axis=0), ranks[0].max(axis=0), color=BLUE, alpha=0.35, linewidth=4)
    axis.vlines(x, ranks[1].min(axis=0), ranks[1].max(axis=0), color=ORANGE, alpha=0.35, linewidth=4)
    axis.plot(x, y, "o", color="black", markersize=5)
    for place in np.flatnonzero((_how_often(study, one, rho) >= 0.5) | (_how_often(study, other, rho) >= 0.5)):
        name = study.layers[place].name
        axis.annotate(name, (x[place], y[place]), xytext=(7, 5), textcoords="offset points", fontsize=10)
    axis.set(xlim=(-0.5, last), ylim=(last, -0.5), aspect="equal")
    axis.set_xticks(_rank_ticks(len(study.layers)))
    axis.set_yticks(_rank_ticks(len(study.layers)))
    axis.set_xlabel(f"rank by {_called(one)} (1 = best); blue: picked at ρ {rho:g}", fontsize=11)
    axis.set_ylabel(f"rank by {_called(other)}; orange: picked", fontsize=11)
    figure.suptitle(
        f"{study.network} on {study.data}: median rank over {_draws(study)}, bars: best to worst\n"
        f"Kendall τ {_short(agreement.tau)}, picks shared {_percent(agreement.shared)}; "
        "named: what either picks in half of the draws",
        fontsize=12,
    )
    return figure


def _draws(study: Study) -> str:
    return f"{len(study.draws)} draw{'' if len(study.draws) == 1 else 's'}"


def _how_often(study: Study, criterion: str, rho: float) -> NDArray[np.float64]:
    """The part of the draws that picks each layer."""
    picks = [best(ranking, study.able, study.pick_count(rho)) for ranking in study.rankings(criterion)]
    return np.array([np.mean([place in picked for picked in picks]) for place in range(len(study.layers))])


def _with_range(
    axis: Any, places: NDArray[np.intp], values: NDArray[np.float64], colour: str, floor: float = 0.0
) -> None:
    """Means of [draws, layers] as points, with bars from the smallest to the largest; none below `floor`."""
    lowest = np.maximum(values.min(axis=0), floor)
    axis.vlines(places, lowest, values.max(axis=0), color=colour, alpha=0.35, linewidth=7)
    axis.plot(places, values.mean(axis=0), "o", color=colour, markersize=5)


def _label_often(axis: Any, places: NDArray[np.intp], often: NDArray[np.float64], draws: int) -> None:
    """Write in how many draws each layer is picked, at the foot."""
    for place in places[often > 0]:
        axis.annotate(
            f"{round(often[place] * draws)}",
            (place, 0.01),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            color=RED,
            fontsize=8,
        )


def _name_layers(axis: Any, study: Study) -> None:
    axis.set_xlim(-0.7, len(study.layers) - 0.3)
    size = 8 if len(study.layers) <= 60 else 6
    axis.set_xticks(range(len(study.layers)), [layer.name for layer in study.layers], rotation=90, fontsize=size)
    axis.set_xlabel("layer, from input to output (the head, which always trains, is left out)")


def _ranks_of(ranking: NDArray[np.float64]) -> NDArray[np.intp]:
    """1 for the largest; ties in model order."""
    ranks = np.empty(len(ranking), np.intp)
    ranks[np.argsort(-ranking, kind="stable")] = np.arange(1, len(ranking) + 1)
    return ranks


def _rank_ticks(layers: int) -> Sequence[int]:
    step = 10 if layers > 25 else 5 if layers > 12 else 2
    return [1, *range(step, layers + 1, step)]


def _called(criterion: str) -> str:
    score = SCORE_NAMES.get(criterion)
    return criterion if score in (None, criterion, criterion.capitalize()) else f"{criterion} ({score})"


def _short(spread: Spread) -> str:
    return "–" if spread.mean is None else f"{spread.mean:.2f}"


def _percent(spread: Spread) -> str:
    return "–" if spread.mean is None else f"{spread.mean:.0%}"
