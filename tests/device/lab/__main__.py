"""`python -m tests.device.lab build|check|path|exec`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from signatures.errors import exit_code_of
from tests.device.lab import host, namespace
from tests.device.lab.build import build, emulated_cpu
from tests.device.lab.layout import LAB, RECIPE, Lab, parse_size


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m tests.device.lab", description="An arm64 Debian root, run by QEMU.")
    top.add_argument("--lab", type=Path, default=LAB.folder, metavar="FOLDER", help="default: .work/device-lab")
    commands = top.add_subparsers(dest="action", required=True)
    commands.add_parser("build", help="make the lab, unless it is up to date")
    commands.add_parser("check", help="exit code 0 if this machine can run the lab and it is up to date, else 7")
    path = commands.add_parser("path", help="print where a part of the lab is")
    names = [environment.name for environment in RECIPE.environments]
    path.add_argument("part", nargs="?", default="root", choices=["root", *(f"wheels/{name}" for name in names)])
    execute = commands.add_parser(
        "exec",
        help="run a command of this machine, not chrooted, with /proc and /dev mounted in the root",
        description="Runs COMMAND in mount and process namespaces of its own, which end with it.",
    )
    execute.add_argument(
        "--tmpfs", action="append", type=_disk, default=[], metavar="PLACE:SIZE",
        help="an empty disk of SIZE (64m) at a folder of the root (/data/local/tmp)",
    )  # fmt: skip
    execute.add_argument("command", nargs="+", metavar="COMMAND")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit code. Errors: CapabilityError."""
    given = parser().parse_args(arguments)
    lab = Lab(given.lab.absolute())
    match given.action:
        case "path":
            print(lab.folder / given.part)
        case "build":
            host.require()
            build(lab)
        case "check":
            host.require()
            lab.require()
            print(f"ready: {lab.folder}")
        case "exec":
            host.require()
            lab.require()
            environment = {**os.environ, "QEMU_CPU": emulated_cpu()}
            return namespace.run(given.command, lab.root, given.tmpfs, environment)
    return 0


def _disk(text: str) -> namespace.SmallDisk:
    place, _, size = text.rpartition(":")
    if not place.startswith("/"):
        raise argparse.ArgumentTypeError(f"{text!r} is not PLACE:SIZE with an absolute PLACE")
    try:
        return namespace.SmallDisk(place, parse_size(size))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
