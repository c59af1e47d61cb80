"""Fresh processes of this project's own modules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from profiling.environment import ROOT
from signatures.errors import CapabilityError


def output_of(what: str, *arguments: str | Path, python: str | Path = sys.executable) -> str:
    """stdout of `python` with these arguments, run in the repository. CapabilityError, with what it said, if it fails;
    `what` says what that was.
    """
    command = [str(python), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise CapabilityError(f"{what} failed with {done.returncode}:\n{done.stderr.strip()}")
    return done.stdout
