"""TensorFlow without its chatter: stderr is for our own conversation with the user."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from signatures.errors import CapabilityError

STDERR_FILENO = 2


def import_tensorflow() -> None:
    """Import TensorFlow silently and keep it silent; later imports of it find it loaded.

    Raises CapabilityError where it is not installed or does not load.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Some lines come before any log level holds, straight from C++.
    with captured_stderr():
        try:
            importlib.import_module("tensorflow")
            importlib.import_module("absl.logging").set_verbosity("error")
        except ImportError as error:
            raise CapabilityError(
                f"TensorFlow cannot be imported ({error}); install this project with its [host] extra "
                "on a Python that TensorFlow has a wheel for"
            ) from error


@contextmanager
def captured_stderr() -> Iterator[None]:
    """Catch what the process writes to file descriptor 2, C++ included; show it only if the body raises."""
    sys.stderr.flush()
    kept = os.dup(STDERR_FILENO)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), STDERR_FILENO)
        try:
            yield
        except BaseException:
            caught.seek(0)
            os.write(kept, caught.read())
            raise
        finally:
            os.dup2(kept, STDERR_FILENO)
            os.close(kept)
