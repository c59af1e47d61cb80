"""`python -m ondevice.show RUN…`: finished runs side by side, one line each, read from their report.json.

Exit codes are those of `python -m ondevice.adapt`: 0 done, 2 usage, 3 no readable report, 70 our bug.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ondevice.documents import read_fields
from ondevice.ranking import WITHOUT_RHO
from ondevice.report import FORMAT, VERSION
from signatures.errors import InputError, exit_code_of

_MIB = 1 << 20
_LARGEST = 2**63
"""Of the numbers of a report."""


@dataclass(frozen=True)
class Conditions:
    """What two runs have to share if only the choice of layers is to tell them apart."""

    network: str
    weights: str
    data: str
    """Fingerprint of the dataset."""
    epochs: int
    batch: int
    learning_rate: float
    optimizer: str
    seed: int


@dataclass(frozen=True)
class Run:
    """One line of the table."""

    name: str
    criterion: str
    rho: float | None
    """None where the criterion takes no ρ."""
    rho_channels: float | None
    """None where all channels train."""
    layers: int
    """How many of them train, the head included."""
    parameters: int
    before: float
    """Test accuracy in 0..1."""
    after: float
    peak_bytes: int
    seconds: float
    """All phases together."""
    conditions: Conditions


def read_run(folder: Path) -> Run:
    """The line for a run folder. Raises InputError where its report.json is missing, damaged or of another version."""
    document = read_document(folder)
    try:
        return _run(str(folder), document)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{folder / 'report.json'} is damaged: {type(error).__name__}: {error}"[:500]) from None


def read_document(folder: Path) -> dict[str, Any]:
    """What a run folder's report.json holds: of our format and version, its fields unchecked. Raises InputError."""
    if not (folder / "report.json").exists():
        raise InputError(f"{folder} is no finished run: it holds no report.json")
    return read_fields(folder / "report.json", FORMAT, VERSION)


def _run(name: str, report: Mapping[str, Any]) -> Run:
    settings = report["settings"]
    criterion = _text(settings["criterion"])
    rho_channels = settings.get("rho_channels")
    return Run(
        name=name,
        criterion=criterion,
        rho=None if criterion in WITHOUT_RHO else _number(settings["rho"]),
        rho_channels=None if rho_channels is None else _number(rho_channels),
        layers=sum(bool(row["picked"]) for row in report["selection"]["table"]),
        parameters=int(_number(report["trained_parameters"])),
        before=_number(report["before"]["accuracy"]),
        after=_number(report["after"]["accuracy"]),
        peak_bytes=int(_number(report["peak_bytes"])),
        seconds=sum(_number(phase["seconds"]) for phase in report["phases"]),
        conditions=Conditions(
            network=_text(report["network"]),
            weights=_text(report["weights"]),
            data=_text(report["dataset_fingerprint"]),
            epochs=int(_number(settings["epochs"])),
            batch=int(_number(settings["batch"])),
            learning_rate=_number(settings["learning_rate"]),
            optimizer=_text(settings["optimizer"]),
            seed=int(_number(settings["seed"])),
        ),
    )


def _text(value: object) -> str:
    """The text, as a terminal may have it: a name can hold anything, also what would steer it."""
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r} is no text")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value)


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not abs(value) <= _LARGEST:  # NaN is not either
        raise TypeError(f"{str(value)[:40]!r} is no number that can be shown")
    return value


def table(runs: Sequence[Run]) -> str:
    """The runs as text, ρ of layers × ρ of channels; below it what they differ in other than the choice of layers."""
    width = max(len("run"), *(len(run.name) for run in runs))
    rows = [
        f"{'run':{width}}  {'criterion':12} {'ρ':>8} {'layers':>6} {'parameters':>11} "
        f"{'test accuracy':>15} {'peak MiB':>9} {'seconds':>8}"
    ]
    for run in runs:
        rho = "–" if run.rho is None else f"{run.rho:g}"
        if run.rho_channels is not None:
            rho += f"×{run.rho_channels:g}"
        accuracy = f"{run.before:.1%} → {run.after:.1%}"
        rows.append(
            f"{run.name:{width}}  {run.criterion:12} {rho:>8} {run.layers:>6} {run.parameters:>11,} "
            f"{accuracy:>15} {run.peak_bytes / _MIB:>9.0f} {run.seconds:>8.1f}"
        )
    differing = differences([run.conditions for run in runs])
    if differing:
        rows.append(f"These runs also differ in {', '.join(differing)}.")
    return "\n".join(rows)


def differences(conditions: Sequence[Conditions]) -> list[str]:
    """Names of the conditions that are not the same in all runs."""
    first, *others = (asdict(condition) for condition in conditions)
    return [name.replace("_", " ") for name in first if any(other[name] != first[name] for other in others)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    p = argparse.ArgumentParser(prog="python -m ondevice.show", description="Show finished runs side by side.")
    p.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run folder that `ondevice.adapt` wrote")
    options = p.parse_args(arguments)
    return exit_code_of(lambda: _show(options.runs))


def _show(runs: Sequence[Path]) -> int:
    print(table([read_run(folder) for folder in runs]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
