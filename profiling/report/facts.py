"""What the page lists by name and value: what training took, where it ran, with which settings."""

from __future__ import annotations

from dataclasses import asdict

from profiling.report.reading import FinishedRun, printable
from profiling.report.units import mib, seconds

Facts = list[tuple[str, str]]
_NAMES = {
    "rho": "ρ",
    "rho_channels": "ρ of channels",
    "replay": "results of the part before, kept as",
    "budget_bytes": "memory budget",
    "budget_s": "time budget",
}
_NONE = {"rho_channels": "all channels train"}
"""What a setting says where it is null."""


def costs(run: FinishedRun) -> Facts:
    """What training took beside memory and time."""
    report, plan = run.report, run.report.plan
    found = [
        ("parameters trained", f"{report.trained_parameters:,}"),
        (
            "batches",
            f"of {report.settings.batch} images, as {report.settings.batch // plan.micro_batch} × {plan.micro_batch}",
        ),
        ("multiply-adds an image", f"{_macs(plan.train_macs)} in every epoch, forward and backward"),
    ]
    if plan.prefix_macs:
        kept = bool(plan.kept_bytes)
        found.append(("", f"{_macs(plan.prefix_macs)} {'once' if kept else 'in every epoch'}, in the part before"))
        found.append(("kept on disk meanwhile", f"{mib(plan.kept_bytes)}, results of that part" if kept else "nothing"))
    found.append(
        (
            "train graph",
            f"{'from the cache' if report.train_source == 'cache' else 'compiled'}, {seconds(report.compile_seconds)}",
        )
    )
    if (topology := report.topology) is not None:
        worker = (
            "" if topology.worker_peak_bytes is None else f", {mib(topology.worker_peak_bytes)} in a process of its own"
        )
        found.append(("b1 of all layers", f"{seconds(topology.seconds)}, by {topology.engine}{worker}"))
    return found


def environment(run: FinishedRun) -> Facts:
    """Where it ran, and on what."""
    report, here = run.report, run.report.environment
    return [
        ("machine", f"{here.machine}, {here.cpus} CPUs, {report.settings.threads} threads used"),
        ("system", here.system),
        ("Python", here.python),
        ("NumPy", here.numpy),
        ("interpreter", here.runtime),
        ("network", report.network),
        ("weights", report.weights),
        ("dataset", report.dataset),
        ("its fingerprint", report.dataset_fingerprint),
        ("run folder", printable(str(run.folder))),
        ("adapted network", report.adapted),
        ("its SHA-256", report.adapted_sha256),
    ]


def settings(run: FinishedRun) -> Facts:
    """Everything that was asked for, after defaults."""
    return [
        (_NAMES.get(name, name.replace("_", " ")), _setting(name, value))
        for name, value in asdict(run.report.settings).items()
    ]


def _setting(name: str, value: object) -> str:
    if value is None:
        return _NONE.get(name, "none")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name in ("budget_bytes", "budget_s") and isinstance(value, int | float):
        return mib(value) if name == "budget_bytes" else seconds(value)
    return f"{value}"


def _macs(count: int) -> str:
    return f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"
