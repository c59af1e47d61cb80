"""The one exception family. Every error that a user can cause carries the exit code of the command."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import TextIO


class AdabetError(Exception):
    """Base of all errors meant for a user: the message says what, where and what to do."""

    exit_code = 70


class UsageError(AdabetError):
    """The command line asks for something that makes no sense."""

    exit_code = 2


class InputError(AdabetError):
    """A bundle, model, dataset or weight file is missing, damaged or not what it claims to be."""

    exit_code = 3


class BudgetError(AdabetError):
    """Nothing that was asked for fits the memory or time budget."""

    exit_code = 4

    def __init__(self, message: str, least_bytes: int = 0) -> None:
        super().__init__(message)
        self.least_bytes = least_bytes
        """Of memory, what would do; 0 where memory is not the reason."""


class InterruptedRunError(AdabetError):
    """The run was interrupted; a checkpoint was written."""

    exit_code = 5


class DivergedError(AdabetError):
    """Loss or weights became NaN or infinite."""

    exit_code = 6


class CapabilityError(AdabetError):
    """This machine lacks something the command needs (an interpreter, a package, a right)."""

    exit_code = 7


CLOSED_PIPE, INTERRUPTED = 141, 130
"""Exit codes where what reads our output has closed it, and of Ctrl-C where nothing is there to go on with: what a
shell shows of a program that SIGPIPE or SIGINT ended."""


def exit_code_of(command: Callable[[], int]) -> int:
    """Run a command and return its exit code; what goes wrong is told on stderr, in one line unless it is our bug."""
    _open_standard_streams()
    try:
        code = _told(command)
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError:
            if code == 0:
                raise
            _silence(sys.stdout)
        return code
    except BrokenPipeError:
        _silence(sys.stdout, sys.stderr)
        return CLOSED_PIPE
    except OSError as error:
        _silence(sys.stdout)
        _tell(f"error: cannot write the result to standard output: {error.strerror}")
        return CapabilityError.exit_code


def _told(command: Callable[[], int]) -> int:
    """OSError where standard output cannot be written."""
    try:
        return command()
    except AdabetError as error:
        _tell(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        _tell("error: interrupted")
        return INTERRUPTED
    except MemoryError:
        _tell("error: there was not enough memory")
        return BudgetError.exit_code
    except BrokenPipeError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None:
            print(flush=True)  # fails again where that was what failed
        bug = "error: this is a bug in the program, please report it with the lines above"
        return AdabetError.exit_code if _tell(traceback.format_exc() + bug) else CapabilityError.exit_code


def _tell(text: str) -> bool:
    """Whether it could be written: a log may be full, and what failed may have been that."""
    try:
        print(text, file=sys.stderr)
    except BrokenPipeError:
        raise
    except OSError:
        return False
    return True


def _open_standard_streams() -> None:
    """Where a command was started without one of them (`>&-`), the next file that it opens would be that one."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(descriptor)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8"))


def _silence(*streams: TextIO) -> None:
    """Python flushes them once more when it ends, and would tell of what it cannot write."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream.fileno())
