"""`python -m profiling ranking BUNDLE --data DATA …`: how stable rankings of layers are over draws of the images.

Each draw takes other batches of training images and ranks the layers by each criterion. What was measured goes into
FOLDER/ranking.json draw by draw, and tables and pictures are made from that file. The same command goes on where it
stopped; a draw that lacks a criterion is measured anew, with those that it has. Exit codes are those of
`python -m ondevice.adapt`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ondevice.betti_numba.engine import first_betti
from ondevice.compiled import default_cache
from ondevice.dataset import probe_batches
from ondevice.evidence import probe_count
from ondevice.fisher import fisher_information
from ondevice.opening import Opened, open_together
from ondevice.probe import MIN_POINTS, squared_distances
from ondevice.ranking import FROM_BETTI_NUMBERS, FROM_GRADIENTS, Evidence, scores
from ondevice.selection import check_rho
from profiling.ranking_record import (
    RANKING,
    RECORD,
    Draw,
    LayerFacts,
    Study,
    environment,
    read_record,
    write_record,
)
from profiling.ranking_table import render, summarise
from signatures.autodiff import untrainable
from signatures.catalogue import MODEL, file_sha256
from signatures.errors import CapabilityError, UsageError, exit_code_of

THREADS = 2
PACKAGES = ("scipy", "matplotlib")
"""That tables and pictures take, beside what the host has."""


# Measuring ------------------------------------------------------------------------------------------------------------


def study_of(opened: Opened, batch: int) -> Study:
    """A study without draws yet."""
    manifest = opened.bundle.manifest
    obstacles = untrainable(opened.network, opened.layers)
    return Study(
        network=manifest.network,
        weights=manifest.weights,
        model_sha256=file_sha256(opened.bundle.folder / MODEL),
        image=manifest.image,
        data=opened.dataset.name,
        description=opened.dataset.description,
        fingerprint=opened.dataset.fingerprint,
        batch=batch,
        batches=probe_count(opened, batch),
        layers=tuple(
            LayerFacts(layer.name, layer.kind, layer.activation_size, obstacles.get(layer.name))
            for layer in opened.body
        ),
        draws=(),
    )


def measure_draw(opened: Opened, batch: int, seed: int, criteria: Sequence[str], workspace: Path) -> Draw:
    """Rank the layers by `criteria` on the images that `seed` draws, with as much memory as half the machine has.

    As on the device, which follows the reference code, Fisher information is that of the first batch alone. Its head is
    drawn anew for every seed.
    """
    count, seconds = probe_count(opened, batch), {}
    drawn = list(probe_batches(opened.dataset.train, batch, count, seed))
    preprocessing, budget_bytes = opened.bundle.manifest.preprocessing, half_of_memory()
    b1 = fisher = None
    if not FROM_BETTI_NUMBERS.isdisjoint(criteria):
        started = time.perf_counter()
        distances = squared_distances(
            opened.network,
            opened.body,
            (images for images, _ in drawn),
            preprocessing,
            workspace,
            THREADS,
            budget_bytes,
        )
        b1 = first_betti(distances.reshape(-1, batch, batch), default_cache()).b1.reshape(distances.shape[:2])
        seconds["b1"] = time.perf_counter() - started
    if not FROM_GRADIENTS.isdisjoint(criteria):
        started = time.perf_counter()
        fisher = fisher_information(
            opened.network, opened.body, drawn[:1], preprocessing, workspace, THREADS, budget_bytes, seed
        )
        seconds["fisher"] = time.perf_counter() - started

    def ranked(name: str, some: slice) -> tuple[float, ...]:
        evidence = Evidence(None if b1 is None else b1[some], None if fisher is None else fisher[some])
        return tuple(scores(name, opened.body, evidence, seed).tolist())

    def batches(name: str) -> range:
        return range(1 if name in FROM_GRADIENTS else count)

    return Draw(
        seed=seed,
        b1=None if b1 is None else tuple(tuple(map(int, row)) for row in b1),
        scores={name: ranked(name, slice(None)) for name in criteria},
        single={name: tuple(ranked(name, slice(i, i + 1)) for i in batches(name)) for name in criteria},
        seconds=seconds,
        environment=environment(),
    )


def half_of_memory() -> int:
    """Bytes that measuring may take."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


# The command ----------------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m profiling ranking", description=__doc__)
    p.add_argument("bundle", type=Path, help="bundle folder that `make export` wrote")
    p.add_argument("--data", type=Path, action="append", required=True, help="dataset; give it again for another")
    p.add_argument("--draws", type=int, default=10, help="of the images, seeds 0, 1, … (default 10)")
    p.add_argument("--criteria", nargs="+", choices=RANKING, default=["betti", "fisher"], help="(default betti fisher)")
    p.add_argument("--rho", type=float, default=0.1, help="fraction of layers to pick (default 0.1)")
    p.add_argument("--batch", type=int, default=32, help="images a batch (default 32)")
    p.add_argument("--out", type=Path, help="folder of record and pictures (default .work/ranking/NETWORK)")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, print the table, draw the pictures; returns the exit code."""
    options = parser().parse_args(arguments)
    return exit_code_of(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    check_packages()
    from profiling.ranking_picture import draw_pictures

    if options.draws < 1:
        raise UsageError(f"--draws must be at least 1, got {options.draws}")
    if options.batch < MIN_POINTS:
        raise UsageError(f"--batch must be at least {MIN_POINTS} to rank by b1, got {options.batch}")
    rho = check_rho(options.rho)
    studies, folder = _measured_studies(options)
    summaries = [summarise(study, rho) for study in studies]
    pictures = [path for study in studies for path in draw_pictures(study, rho, folder)]
    if options.json:
        found = [asdict(summary) for summary in summaries]
        print(json.dumps({"record": str(folder / RECORD), "pictures": list(map(str, pictures)), "studies": found}))
        return 0
    print(render(summaries))
    print("\n".join(f"picture: {path}" for path in pictures if path.suffix == ".png"))
    print(f"record: {folder / RECORD}")
    return 0


def check_packages() -> None:
    """Raise CapabilityError for what is missing, before hours are spent on measuring."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise CapabilityError(f"this takes {' and '.join(missing)}: install this project's dependency group plots")


def _measured_studies(options: argparse.Namespace) -> tuple[list[Study], Path]:
    """The studies that were asked for, with all their draws, and the folder that holds the record."""
    studies: list[Study] = []
    with tempfile.TemporaryDirectory(prefix="adabet-") as temporary:
        for data in options.data:
            opened = open_together(options.bundle, data, options.batch, Path(temporary), 0)
            folder = options.out or Path(".work/ranking") / opened.bundle.manifest.network
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CapabilityError(f"cannot write {folder}: {error.strerror}; choose another --out") from None
            record = read_record(folder)
            blank = study_of(opened, options.batch)
            known = next((study for study in record.studies if study.same_as(blank)), blank)
            draws = {draw.seed: draw for draw in known.draws}
            for seed in range(options.draws):
                have = draws[seed].scores.keys() if seed in draws else frozenset[str]()
                if have >= set(options.criteria):
                    continue
                wanted = [name for name in RANKING if name in options.criteria or name in have]
                draws[seed] = measure_draw(opened, options.batch, seed, wanted, Path(temporary))
                study = replace(blank, draws=tuple(draws[s] for s in sorted(draws)))
                record = record.with_study(study)
                write_record(record, folder)
                took = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in draws[seed].seconds.items())
                print(f"{study.network}, {study.data}: draw {seed + 1} of {options.draws}: {took}", file=sys.stderr)
            studies.append(
                replace(blank, draws=tuple(draws[seed].of(options.criteria) for seed in range(options.draws)))
            )
    return studies, folder
