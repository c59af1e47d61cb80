"""`python -m profiling COMMAND …`: what is measured on the host, and what is made of it."""

from __future__ import annotations

import argparse
import importlib
import sys

COMMANDS = {
    "run": ("running", "measure scenarios in fresh processes, in turn; append records to a file"),
    "compare": ("comparing", "records of before beside records of after: ratios with intervals; 1 on a regression"),
    "show": ("showing", "records as a table, as markdown, CSV or JSON"),
    "ops": ("op_profile", "each op of a train graph: time, memory, XNNPACK; what is alive at the peak"),
    "frameworks": ("frameworks", "a training step beside other frameworks'"),
    "memory-lab": ("memory_lab", "memory predicted and measured"),
    "ranking": ("ranking", "how stable the ranking of layers is over draws of images"),
    "figures": ("figures", "the paper's figures, from measurements"),
    "report": ("report_page", "a page of a run, or of runs side by side"),
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
    module = importlib.import_module(f"profiling.{COMMANDS[options.command][0]}")
    code: int = module.main(options.arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())
