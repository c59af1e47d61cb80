"""Commands whose output is no longer read, as by `… | head`: they end quietly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from signatures.errors import CLOSED_PIPE, InputError
from tests.end_to_end import tiny
from tests.end_to_end.commands import ROOT, TIMEOUT_S

COMMAND = """
import sys
from signatures.errors import InputError, exit_code_of

def command():
    {}
    return 0

sys.exit(exit_code_of(command))
"""


def without_reader(*arguments: object, also_stderr: bool = False) -> tuple[int, str]:
    """Run `python …`, stdout a pipe that nobody reads; its exit code and stderr."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT, stdout=writer, stderr=writer if also_stderr else subprocess.PIPE, text=True, check=False,
            timeout=TIMEOUT_S,
        )  # fmt: skip
    finally:
        os.close(writer)
    return done.returncode, done.stderr or ""


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_inspect(tmp_path: Path, options: tuple[str, ...]) -> None:
    bundle = tiny.write_bundle(tmp_path / "bundle")
    assert without_reader("-m", "ondevice.inspect", bundle, *options) == (CLOSED_PIPE, "")


@pytest.mark.parametrize("characters", [1, 1_000_000])
def test_little_and_much_output(characters: int) -> None:
    assert without_reader("-c", COMMAND.format(f"print('x' * {characters})")) == (CLOSED_PIPE, "")


@pytest.mark.parametrize("body", ["raise InputError('damaged')", "1 / 0", "print('on the way', file=sys.stderr)"])
def test_stderr_that_nobody_reads(body: str) -> None:
    assert without_reader("-c", COMMAND.format(body), also_stderr=True)[0] == CLOSED_PIPE


def test_errors_are_told_though_nobody_reads_the_output() -> None:
    told = (InputError.exit_code, "error: damaged\n")
    assert without_reader("-c", COMMAND.format("raise InputError('damaged')")) == told
