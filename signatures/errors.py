"""The one exception family. Every error that a user can cause carries the exit code of the command."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable


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


CLOSED_PIPE = 141
"""Exit code where what reads our output has closed it: what a shell shows of a program that SIGPIPE ended."""


def exit_code_of(command: Callable[[], int]) -> int:
    """Run a command and return its exit code; what goes wrong is told on stderr, in one line unless it is our bug."""
    try:
        try:
            return command()
        except AdabetError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        except BrokenPipeError:
            raise
        except Exception:
            traceback.print_exc()
            print("error: this is a bug in the program, please report it with the lines above", file=sys.stderr)
            return AdabetError.exit_code
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes both once more when it ends, and would tell of what it cannot write.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
        return CLOSED_PIPE
