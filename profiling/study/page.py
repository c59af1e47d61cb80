"""The document of a study: tables, plots and what they say, all from its records."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

from profiling.study.pictures import draw
from profiling.study.records import Check, Session, Training
from profiling.study.tables import Cell, Difference, Results, networks_and_data

PAGE, FOLDER, COPY = "study.md", "study", "records.jsonl.gz"
COMPARED = "betti"
"""The policy that the others are compared with."""
_MIB = 1 << 20
_FIGURES = "decisions.md#the-study-trains-with-tensorflows-gradients-on-dask-workers"
_HEAD = f"""\
# Which layers are worth training: the study

Written by `make study` from [records.jsonl.gz](study/records.jsonl.gz); every number comes from there. {{made}}
trainings were made, of which the chosen learning rates leave {{kept}}; {{diverged}} of these diverged. Policies with
the same pick share a training.

## In short

`{COMPARED}` beside each other policy at the same ρ, same test images, same seeds: how many cells of dataset
and ρ, and which, with the difference in points. A difference is seen where the 95 % interval of resampled seeds and
images excludes zero; of so many comparisons, one in twenty would show one by chance.

{{short}}"""
_NETWORK = """\
## {plan.name}

{plan.image}×{plan.image} pixels, {plan.train} images to train on, {plan.epochs} epochs of batches of {batch}. Test
accuracy in %, mean ± standard deviation over the seeds {seeds}; in brackets the learning rate that {plan.validation}
validation images chose.

![test accuracy over ρ and over memory](study/{plan.name}.png)

Below, a larger mark is a larger ρ.

{table}"""
_COSTS = """\
What the pick of the first seed on the first dataset takes: one epoch of `python -m ondevice.adapt` in a fresh process
with one thread. Another process ran beside it, so times are good for comparing alone. Peaks are VmHWM of the process.

| policy | ρ | layers | MiB trained | peak MiB | predicted | prefix s | epoch s | MMAC an image |
|---|---|---|---|---|---|---|---|---|
{rows}"""
_CHECKS = """\
## The engine beside the device's own path

Gradients come from TensorFlow here; batches, optimizer and everything else are the device's. The same trainings by
`python -m ondevice.adapt`: test accuracy in %, test images answered alike in %, and the largest difference between the
losses of the first quarter of the steps. Rounding grows fast where many layers train: TensorFlow drifts as far from
itself when the start weights change by 6e-8 ([figures]({figures})).

| network | data | policy | ρ | rate | device | engine | alike | losses |
|---|---|---|---|---|---|---|---|---|
{rows}"""
_HOW = """\
## How

Learning rates {rates}: for each policy, ρ, network and dataset, the first seed trains with each, and the validation
images choose; the test images are looked at for the tables alone. A seed decides which images the topology is measured
on, what random draws, and the order of the images; the head starts at zero. ρ counts layers; for elastic it is the
fraction of the arithmetic of a whole backward pass, and its importance is Fisher information (ElasticTrainer's own rule
is another). pets7-bad-camera is pets7 out of focus, dark, yellow and noisy.

{last.machine}; {last.system}; {packages}. Sessions: {sessions},
from {started} on; commits: {commits}."""


def write_page(results: Results, out: Path) -> Path:
    """Write study.md, and study/ with the pictures and the records, into the folder `out`; returns the page's path."""
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    networks = list(dict.fromkeys(cell.network for cell in results.cells))
    for network in networks:
        draw(results, network, folder / f"{network}.png")
    (folder / COPY).write_bytes(gzip.compress(results.records.path.read_bytes(), mtime=0))
    parts = [_head(results), *(_network(results, network) for network in networks), _checks(results), _how(results)]
    page = out / PAGE
    page.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return page


def _head(results: Results) -> str:
    kept = {id(t): t for cell in results.cells for t in cell.trainings}
    return _HEAD.format(
        made=len(results.records.of(Training)),
        kept=len(kept),
        diverged=sum(bool(t.diverged) for t in kept.values()),
        short="\n".join(_short(results)),
    )


def _short(results: Results) -> list[str]:
    """For each other policy, where the compared one is seen to be better, worse, or neither."""
    lines = [
        f"| network | {COMPARED} beside | better | not told apart | worse | same layers | mean difference in points |",
        "|---|---|---|---|---|---|---|",
    ]
    for network in dict.fromkeys(cell.network for cell in results.cells):
        for policy in (p for p in results.design.policies if p != COMPARED):
            found, same = _against(results, network, policy)
            if found or same:
                mean = f"{100 * sum(d.mean for d in found) / len(found):+.1f}" if found else "–"
                seen = [_cases([d for d in found if d.seen == sign]) for sign in (1, 0, -1)]
                lines.append(f"| {network} | {policy} | {' | '.join(seen)} | {same} | {mean} |")
    return lines


def _against(results: Results, network: str, policy: str) -> tuple[list[Difference], int]:
    """Differences of the compared policy to another, and how many cells need none, for both train the same."""
    found, same = [], 0
    for cell in results.cells:
        if (cell.network, cell.policy) != (network, COMPARED) or not cell.trainings:
            continue
        other = results.cell(network, cell.data, policy, cell.rho) or results.cell(network, cell.data, policy, None)
        if other is None or not other.trainings:
            continue
        if other.layers == cell.layers and other.rate == cell.rate:
            same += 1
        elif (difference := results.difference(cell, other)) is not None:
            found.append(difference)
    return found, same


def _cases(differences: Sequence[Difference]) -> str:
    """How many, and where if they are few."""
    where = [f"{d.first.data} {d.first.rho:g} ({100 * d.mean:+.1f})" for d in differences]
    return f"{len(where)}: {', '.join(where)}" if 0 < len(where) <= 4 else str(len(where))


def _network(results: Results, network: str) -> str:
    plan = next(n for n in results.design.networks if n.name == network)
    data = [name for of, name in networks_and_data(results.cells) if of == network]
    table = ["| policy | ρ | " + " | ".join(data) + " |", "|---|---|" + "---|" * len(data)]
    for policy, rho in _compared(results, network):
        shown = [_shown(results.cell(network, name, policy, rho)) for name in data]
        table.append(f"| {policy} | {_rho(rho)} | {' | '.join(shown)} |")
    seeds = ", ".join(map(str, results.design.seeds))
    text = _NETWORK.format(plan=plan, batch=results.design.batch, seeds=seeds, table="\n".join(table))
    costs = _costs(results, network)
    return f"{text}\n\n{_COSTS.format(rows=costs)}" if costs else text


def _compared(results: Results, network: str) -> list[tuple[str, float | None]]:
    """Policies and ρ, in the order of the tables' rows."""
    return list(dict.fromkeys((cell.policy, cell.rho) for cell in results.cells if cell.network == network))


def _shown(cell: Cell | None) -> str:
    if cell is None or not cell.trainings:
        return "–"
    stopped = f", {cell.diverged} diverged" if cell.diverged else ""
    seeds = "" if len(cell.trainings) == len(cell.layers) else f", {len(cell.trainings)} of {len(cell.layers)} seeds"
    return f"{100 * cell.accuracy:.1f} ± {100 * cell.spread:.1f} ({cell.rate:g}{stopped}{seeds})"


def _rho(rho: float | None) -> str:
    return "–" if rho is None else f"{rho:g}"


def _costs(results: Results, network: str) -> str:
    rows = []
    for policy, rho in _compared(results, network):
        cost = results.cost(network, policy, rho)
        if cost is not None:
            trained, peak, predicted = (n / _MIB for n in (4 * cost.parameters, cost.peak_bytes, cost.predicted_bytes))
            rows.append(
                f"| {policy} | {_rho(rho)} | {len(cost.layers)} | {trained:.2f} | {peak:.0f} | {predicted:.0f} | "
                f"{cost.prefix_s:.1f} | {cost.epoch_s:.1f} | {cost.train_macs / 1e6:.0f} |"
            )
    return "\n".join(rows)


def _checks(results: Results) -> str:
    rows = [
        f"| {c.network} | {c.data} | {c.policy} | {_rho(c.rho)} | {c.rate:g} | {100 * c.device_accuracy:.1f} | "
        f"{100 * c.engine_accuracy:.1f} | {100 * c.same_answers:.1f} | {c.loss_difference:.1e} |"
        for c in results.records.of(Check)
    ]
    return _CHECKS.format(rows="\n".join(rows), figures=_FIGURES) if rows else ""


def _how(results: Results) -> str:
    sessions = results.records.of(Session)
    last = sessions[-1]
    return _HOW.format(
        rates=", ".join(f"{rate:g}" for rate in results.design.rates),
        last=last,
        packages=", ".join(f"{name} {text}" for name, text in last.packages.items()),
        sessions=len(sessions),
        started=sessions[0].started,
        commits=", ".join(dict.fromkeys(s.commit[:12] + s.commit[40:] for s in sessions)),
    )
