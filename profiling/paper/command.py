"""`python -m profiling figures {memory,b1} …`: figures 1 and 3 of arXiv 2510.03101, of this program.

Figure 2, which sets the ranking beside Fisher information's and shows how stable both are, is among the pictures of
`python -m profiling ranking`. Exit codes are those of `python -m ondevice.adapt`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ondevice.dataset import probe_batches
from ondevice.opening import Opened, open_together
from ondevice.probe import MIN_POINTS, squared_distances
from ondevice.ranking import BATCH, RHO, SEED
from ondevice.selection import check_rho
from profiling.needs import PICTURES, need_folder, need_packages
from profiling.paper import clusters
from profiling.paper.formula import PUBLISHED
from profiling.paper.memory import formula_bars, measured_bars, render, write_record
from profiling.ranking.measuring import THREADS, half_of_memory, measure_draw, study_of
from profiling.ranking.record import Study
from profiling.ranking.stability import best
from signatures.catalogue import read_bundle
from signatures.errors import UsageError, exit_code_of


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m profiling figures", description=__doc__)
    figures = p.add_subparsers(dest="figure", required=True)
    memory = figures.add_parser(
        "memory",
        help="figure 1: peak memory, measured, and by the paper's formula",
        description="Peak memory of inference and of adapting with the default settings (one epoch), each in a fresh "
        "process, beside the paper's formula (profiling/paper/formula.py), which measures nothing.",
    )
    memory.add_argument("--bundle", type=Path, action="append", default=[], help="give it again for another network")
    memory.add_argument("--data", type=Path, help="dataset to adapt to")
    memory.add_argument(
        "--run",
        type=Path,
        action="append",
        default=[],
        help="run folder of a bundle, instead of adapting; with --criterion all, the bar of full training",
    )
    memory.add_argument("--formula", action="store_true", help="the formula for all four networks of the paper")
    memory.add_argument("--out", type=Path, default=Path(".work/figures"), help="folder (default .work/figures)")
    b1 = figures.add_parser(
        "b1",
        help="figure 3: b1 by layer",
        description="b1, |a| and b1/|a| of each layer on one draw of the images, and what is picked. "
        "`python -m profiling ranking` shows the same over several draws.",
    )
    b1.add_argument("bundle", type=Path, help="bundle folder that `make export` wrote")
    b1.add_argument("--data", type=Path, required=True, help="dataset")
    b1.add_argument("--clusters", action="store_true", help="beside b1, clusters by DBSCAN on UMAP")
    b1.add_argument("--rho", type=float, default=RHO, help=f"fraction of layers to pick (default {RHO:g})")
    b1.add_argument("--batch", type=int, default=BATCH, help=f"images a batch (default {BATCH})")
    b1.add_argument("--seed", type=int, default=SEED, help=f"of the draw (default {SEED})")
    b1.add_argument("--out", type=Path, default=Path(".work/figures"), help="folder (default .work/figures)")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, draw; returns the exit code."""
    options = parser().parse_args(arguments)
    return exit_code_of(lambda: {"memory": _memory, "b1": _b1}[options.figure](options))


def _memory(options: argparse.Namespace) -> int:
    if not (options.bundle or options.formula):
        raise UsageError("give a --bundle to measure, or --formula")
    need_packages("pictures", PICTURES)
    bundles = [read_bundle(path) for path in options.bundle]
    need_folder(options.out)
    bars = measured_bars(bundles, options.data, options.run, options.out)
    if options.formula:
        known = {bar.network for bar in bars}
        bars += [bar for network in PUBLISHED if network not in known for bar in formula_bars(network)]
    from profiling.paper.memory_picture import memory_picture
    from profiling.pictures import drawing, write_picture

    record = write_record(bars, options.out)
    with drawing():
        picture, _ = write_picture(memory_picture(bars), options.out, "memory")
    print(f"{render(bars)}\npicture: {picture}\nrecord: {record}")
    return 0


def _b1(options: argparse.Namespace) -> int:
    if options.batch < MIN_POINTS:
        raise UsageError(f"--batch must be at least {MIN_POINTS} to rank by b1, got {options.batch}")
    if options.seed < 0:
        raise UsageError(f"--seed must not be negative, got {options.seed}")
    rho = check_rho(options.rho)
    need_packages("pictures", PICTURES)
    if options.clusters:
        clusters.check_packages()
    need_folder(options.out)
    with tempfile.TemporaryDirectory(prefix="adabet-") as temporary:
        opened = open_together(options.bundle, options.data, options.batch, Path(temporary), options.seed)
        study = study_of(opened, options.batch)
        draw = measure_draw(opened, options.batch, options.seed, ["betti"], Path(temporary))
        study = replace(study, draws=(draw,))
        counts = _clusters(opened, study, Path(temporary)) if options.clusters else None
    from profiling.pictures import drawing, write_picture
    from profiling.ranking.pictures import layers_picture

    with drawing():
        stem = f"{study.network}-{study.data}-b1"
        picture, _ = write_picture(layers_picture(study, rho, counts), options.out, stem)
    print(f"{_table(study, rho, counts)}\npicture: {picture}")
    return 0


def _clusters(opened: Opened, study: Study, workspace: Path) -> NDArray[np.int64]:
    """Of all images of the draw together, [embeddings, layers]."""
    drawn = probe_batches(opened.dataset.train, study.batch, study.batches, study.draws[0].seed)
    images = np.concatenate([pixels for pixels, _ in drawn])
    preprocessing = opened.bundle.manifest.preprocessing
    (squared,) = squared_distances(
        opened.network, opened.body, [images], preprocessing, workspace, THREADS, half_of_memory()
    )
    return clusters.cluster_counts(squared)


def _table(study: Study, rho: float, counts: NDArray[np.int64] | None) -> str:
    """A line for each layer."""
    (draw,) = study.draws
    b1, scores = np.array(draw.b1), np.array(draw.scores["betti"])
    picked = best(scores, study.able, study.pick_count(rho))
    width = max(len(layer.name) for layer in study.layers)
    last = "" if counts is None else "  clusters"
    lines = [f"{'layer':{width}} {'b1':>6} {'range':>8} {'|a|':>10} {'b1/|a|':>10}  picked{last}"]
    for place, layer in enumerate(study.layers):
        of_layer = b1[:, place]
        line = (
            f"{layer.name:{width}} {of_layer.mean():>6.2f} {f'{of_layer.min()}–{of_layer.max()}':>8} "
            f"{layer.activation_size:>10,} {scores[place]:>10.2e}  {'●' if place in picked else ' ':6}"
        )
        if counts is not None:
            line += f"  {counts[:, place].mean():>8.1f}"
        lines.append(line.rstrip())
    return "\n".join(lines)
