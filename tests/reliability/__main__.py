"""Kill runs at every file operation and at random moments, and let every file operation fail once.

Exit code 1 where a run then did not end as an undisturbed one does. Prints what was tried, and what it cost.
"""

from __future__ import annotations

import argparse
import errno
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

from tests.reliability.lab import KINDS, Fault, Lab
from tests.reliability.trials import ERRORS, fail_and_go_on, kill_and_go_on, kill_at_random, operations


def trials(lab: Lab, kills: int, every: int, seed: int) -> Iterator[tuple[str, Callable[[], Counter[str]]]]:
    """What to try, by name."""
    for at in range(1, len(operations(lab)) + 1, every):
        yield f"killed at operation {at}", partial(kill_and_go_on, lab, at)
        for error in ERRORS:
            yield f"{errno.errorcode[error]} at operation {at}", partial(fail_and_go_on, lab, Fault(at, error))
        yield f"full from operation {at} on", partial(fail_and_go_on, lab, Fault(at, errno.ENOSPC, sticky=True))
    for number in range(kills):
        yield f"killed at random, {number}", partial(kill_at_random, lab, Random(f"{seed} {lab.kind} {number}"))


def main() -> int:
    """Run the command; returns the exit code."""
    p = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__.split("\n\n")[0])
    p.add_argument("--kills", type=int, default=200, help="kills at random moments (default 200)")
    p.add_argument("--every", type=int, default=1, metavar="N", help="try every Nth file operation (default each)")
    p.add_argument("--seed", type=int, default=0)
    options = p.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number, kind in enumerate(KINDS):
            lab = Lab(Path(folder) / str(number), kind)
            for name, trial in trials(lab, -(-options.kills // len(KINDS)), options.every, options.seed):
                try:
                    counts += trial()
                except Exception:
                    counts["FAILED"] += 1
                    print(f"{kind}: {name}", file=sys.stderr)
                    traceback.print_exc()
    for what, count in sorted(counts.items()):
        print(f"{count:6} {what}")
    return 1 if counts["FAILED"] else 0


if __name__ == "__main__":
    sys.exit(main())
