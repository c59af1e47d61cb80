"""Figure 1 of arXiv 2510.03101, peak memory by network: what is measured of ours, and what the paper's formula says.

FOLDER/memory.json      {"format": "adabet-figure-memory", "version": 1, "environment": {…}, "bars": [a `Bar` each]}
FOLDER/runs/NETWORK     the run that was measured, as `python -m ondevice.adapt` leaves it
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from profiling.environment import ROOT, in_words
from profiling.memory_lab import measure_model
from profiling.paper.formula import BATCH, IMAGE, PUBLISHED, counted_layers, peak_bytes
from profiling.report.reading import read_runs
from signatures.build import inference_model
from signatures.catalogue import Bundle
from signatures.errors import AdabetError, CapabilityError, UsageError

RECORD = "memory.json"
FORMAT, VERSION = "adabet-figure-memory", 1
INFERENCE, ADABET, FULL = KINDS = ("inference", "AdaBet", "full training")
MEASURED, FORMULA, PUBLISHED_BAR = ("measured", "formula", "published")
MB = 10**6
"""The paper's unit."""
_CRITERIA = {"betti": ADABET, "all": FULL}
"""What a run is, by the criterion that picked its layers."""


@dataclass(frozen=True)
class Bar:
    """Peak memory of a network in one use."""

    network: str
    kind: str
    """inference, AdaBet or full training."""
    source: str
    """measured, formula (the paper's, computed here) or published (as the paper prints it)."""
    peak_bytes: int
    detail: str
    """What it is of, in words."""


@dataclass(frozen=True)
class Run:
    """What this figure takes of a run folder."""

    folder: Path
    network: str
    weights: str
    kind: str
    peak_bytes: int
    """Of the whole process that adapted."""
    picked: tuple[str, ...]
    detail: str


def read_run(folder: Path) -> Run:
    """A run with AdaBet's criterion or of all layers. Raises InputError, UsageError."""
    report = read_runs((folder,))[0].report
    settings = report.settings
    if settings.criterion not in _CRITERIA or settings.rho_channels is not None:
        wanted = " or ".join(_CRITERIA)
        raise UsageError(f"{folder} is no run with the criterion {wanted}, of whole layers, which the figure shows")
    kind = _CRITERIA[settings.criterion]
    rho = f"ρ {settings.rho:g}, " if kind == ADABET else ""
    limit = "" if settings.budget_bytes is None else f", budget {settings.budget_bytes >> 20} MiB"
    return Run(
        folder=folder,
        network=report.network,
        weights=report.weights,
        kind=kind,
        peak_bytes=report.peak_bytes,
        picked=report.selection.picked,
        detail=f"{rho}batch {settings.batch} in micro-batches of {report.plan.micro_batch}{limit}",
    )


def measured_bars(bundles: Sequence[Bundle], data: Path | None, runs: Sequence[Path], folder: Path) -> list[Bar]:
    """Bars of every bundle: measured in fresh processes where `runs` lack it, and the formula beside them.

    Raises AdabetError.
    """
    names = [bundle.manifest.network for bundle in bundles]
    if len(set(names)) < len(names):
        raise UsageError(f"one bundle a network, got {', '.join(names)}")
    given = [read_run(run) for run in runs]
    for run in given:
        if not any(_fits(run, bundle) for bundle in bundles):
            raise UsageError(f"{run.folder} is a run of {run.network} ({run.weights}): give its --bundle as well")
    kinds = [(run.network, run.kind) for run in given]
    if len(set(kinds)) < len(kinds):
        raise UsageError("two runs of the same network and kind: the figure has a place for one")
    bars: list[Bar] = []
    for bundle in bundles:
        of_bundle = {run.kind: run for run in given if _fits(run, bundle)}
        if ADABET not in of_bundle:
            of_bundle[ADABET] = _adapted(bundle, data, folder)
        bars += _bars(bundle, of_bundle)
    return bars


def _bars(bundle: Bundle, runs: dict[str, Run]) -> Iterator[Bar]:
    network, image = bundle.manifest.network, bundle.manifest.image
    print(f"{network}: measuring inference", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="adabet-") as temporary:
        measured = measure_model(inference_model(bundle.network), Path(sys.executable), Path(temporary))
    yield Bar(network, INFERENCE, MEASURED, measured[-1], f"{image}², 1 image")
    for kind, run in runs.items():
        yield Bar(network, kind, MEASURED, run.peak_bytes, f"{image}², {run.detail}")
    if network in PUBLISHED:
        yield from formula_bars(network, image, runs[ADABET].picked)


def formula_bars(network: str, image: int = IMAGE, picked: Sequence[str] = ()) -> list[Bar]:
    """The paper's formula for one of its networks, and what it published, where the size of images is the paper's.

    AdaBet's bar takes the layers that were `picked`; which were in the paper it does not say.
    """
    print(f"{network}: the paper's formula", file=sys.stderr)
    layers = counted_layers(network, image)
    detail = f"{image}², batch {BATCH}"
    bars = [
        Bar(network, INFERENCE, FORMULA, peak_bytes(layers, ()), detail),
        Bar(network, FULL, FORMULA, peak_bytes(layers, [layer.name for layer in layers]), detail),
    ]
    if picked:
        bars.insert(1, Bar(network, ADABET, FORMULA, peak_bytes(layers, picked), f"{detail}, the layers of our run"))
    if image == IMAGE:
        published = PUBLISHED[network]
        sizes = zip(KINDS, (published.inference, published.adabet, published.full), strict=True)
        bars += [Bar(network, kind, PUBLISHED_BAR, size * MB, "figure 1") for kind, size in sizes]
    return bars


def _adapted(bundle: Bundle, data: Path | None, folder: Path) -> Run:
    """One epoch with default settings, in a fresh process, unless FOLDER/runs has it from before."""
    run = folder / "runs" / bundle.manifest.network
    if not (run / "report.json").exists():
        if data is None:
            raise UsageError(f"to measure AdaBet on {bundle.manifest.network}, give --data, or a --run of it")
        print(f"{bundle.manifest.network}: adapting for an epoch", file=sys.stderr)
        command = [sys.executable, "-m", "ondevice.adapt", bundle.folder.resolve(), "--data", data.resolve()]
        done = subprocess.run(
            [*map(str, command), "--epochs", "1", "--out", str(run.resolve())],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            failure = AdabetError(f"ondevice.adapt ended with {done.returncode} on {bundle.folder}, see above")
            failure.exit_code = done.returncode
            raise failure
    found = read_run(run)
    if not _fits(found, bundle):
        raise UsageError(f"{run} holds a run of {found.network} ({found.weights}); choose another --out")
    return found


def _fits(run: Run, bundle: Bundle) -> bool:
    return (run.network, run.weights) == (bundle.manifest.network, bundle.manifest.weights)


def write_record(bars: Sequence[Bar], folder: Path) -> Path:
    """Write `memory.json`; returns its path. Raises CapabilityError."""
    path = folder / RECORD
    document = {"format": FORMAT, "version": VERSION, "environment": in_words(), "bars": list(map(asdict, bars))}
    try:
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise CapabilityError(f"cannot write {path}: {error.strerror}") from None
    return path


def render(bars: Sequence[Bar]) -> str:
    """A table for a terminal: a line for each network and kind."""
    sources = (MEASURED, FORMULA, PUBLISHED_BAR)
    lines = [f"{'network':<12} {'kind':<14}" + "".join(f"{source:>11}" for source in sources) + "   measured is of"]
    for network in dict.fromkeys(bar.network for bar in bars):
        for kind in KINDS:
            found = {bar.source: bar for bar in bars if (bar.network, bar.kind) == (network, kind)}
            sizes = (f"{found[source].peak_bytes / MB:,.0f}" if source in found else "–" for source in sources)
            detail = found[MEASURED].detail if MEASURED in found else ""
            lines.append(f"{network:<12} {kind:<14}{''.join(f'{size:>11}' for size in sizes)}   {detail}".rstrip())
    lines.append(
        f"MB of 10⁶ bytes; formula: the paper's for {BATCH} images, from shapes alone; published: its figure 1"
    )
    return "\n".join(lines)
