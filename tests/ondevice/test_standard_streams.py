"""Commands whose output is no longer read, as by `… | head`, cannot be written, or that were started without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from signatures.errors import CLOSED_PIPE, INTERRUPTED, CapabilityError, InputError
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


def in_shell(body: str, redirections: str) -> tuple[int, str]:
    """Run a command with redirections of a shell; its exit code and stderr."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-c", COMMAND.format(body)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=TIMEOUT_S,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("characters", [1, 10_000, 1_000_000])
def test_output_that_cannot_be_written(characters: int) -> None:
    code, stderr = in_shell(f"print('x' * {characters})", ">/dev/full")
    assert (code, stderr.count("\n")) == (CapabilityError.exit_code, 1)
    assert stderr.startswith("error: cannot write the result to standard output: No space left")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_log_that_is_full_changes_no_exit_code() -> None:
    assert in_shell("raise InputError('damaged')", "2>/dev/full")[0] == InputError.exit_code


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_is_not_the_next_file(tmp_path: Path, closed: str) -> None:
    file = tmp_path / "file"
    write = f"f = open({str(file)!r}, 'wb'); print('of a library'); print('too', file=sys.stderr); f.write(b'ours')"
    assert in_shell(write, closed)[0] == 0
    assert file.read_bytes() == b"ours"


def test_an_interrupt_is_no_bug() -> None:
    assert in_shell("raise KeyboardInterrupt", "") == (INTERRUPTED, "error: interrupted\n")
