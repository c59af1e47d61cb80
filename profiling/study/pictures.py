"""Pictures of a study: accuracy over ρ, and over the memory that it takes, a column for each dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from profiling.study.tables import Cell, Results

_STYLE = {
    "betti": ("#d1495b", "o"), "inverse-size": ("#2e86ab", "s"), "last": ("#3c8d53", "^"), "b1": ("#edae49", "D"),
    "fisher": ("#8d6a9f", "v"), "random": ("#8a8a8a", "x"), "elastic": ("#30638e", "P"),
    "full": ("#222222", "*"), "bias": ("#a0703c", "*"), "head": ("#777777", "*"),
}  # fmt: skip
_OTHER = ("#444444", "o")
_MIB = 1 << 20


def draw(results: Results, network: str, path: Path) -> None:
    """Write the picture of one network as a PNG."""
    cells = [cell for cell in results.cells if cell.network == network and cell.trainings]
    data = list(dict.fromkeys(cell.data for cell in cells))
    figure, axes = plt.subplots(2, len(data), figsize=(1.2 + 3.1 * len(data), 6.6), squeeze=False, sharey="col")
    for column, name in enumerate(data):
        of_data = [cell for cell in cells if cell.data == name]
        _over_rho(axes[0, column], of_data)
        _over_memory(axes[1, column], of_data, results)
        axes[0, column].set_title(name, fontsize=11)
    axes[0, 0].set_ylabel("test accuracy in %")
    axes[1, 0].set_ylabel("test accuracy in %")
    handles = {line.get_label(): line for axis in axes.flat for line in axis.get_lines() if line.get_label()[0] != "_"}
    columns = min(3 * len(data) - 1, len(handles))
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=columns, frameon=False)
    figure.tight_layout(rect=(0, 0.01 + 0.04 * -(-len(handles) // columns), 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _over_rho(axis: Axes, cells: list[Cell]) -> None:
    rhos = sorted({cell.rho for cell in cells if cell.rho is not None})
    flat: dict[str, float] = {}
    for policy in dict.fromkeys(cell.policy for cell in cells):
        color, marker = _STYLE.get(policy, _OTHER)
        of_policy = [cell for cell in cells if cell.policy == policy]
        level = 100 * of_policy[0].accuracy
        if of_policy[0].rho is None:
            axis.axhline(level, color=color, lw=1, ls=":", label="_")
            flat[policy] = level
            continue
        places = [rhos.index(cell.rho) for cell in of_policy if cell.rho is not None]
        axis.errorbar(
            places,
            [100 * cell.accuracy for cell in of_policy],
            [100 * cell.spread for cell in of_policy],
            color=color,
            marker=marker,
            ms=5,
            lw=2 if policy == "betti" else 1,
            elinewidth=0.6,
            zorder=3 if policy == "betti" else 2,
        )
        axis.plot([], [], color=color, marker=marker, label=policy)
    for level, names in _apart(flat, least=0.05 * np.ptp(axis.get_ylim())):
        axis.annotate("\n".join(names), (1, level), xycoords=("axes fraction", "data"), xytext=(3, 0),
                      textcoords="offset points", fontsize=8, va="center")  # fmt: skip
    axis.set_xticks(range(len(rhos)), [f"{rho:g}" for rho in rhos])
    axis.set_xlabel("ρ")
    axis.grid(alpha=0.25)


def _apart(levels: Mapping[str, float], least: float) -> list[tuple[float, list[str]]]:
    """Names from high to low, those together whose levels are closer than `least` to the one above; where to write."""
    groups: list[list[str]] = []
    for name in sorted(levels, key=lambda name: -levels[name]):
        if groups and levels[groups[-1][-1]] - levels[name] < least:
            groups[-1].append(name)
        else:
            groups.append([name])
    return [(float(np.mean([levels[name] for name in names])), names) for names in groups]


def _over_memory(axis: Axes, cells: list[Cell], results: Results) -> None:
    for cell in cells:
        cost = results.cost(cell.network, cell.policy, cell.rho)
        if cost is not None:
            color, marker = _STYLE.get(cell.policy, _OTHER)
            size = 5 if cell.rho is None else 3 + 10 * cell.rho
            label = cell.policy if cell.rho is None else "_"
            axis.plot(
                cost.peak_bytes / _MIB, 100 * cell.accuracy, ls="", marker=marker, ms=size, color=color, label=label
            )
    axis.set_xlabel("peak of the process in MiB")
    axis.grid(alpha=0.25)
