"""`python -m profiling COMMAND …`: what is measured on the host, and what is made of it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

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


def main(arguments: Sequence[str]) -> int:
    """Hand the arguments on to the command; returns the exit code."""
    name = arguments[0] if arguments else "--help"
    if name in COMMANDS:
        module = importlib.import_module(f"profiling.{COMMANDS[name][0]}")
        code: int = module.main(arguments[1:])
        return code
    usage = "\n".join([__doc__ or "", *(f"  {name:12} {what}" for name, (_, what) in COMMANDS.items())])
    asked = name in ("-h", "--help")
    print(usage if asked else f"error: no command {name!r}\n{usage}", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
