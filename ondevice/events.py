"""The conversation of a run: events.jsonl as it goes, and progress on stderr."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from signatures.errors import CapabilityError

_REDRAW_S = 0.1
_CLEAR_LINE = "\r\x1b[K"


class Events:
    """Writes one JSON object a line: {"t_s": since the start, "phase": …, "event": kind, and the event's fields}.

    Nothing is buffered, so the file tells how far a killed run got; a resumed run appends. On a terminal
    `stream` (stderr) shows one line that is redrawn and cleared; elsewhere a plain line for each start and end
    of a phase. Raises CapabilityError where the file cannot be written.
    """

    def __init__(self, path: Path, stream: TextIO | None = None) -> None:
        self._path = path
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._started = time.monotonic()
        self._phase: str | None = None
        self._drawn_at = -math.inf
        self.stopping = False
        """Whether `stop_soon` was called."""
        try:
            self._file = path.open("ab", buffering=0)
            if self._file.tell() and not path.read_bytes().endswith(b"\n"):
                self._file.write(b"\n")  # a killed run broke off mid-line; spoil no line of ours
        except OSError as error:
            raise self._unwritable(error) from error

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()
        self._file.close()

    def emit(self, event: str, **fields: object) -> None:
        """Write one event. Fields: JSON types, NumPy values; NaN and infinities, unknown to JSON, become null."""
        assert not {"t_s", "phase", "event"} & fields.keys(), fields
        record = {"t_s": round(time.monotonic() - self._started, 3), "phase": self._phase, "event": event, **fields}
        try:
            self._file.write(json.dumps(_plain(record), allow_nan=False).encode() + b"\n")
        except OSError as error:
            raise self._unwritable(error) from error

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Events "start" and "end" (with duration_s, and whether it completed) around the block.

        KeyboardInterrupt instead after `stop_soon`.
        """
        self._stop_if_told()
        self._phase = name
        started = time.monotonic()
        self.emit("start")
        self._say(f"{name} …")
        completed = False
        try:
            yield
            completed = True
        finally:
            seconds = time.monotonic() - started
            self._clear()
            self.emit("end", duration_s=round(seconds, 3), completed=completed)
            if not self._terminal:
                self._say(f"{name}: {'done' if completed else 'stopped'} after {seconds:.1f} s")
            self._phase = None

    def stop_soon(self) -> None:
        """Have the next `progress`, or the next phase, raise KeyboardInterrupt: for a signal handler, which may come
        while anything is half done.
        """
        self.stopping = True

    def _stop_if_told(self) -> None:
        if self.stopping:
            raise KeyboardInterrupt

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Redraw the line on a terminal, at most ten times a second; nothing elsewhere, and no event.

        KeyboardInterrupt after `stop_soon`.
        """
        self._stop_if_told()
        now = time.monotonic()
        if self._terminal and (done == total or now - self._drawn_at >= _REDRAW_S):
            self._drawn_at = now
            self._say(f"{self._phase or ''} {done}/{total} {note}".strip())

    def _say(self, text: str) -> None:
        if self._terminal:
            columns = shutil.get_terminal_size().columns
            self._show(_CLEAR_LINE + text[: columns - 1])
        else:
            self._show(text + "\n")

    def _clear(self) -> None:
        if self._terminal:
            self._show(_CLEAR_LINE)

    def _show(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError:  # a closed terminal or a full log must not end a run; the events are in the file
            pass

    def _unwritable(self, error: OSError) -> CapabilityError:
        return CapabilityError(
            f"{self._path}: cannot be written ({error.strerror}). Choose a run folder with the right and the space to."
        )


def _plain(value: Any) -> Any:
    """The value in JSON's types: NumPy scalars and arrays by tolist(), tuples as lists, what is not finite as None."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
