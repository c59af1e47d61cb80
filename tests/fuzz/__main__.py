"""`python -m tests.fuzz --mutations N`: spoil files at random, and see that nothing but clear refusals comes of it."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from tests.fuzz import engine
from tests.fuzz.seeds import write_seeds
from tests.fuzz.targets import TARGETS

_KEPT = 5
"""Findings of a kind that are written down."""
_TELL_S = 30.0


def table(result: engine.Result) -> str:
    """Targets × outcomes."""
    outcomes = [name for name, _ in Counter({n: 0 for _, n in result.counts}).items()]
    outcomes.sort(key=lambda name: (name != "accepted", -sum(v for (_, n), v in result.counts.items() if n == name)))
    rows = [["target", "all", *outcomes]]
    for target in TARGETS:
        counts = [result.counts[target, outcome] for outcome in outcomes]
        rows.append([target, str(sum(counts)), *map(str, counts)])
    sums = [sum(result.counts[target, outcome] for target in TARGETS) for outcome in outcomes]
    rows.append(["all", str(sum(sums)), *map(str, sums)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    total = result.counts.total()
    pace = total / result.seconds if result.seconds else 0.0
    lines.append(f"{total} mutations in {result.seconds:.0f} s, {pace:.0f} a second, {len(result.findings)} findings")
    return "\n".join(lines)


def _write(result: engine.Result, out: Path) -> None:
    """A file for each finding, as far as they are not there: a recipe, and what came of it."""
    kinds: Counter[tuple[str, str]] = Counter()
    for recipe, outcome in result.findings:
        kinds[recipe.target, outcome.name] += 1
        number = kinds[recipe.target, outcome.name]
        path = out / f"{recipe.target}-{outcome.name}-{number}.json".replace(" ", "_")
        if number <= _KEPT and not path.exists():
            out.mkdir(parents=True, exist_ok=True)
            document = {"recipe": asdict(recipe), "outcome": asdict(outcome)}
            path.write_text(json.dumps(document, indent=1) + "\n")


def main() -> int:
    p = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    p.add_argument("--mutations", type=int, default=1000)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--minutes", type=float, default=float("inf"), help="no batch is begun later")
    p.add_argument("--jobs", type=int, default=1, help="processes at a time")
    p.add_argument("--out", type=Path, default=Path("findings"), help="folder for findings (default ./findings)")
    options = p.parse_args()
    last = time.monotonic()

    def told(result: engine.Result) -> None:
        nonlocal last
        _write(result, options.out)
        if time.monotonic() - last > _TELL_S:
            last = time.monotonic()
            print(f"{result.counts.total()} mutations, {len(result.findings)} findings", file=sys.stderr)

    with tempfile.TemporaryDirectory(prefix="adabet-seeds-") as folder:
        seeds = write_seeds(Path(folder) / "seeds")
        result = engine.run(
            seeds,
            lambda number: engine.recipe_of(seeds, options.seed, number),
            options.mutations,
            options.jobs,
            60 * options.minutes,
            told,
        )
    print(table(result))
    if result.findings:
        print(f"written to {options.out}")
    return 1 if result.findings else 0


if __name__ == "__main__":
    sys.exit(main())
