"""`python -m ondevice.adapt BUNDLE --data DATA`: adapt a network to images on this machine.

stdout carries the result, stderr the conversation. Exit codes: 0 done, 2 usage, 3 bad input (bundle, data),
4 does not fit the budget, 5 interrupted with a checkpoint, 6 diverged, 7 missing capability, 70 our bug.
"""

from __future__ import annotations

import argparse
import errno
import json
import math
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ondevice.checkpoint import is_kept, settle
from ondevice.compiled import default_cache
from ondevice.events import Events
from ondevice.limits import ADDRESS_SPACE, address_space_is_limited
from ondevice.outline import render as render_outline
from ondevice.pipeline import Pipeline
from ondevice.probe import MIN_POINTS
from ondevice.ranking import BATCH, CRITERIA, CRITERION, FROM_BETTI_NUMBERS, NAMED, RHO, SEED
from ondevice.report import Report, read_report, render
from ondevice.request import Request
from ondevice.run_folder import EVENTS, WORK, begun, resumed
from ondevice.selection import check_rho
from signatures.errors import BudgetError, CapabilityError, DivergedError, InterruptedRunError, UsageError, exit_code_of
from signatures.optimizers import Optimizer

DEFAULT_RATES = {"sgd": 0.03, "adam": 0.001}
_TOO_LARGE = 2**42
"""For a count, a seed, or mebibytes."""
_SMALLEST_RATE, _LARGEST_RATE = 2.0**-126, 2.0**127
"""The train signature takes a float32; outside of this it would get a zero or an infinity."""
_FAILING = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT),
}
"""No room, no right; a broken card, one that was pulled out, a network that is gone."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m ondevice.adapt", description=__doc__.split("\n\n")[0])
    p.add_argument("bundle", type=Path, nargs="?", help="bundle folder written by `make export`")
    p.add_argument("--data", type=Path, help="packed dataset or folder of images by class")
    p.add_argument("--rho", type=float, default=RHO, help=f"fraction of layers to train (default {RHO:g})")
    which = p.add_mutually_exclusive_group()
    which.add_argument(
        "--criterion",
        choices=tuple(CRITERIA),
        default=CRITERION,
        help="which layers train beside the head: " + "; ".join(f"{name}: {what}" for name, what in CRITERIA.items()),
    )
    which.add_argument(
        "--layers",
        type=_names,
        default=(),
        metavar="NAME,NAME…",
        help="train these and the head, whatever ρ; `python -m ondevice.inspect` lists them",
    )
    p.add_argument(
        "--rho-channels",
        type=float,
        metavar="RHO",
        help="of the picked layers, train this fraction of the channels, those with the largest b1 (default: all)",
    )
    p.add_argument("--epochs", type=_positive, default=5, help="passes over the training images (default 5)")
    p.add_argument("--batch", type=_positive, default=BATCH, help=f"images a step (default {BATCH})")
    p.add_argument("--lr", type=float, help="peak learning rate (default 0.03 for sgd, 0.001 for adam)")
    p.add_argument("--optimizer", choices=tuple(DEFAULT_RATES), default="sgd")
    p.add_argument("--mirror", action="store_true", help="mirror images left to right at random")
    p.add_argument(
        "--budget-mib", type=_positive, help="memory that the process may take; layers that do not fit are passed over"
    )
    p.add_argument("--time-budget", type=float, metavar="SECONDS", help="time that training may take, likewise")
    p.add_argument(
        "--replay",
        choices=("float32", "float16"),
        default="float32",
        help="how results of the frozen part are kept on disk (default float32, exact)",
    )
    p.add_argument("--dry-run", action="store_true", help="probe, and print what would train and what it would cost")
    p.add_argument("--out", type=Path, default=Path("run"), help="run folder to create (default ./run)")
    p.add_argument("--force", action="store_true", help="replace the run that --out holds")
    p.add_argument(
        "--resume", type=Path, metavar="RUN", help="go on with the run in this folder, whose options it keeps"
    )
    p.add_argument("--seed", type=_natural, default=SEED, help=f"order of the images (default {SEED})")
    p.add_argument("--threads", type=_positive, default=2, help="threads of the interpreter (default 2)")
    p.add_argument("--json", action="store_true", help="print the report as one JSON object")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    p = parser()
    options = p.parse_args(arguments)
    if options.resume is not None:
        given = [name for name, value in vars(options).items() if value != p.get_default(name)]
        if others := sorted({*given} - {"resume", "json"}):
            p.error(f"--resume goes on with what RUN was asked to do: leave away {', '.join(others)}")
    elif options.bundle is None or options.data is None:
        p.error("give a bundle and --data, or --resume RUN")
    return exit_code_of(lambda: _adapt(options))


def _adapt(options: argparse.Namespace) -> int:
    if options.dry_run:
        return _outline(options)
    if options.resume is not None:
        with resumed(options.resume) as request:
            report = read_report(options.resume) if request is None else _run(request, options.resume)
    else:
        request = _request(options)
        with begun(options.out, request, options.force):
            report = _run(request, options.out)
    print(json.dumps(report.document()) if options.json else render(report))
    return 0


def _run(request: Request, run: Path) -> Report:
    """Run it to its end. InterruptedRunError where a signal asks it to stop: what it keeps is whole by then."""
    try:
        with _failing_disk_told(run), Events(run / EVENTS) as events:
            _stop_at_signals(events, lambda: os._exit(InterruptedRunError.exit_code))  # as if it were killed
            return Pipeline(request, run, default_cache(), events).run()
    except KeyboardInterrupt:
        settle(run / WORK)
        raise InterruptedRunError(f"interrupted; `python -m ondevice.adapt --resume {run}` goes on with it") from None
    except MemoryError:
        limit = f"raise the {ADDRESS_SPACE}, or " if address_space_is_limited() else ""
        raise BudgetError(
            f"there was not enough memory: {limit}give a --budget-mib; `--resume {run}` goes on where there is more"
        ) from None
    except DivergedError as error:
        kept = f". What was trained before is kept in {run / WORK}; --force starts anew" if is_kept(run / WORK) else ""
        raise DivergedError(f"{error}{kept}") from None


def _outline(options: argparse.Namespace) -> int:
    """A dry run works in a folder of its own beside nothing else, and leaves none."""
    try:
        temporary = tempfile.TemporaryDirectory(prefix="adabet-")
    except OSError as error:
        raise CapabilityError(
            f"cannot make a temporary folder: {error.strerror}; set TMPDIR to one with room"
        ) from None
    with temporary as name:
        folder = Path(name)
        (folder / WORK).mkdir()
        with _failing_disk_told(folder), Events(folder / EVENTS) as events:
            _stop_at_signals(events, _interrupt)
            outline = Pipeline(_request(options), folder, default_cache(), events).outline()
    print(json.dumps(outline.document()) if options.json else render_outline(outline))
    return 0


def _stop_at_signals(events: Events, at_second: Callable[[], None]) -> None:
    """The first has the run stop where nothing is half done; the second does not wait for that."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda signum, frame: at_second() if events.stopping else events.stop_soon())


def _interrupt() -> None:
    raise KeyboardInterrupt


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("no layer is named")
    return names


def _positive(text: str) -> int:
    value = _whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def _natural(text: str) -> int:
    value = _whole(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def _whole(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if abs(value) >= _TOO_LARGE:
        raise argparse.ArgumentTypeError(f"{text[:40]} is too large")
    return value


def _request(options: argparse.Namespace) -> Request:
    rate = DEFAULT_RATES[options.optimizer] if options.lr is None else options.lr
    if not _SMALLEST_RATE <= rate <= _LARGEST_RATE:
        raise UsageError(f"--lr must be a positive number that fits float32, got {rate:g}")
    ranks_by_loops = options.criterion in FROM_BETTI_NUMBERS and not options.layers
    counts_loops = ranks_by_loops or options.rho_channels is not None
    if counts_loops and options.batch < MIN_POINTS:
        raise UsageError(f"--batch must be at least {MIN_POINTS} to rank by b1: fewer images make no loop")
    if options.rho_channels is not None and options.criterion in ("head", "bias"):
        raise UsageError(f"--rho-channels says nothing to --criterion {options.criterion}: the head trains whole")
    if options.time_budget is not None and not 0 < options.time_budget < math.inf:
        raise UsageError(f"--time-budget must be a positive number of seconds, got {options.time_budget:g}")
    return Request(
        bundle=options.bundle.absolute(),
        data=options.data.absolute(),
        criterion=NAMED if options.layers else options.criterion,
        layers=options.layers,
        rho=check_rho(options.rho),
        rho_channels=None if options.rho_channels is None else check_rho(options.rho_channels, "--rho-channels"),
        epochs=options.epochs,
        batch=options.batch,
        learning_rate=rate,
        optimizer=Optimizer(options.optimizer),
        seed=options.seed,
        threads=options.threads,
        mirror=options.mirror,
        replay=options.replay,
        budget_bytes=None if options.budget_mib is None else options.budget_mib << 20,
        budget_s=options.time_budget,
    )


@contextmanager
def _failing_disk_told(run: Path) -> Iterator[None]:
    """Raise CapabilityError where a file cannot be written, or read any more."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FAILING:
            raise
        where = error.filename or f"a file in {run}, or the data"
        raise CapabilityError(
            f"cannot write or read {where}: {error.strerror}; make room or mend that, or choose another --out"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
