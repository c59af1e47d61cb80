"""`python -m profiling study`: policies × ρ × networks × datasets × seeds, measured; goes on where it stopped.

Everything lies in FOLDER: exported networks, packed data, and records.jsonl, from which --page makes the document, its
tables and plots. On several machines: start a Dask scheduler and workers there (`dask scheduler`, `dask worker`), in
this project's environment and with FOLDER at the same path, and give the scheduler's address. Exit codes are those of
`python -m ondevice.adapt`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from profiling.environment import DISTRIBUTIONS, commit, environment, versions
from profiling.needs import need_folder
from profiling.processes import output_of
from profiling.study.data import FINAL, prepare, splits
from profiling.study.design import Design, NetworkDesign, read_design
from profiling.study.page import write_page
from profiling.study.records import Images, Pick, Records, Session
from profiling.study.running import Agenda, perform, workers
from profiling.study.tables import Results
from profiling.study.tasks import Subject
from signatures.catalogue import MODEL, file_sha256, read_bundle
from signatures.errors import UsageError, exit_code_of

STANDARD = Path(__file__).with_name("standard.toml")
RECORDS = "records.jsonl"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m profiling study", description=__doc__)
    p.add_argument("--design", type=Path, default=STANDARD, help="what is studied (default: standard.toml beside this)")
    p.add_argument("--data", action="append", default=[], metavar="NAME=FOLDER", help="a dataset that the design names")
    p.add_argument(
        "--weights", action="append", default=[], metavar="NETWORK=SOURCE", help="as WEIGHTS of `make export`"
    )
    p.add_argument("--out", type=Path, default=Path("study"), metavar="FOLDER", help="default ./study")
    p.add_argument("--workers", type=int, default=2, help="processes on this machine, a thread each (default 2)")
    p.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster, in place of processes of this machine")
    p.add_argument("--page", type=Path, metavar="FOLDER", help="write study.md there, with its pictures and records")
    p.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing after this time")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parser().parse_args(arguments)
    return exit_code_of(lambda: _study(options))


def _study(options: argparse.Namespace) -> int:
    until = time.monotonic() + 60 * options.minutes
    design = read_design(options.design)
    folders = {name: Path(folder) for name, folder in _pairs(options.data, "--data").items()}
    weights = _pairs(options.weights, "--weights")
    need_folder(options.out)
    records = Records(options.out / RECORDS)
    agendas = []
    for network in design.networks:
        subjects = _subjects(options.out.resolve(), design, network, folders, weights)
        if subjects:
            agendas.append(Agenda(design, network, records, subjects))
    _begin(records, design, [subject for agenda in agendas for subject in agenda.subjects])
    complete = _go_on(agendas, options, until)
    told = "complete" if complete else "the time is over; the same command goes on"
    print(f"{told}: {len(records.all)} records in {records.path}")
    if options.page is not None:
        print(f"written: {write_page(Results(design, records), options.page)}")
    return 0


def _go_on(agendas: Sequence[Agenda], options: argparse.Namespace, until: float) -> bool:
    """Do what is left until the time is over; whether nothing is left."""
    with workers(options.workers, options.scheduler) as client:
        for agenda in agendas:
            for stage in Agenda.STAGES:
                said = f"{agenda.network.name}, {stage}"
                if not perform(client, getattr(agenda, stage)(), agenda.records, until, partial(_say, said)):
                    return False
    return True


def _pairs(given: Sequence[str], option: str) -> dict[str, str]:
    """NAME=VALUE as a dictionary. UsageError for anything else."""
    pairs = [text.partition("=") for text in given]
    if wrong := [name for name, equals, value in pairs if not (name and equals and value)]:
        raise UsageError(f"{option} takes NAME=…, got {wrong[0]!r}")
    return {name: value for name, _, value in pairs}


def _subjects(
    folder: Path, design: Design, network: NetworkDesign, folders: Mapping[str, Path], weights: Mapping[str, str]
) -> tuple[Subject, ...]:
    """The network on each of its datasets, exported and packed where that was not done yet; those whose data were not
    given are left out.
    """
    found = []
    for name in network.data:
        subject = Subject(folder, network.name, name, design.batch, network.epochs)
        base = name.removesuffix("-bad-camera")
        if not subject.data_folder.exists():
            if base != "digits" and base not in folders:
                _say(f"{network.name}: {name} is left out; it takes --data {base}=FOLDER")
                continue
            _say(f"{network.name}: packing {name}")
            prepare(name, network, folders, subject.data_folder)
        found.append(subject)
    if found and not found[0].bundle.exists():
        _export(network, weights.get(network.name), found[0].bundle)
    return tuple(found)


def _export(network: NetworkDesign, weights: str | None, bundle: Path) -> None:
    """Export in a process of its own: TensorFlow has no place in this one."""
    _say(f"{network.name}: exporting {network.model}")
    output_of(
        f"exporting {network.model}", "-m", "converter", "export", network.model, "--image", str(network.image),
        "--rho", "0.1", "--out", bundle, *(("--weights", weights) if weights else ()),
    )  # fmt: skip


def _begin(records: Records, design: Design, subjects: Sequence[Subject]) -> None:
    """Record where this goes on. UsageError where older records are of other networks or images."""
    inputs = {}
    for subject in subjects:
        bundle = read_bundle(subject.bundle)
        data = (
            subject.data_folder / FINAL / "train" / "images.npy",
            subject.data_folder / FINAL / "test" / "images.npy",
        )
        digests = [file_sha256(path)[:16] for path in (bundle.folder / MODEL, *data)]
        what = f"{bundle.manifest.weights}; {subject.epochs} epochs, batch {subject.batch}; {' '.join(digests)}"
        inputs[f"{subject.network}/{subject.data}"] = what
    measured = {f"{p.network}/{p.data}" for p in records.of(Pick)}
    for session in records.of(Session):
        older = {name: what for name, what in session.inputs.items() if name in measured}
        if other := [name for name, what in older.items() if inputs.get(name, what) != what]:
            raise UsageError(f"{records.path} holds records of another {other[0]}: choose another --out")
    known = {(images.network, images.data) for images in records.of(Images)}
    for subject in subjects:
        if (subject.network, subject.data) not in known:
            _, _, test, classes = splits(subject.data_folder)
            records.add(Images(subject.network, subject.data, classes, tuple(test.labels.tolist())))
    here, git = environment(), commit()
    records.add(
        Session(
            started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            machine=f"{here.machine}, {here.cores} × {here.cpu}",
            system=here.system,
            packages=versions((*DISTRIBUTIONS, "distributed")),
            commit="" if git is None else git.sha1 + " with changes" * git.dirty,
            design=asdict(design),
            inputs=inputs,
        )
    )


def _say(*text: str) -> None:
    print(*text, file=sys.stderr, flush=True)
