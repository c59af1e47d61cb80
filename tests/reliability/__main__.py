"""Kill runs at every file operation and at random moments, and let every file operation fail once.

Exit code 1 where a run then did not end as an undisturbed one does. Prints what was tried, and what it cost.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from random import Random

from tests.reliability.lab import KINDS, Lab
from tests.reliability.trials import FAULTS, fail_and_go_on, kill_and_go_on, kill_at_random, operations

Trial = Callable[[], Mapping[str, int]]


def trials(lab: Lab, options: argparse.Namespace) -> Iterator[tuple[str, Trial]]:
    """What to try, by name. An operation meets one of the faults, in each kind of run another."""
    for at in range(1, len(operations(lab)) + 1, options.every):
        yield f"killed at operation {at}", partial(kill_and_go_on, lab, at)
        fault = FAULTS[(at + list(KINDS).index(lab.kind)) % len(FAULTS)](at)
        yield f"{fault}", partial(fail_and_go_on, lab, fault)
    for number in range(-(-options.kills // len(KINDS))):
        random = Random(f"{options.seed} {lab.kind} {number}")
        yield f"killed at random, {number}", partial(kill_at_random, lab, random)


def tried(part: tuple[str, int], options: argparse.Namespace) -> Counter[str]:
    """Every so many of the trials of a kind, counted from a number on; what failed is told on stderr."""
    kind, first = part
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, trial) in enumerate(trials(Lab(Path(folder), kind), options)):
            if number % options.jobs != first:
                continue
            try:
                counts.update(trial())
            except Exception:
                counts["FAILED"] += 1
                print(f"{kind}: {name}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
    return counts


def main() -> int:
    """Run the command; returns the exit code."""
    p = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__.split("\n\n")[0])
    p.add_argument("--kills", type=int, default=200, help="kills at random moments (default 200)")
    p.add_argument("--every", type=int, default=1, metavar="N", help="try every Nth file operation (default each)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time (default: the processors)")
    options = p.parse_args()
    parts = list(product(KINDS, range(options.jobs)))
    with ProcessPoolExecutor(options.jobs) as pool:
        counts = sum(pool.map(partial(tried, options=options), parts), Counter[str]())
    for what, count in sorted(counts.items()):
        print(f"{count:6} {what}")
    return 1 if counts["FAILED"] else 0


if __name__ == "__main__":
    sys.exit(main())
