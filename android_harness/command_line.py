"""The command line of the harness: what each command takes, and what it prints."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from android_harness import doctor, leftovers, profile
from android_harness.adapting import Plan, adapt
from android_harness.inputs import check_inputs, push_inputs
from android_harness.keys import DEFAULT_FOLDER
from android_harness.session import PLACES, Address, Session, connected
from android_harness.setting_up import set_up
from android_harness.settings import AWAKE, PHANTOM_KILLER, governors
from android_harness.ssh import TERMUX_PORT
from ondevice.adapt import parser as adapt_parser
from signatures.errors import CapabilityError, UsageError, exit_code_of

_OURS = {"out": "--out", "data": "--data", "json": "--json", "force": "--force", "dry_run": "--dry-run"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m android_harness", description="Adapt on a phone or board over adb, and measure it."
    )
    commands = p.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, function: Callable[[Session, argparse.Namespace], int], what: str
    ) -> argparse.ArgumentParser:
        c = commands.add_parser(name, help=what, description=what)
        c.set_defaults(command=function)
        c.add_argument("--serial", help="HOST:PORT, or the serial number at USB (default: the one at USB)")
        c.add_argument(
            "--keys", type=Path, default=DEFAULT_FOLDER, help="folder of adbkey (default ~/.android, as adb)"
        )
        c.add_argument(
            "--confirm", type=_seconds, default=60.0, metavar="SECONDS",
            help="how long the owner has to accept our key on the screen (default 60)",
        )  # fmt: skip
        c.add_argument(
            "--patience", type=_seconds, default=30.0, metavar="SECONDS",
            help="how long to wait for a device that went away (default 30)",
        )  # fmt: skip
        c.add_argument(
            "--work", help="folder on the device in which ours is made (default: /data/local/tmp, else the home folder)"
        )
        c.add_argument("--ssh-user", default="root", help="for --place ssh; Termux takes any name (default root)")
        c.add_argument("--ssh-port", type=int, default=TERMUX_PORT, help=f"for --place ssh (default {TERMUX_PORT})")
        return c

    def with_python(c: argparse.ArgumentParser) -> argparse.ArgumentParser:
        c.add_argument("--place", choices=PLACES, help="whose Python: adb's own user's, Termux' by run-as, or by ssh")
        c.add_argument(
            "--python", metavar="PATH", help="Python on the device (default: the first that has all it needs)"
        )
        return c

    def with_inputs(c: argparse.ArgumentParser) -> argparse.ArgumentParser:
        c.add_argument("bundle", type=Path, help="bundle folder written by `make export`")
        c.add_argument("data", type=Path, help="packed dataset or folder of images by class")
        return c

    c = with_python(command("doctor", _doctor, "what the device is, which Pythons it has, and what they lack"))
    c.add_argument("--json", action="store_true", help="print one JSON object")

    c = with_python(command("setup", _setup, "make an environment on the device, from wheels or Termux' packages"))
    c.add_argument("--pin", action="append", default=[], metavar="SPEC", help='such as "ai-edge-litert==2.3.0"')

    with_inputs(command("push", _push, "send our packages, bundle and data; what is there already stays"))

    c = with_inputs(with_python(command("run", _run, "push, adapt, fetch the results, measure")))
    c.add_argument("--out", type=Path, required=True, help="folder to create: profile.json, run1/, run2/ …")
    c.add_argument("--repeats", type=_count, default=1, help="runs, each in a fresh process (default 1)")
    c.add_argument("--timeout", type=_count, default=3600, metavar="SECONDS", help="for one run (default 3600)")
    c.add_argument(
        "--cooldown", type=_seconds, default=300.0, metavar="SECONDS",
        help="wait at most so long until it is as cool as before the first run (default 300)",
    )  # fmt: skip
    c.add_argument("--governor", help="of all cores during the runs, such as performance; takes root")
    c.add_argument("--keep-awake", action="store_true", help="keep the screen on during the runs (Android)")
    c.add_argument("--no-phantom-killer", action="store_true", help="have Android 12+ spare child processes meanwhile")
    c.add_argument("--json", action="store_true", help="print the profile as one JSON object")
    c.epilog = "What follows -- goes to ondevice.adapt: … run bundle data --out out -- --epochs 3 --budget-mib 120"

    c = command("pull", _pull, "fetch results that a broken connection left on the device")
    c.add_argument("--out", type=Path, required=True, help="folder for them")

    command("restore", _restore, "stop what runs, put settings back, remove everything of ours from the device")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    ours, adapts = split(sys.argv[1:] if arguments is None else list(arguments))
    options = parser().parse_args(ours)
    if adapts and options.command is not _run:
        parser().error("only `run` takes options of ondevice.adapt, behind --")
    options.arguments = adapts
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, signal.default_int_handler)  # the device is to be left as after Ctrl-C
    return exit_code_of(lambda: _on_device(options))


def _on_device(options: argparse.Namespace) -> int:
    if options.command is _run:
        _check_adapt_arguments(options.arguments)
    if options.command in (_run, _push):
        check_inputs(options.bundle, options.data)
    if options.command in (_run, _pull):
        _make_out(options.out, empty=options.command is _run)
    address = Address(
        options.serial,
        options.keys,
        options.confirm,
        options.patience,
        options.work,
        options.ssh_user,
        options.ssh_port,
    )
    with connected(address) as session:
        command: Callable[[Session, argparse.Namespace], int] = options.command
        return command(session, options)


def _doctor(session: Session, options: argparse.Namespace) -> int:
    places = (options.place,) if options.place else PLACES
    diagnosis = doctor.diagnose(session, places, options.python)
    print(json.dumps(diagnosis.document()) if options.json else doctor.render(diagnosis))
    if failure := diagnosis.failure():
        raise failure
    return 0


def _setup(session: Session, options: argparse.Namespace) -> int:
    with closing(session.place(options.place or "adb")) as place:
        python = set_up(session, place, options.python, options.pin)
    print(f"{' '.join(python.command)} ({python.place}): Python {python.version}, {python.runtime}")
    return 0


def _push(session: Session, options: argparse.Namespace) -> int:
    push_inputs(session, options.bundle, options.data)
    return 0


def _run(session: Session, options: argparse.Namespace) -> int:
    plan = Plan(
        bundle=options.bundle,
        data=options.data,
        out=options.out,
        arguments=tuple(options.arguments),
        repeats=options.repeats,
        timeout_s=options.timeout,
        cooldown_s=options.cooldown,
        place=options.place,
        python=options.python,
    )
    settings = [
        *(governors(session.link, options.governor) if options.governor else ()),
        *([AWAKE] if options.keep_awake else ()),
        *([PHANTOM_KILLER] if options.no_phantom_killer else ()),
    ]
    result, failure = adapt(session, plan, settings)
    print(json.dumps(result.document()) if options.json else profile.render(result))
    if failure is not None:
        raise failure
    return 0


def _pull(session: Session, options: argparse.Namespace) -> int:
    for folder in leftovers.pull(session, options.out):
        print(folder)
    return 0


def _restore(session: Session, options: argparse.Namespace) -> int:
    count = leftovers.clean(session)
    print(f"removed {session.work}; {count} settings put back")
    return 0


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What stands before the first --, and what behind it."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


def _check_adapt_arguments(arguments: Sequence[str]) -> None:
    """Have ondevice.adapt's own parser refuse what it does not know, and us what we set ourselves."""
    given = adapt_parser().parse_args(["bundle", "--data", "data", *arguments])
    usual = adapt_parser().parse_args(["bundle", "--data", "data"])
    for name, option in _OURS.items():
        if getattr(given, name) != getattr(usual, name):
            raise UsageError(f"{option} is for the harness to set, not to be given behind --")


def _make_out(out: Path, empty: bool) -> None:
    """Make the folder for results, before the device has worked for them."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if empty and any(out.iterdir()):
            raise UsageError(f"{out} is not empty: choose another --out")
        if not os.access(out, os.W_OK):
            raise PermissionError(13, os.strerror(13))
    except OSError as error:
        raise CapabilityError(f"cannot write {out}: {error.strerror}; choose another --out") from None


def _count(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 999999")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value
