"""`python -m profiling COMMAND …`: what is measured on the host, and what is made of it."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Any

from signatures.errors import CapabilityError, exit_code_of

COMMANDS = {
    "run": ("measure.run", "measure scenarios in fresh processes, in turn; append records to a file"),
    "compare": (
        "measure.compare",
        "records of before beside records of after: ratios with intervals; 1 on a regression",
    ),
    "show": ("measure.show", "records as a table, as markdown, CSV or JSON"),
    "ops": ("ops.command", "each op of a train graph: time, memory, XNNPACK; what is alive at the peak"),
    "frameworks": ("peers.command", "a training step beside other frameworks'"),
    "memory-lab": ("memory_lab", "memory predicted and measured"),
    "ranking": ("ranking.command", "how stable the ranking of layers is over draws of images"),
    "figures": ("paper.command", "the paper's figures, from measurements"),
    "report": ("report.page", "a page of a run, or of runs side by side"),
    "study": ("study.command", "policies × ρ × networks × datasets × seeds"),
}
"""By name, the module that does it, by its `main(arguments) -> exit code`, and what it does."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m profiling",
        description=__doc__,
        epilog="\n".join(f"{name:12} {what}" for name, (_, what) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("command", choices=COMMANDS, help="with --help behind it, its own help")
    p.add_argument("arguments", nargs=argparse.REMAINDER, help="those of the command")
    return p


def main() -> int:
    """Hand the arguments on to the command; returns the exit code."""
    options = parser().parse_args()
    return exit_code_of(lambda: _module(options.command).main(options.arguments))


def _module(command: str) -> Any:
    """What does a command. CapabilityError where it takes a package that is not installed."""
    try:
        return importlib.import_module(f"profiling.{COMMANDS[command][0]}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "profiling":
            raise
        raise CapabilityError(f"`{command}` takes the package {error.name}, which `make setup` installs") from None


if __name__ == "__main__":
    sys.exit(main())
