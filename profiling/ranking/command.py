"""`python -m profiling ranking BUNDLE --data DATA …`: how stable rankings of layers are over draws of the images.

Each draw takes other batches of training images and ranks the layers by each criterion. What was measured goes into
FOLDER/ranking.json draw by draw, and tables and pictures are made from that file. The same command goes on where it
stopped; a draw that lacks a criterion is measured anew, with those that it has. Exit codes are those of
`python -m ondevice.adapt`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ondevice.opening import Opened, open_together
from ondevice.probe import MIN_POINTS
from ondevice.selection import check_rho
from profiling.needs import PICTURES, need_folder, need_packages
from profiling.ranking.measuring import measure_draw, study_of
from profiling.ranking.record import RANKING, RECORD, Study, read_record, write_record
from profiling.ranking.table import render, summarise
from signatures.errors import UsageError, exit_code_of


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
    need_packages("tables and pictures", {"scipy": "scipy", **PICTURES})
    from profiling.ranking.pictures import draw_pictures

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


def _measured_studies(options: argparse.Namespace) -> tuple[list[Study], Path]:
    """The studies that were asked for, with all their draws, and the folder that holds the record."""
    with tempfile.TemporaryDirectory(prefix="adabet-") as temporary:
        opened = [open_together(options.bundle, data, options.batch, Path(temporary), 0) for data in options.data]
        folder = options.out or Path(".work/ranking") / opened[0].bundle.manifest.network
        need_folder(folder)
        return [_measured(one, options, folder, Path(temporary)) for one in opened], folder


def _measured(opened: Opened, options: argparse.Namespace, folder: Path, workspace: Path) -> Study:
    """The study of a dataset: draws that the record in `folder` lacks are measured, and recorded one by one."""
    record = read_record(folder)
    blank = study_of(opened, options.batch)
    known = next((study for study in record.studies if study.same_as(blank)), blank)
    draws = {draw.seed: draw for draw in known.draws}
    for seed in range(options.draws):
        have = draws[seed].scores.keys() if seed in draws else frozenset[str]()
        if have >= set(options.criteria):
            continue
        wanted = [name for name in RANKING if name in options.criteria or name in have]
        draws[seed] = measure_draw(opened, options.batch, seed, wanted, workspace)
        study = replace(blank, draws=tuple(draws[s] for s in sorted(draws)))
        record = record.with_study(study)
        write_record(record, folder)
        took = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in draws[seed].seconds.items())
        print(f"{study.network}, {study.data}: draw {seed + 1} of {options.draws}: {took}", file=sys.stderr)
    return replace(blank, draws=tuple(draws[seed].of(options.criteria) for seed in range(options.draws)))
