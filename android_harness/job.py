"""A run on the device: begun, followed by its events and its memory, stopped; job.sh is its other end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from shlex import quote
from typing import Any

from android_harness.conditions import Conditions, parse_conditions, sections
from android_harness.errors import (
    ConnectionLostError,
    DeviceAnswerError,
    DeviceFullError,
    KilledError,
    MissingPackageError,
    TimedOutError,
    WrongAbiError,
)
from android_harness.link import Output
from android_harness.parsers import free_bytes
from android_harness.parsers.memory import ProcessMemory, Rollup, parse_smaps_rollup, parse_status
from android_harness.parsers.text import first_values
from android_harness.places import Place
from signatures.errors import AdabetError

LEASE_S = 120
"""A run that nobody asks after for so long ends itself: a phone that was unplugged does not go on for nobody."""
PERIOD_S = 1.0
"""Between two looks, when the first second is over; each costs the device three small processes."""
_FIRST_S = 0.1
"""After the start, doubled with each look: a run of a second is seen too."""
_REST = 4.0
"""Between two looks at least so many times what one takes: on a slow device looking must not be what is measured."""
_CONDITIONS_PERIOD_S = 10.0
"""Between two readings of heat and frequencies, for which Android starts `dumpsys` twice."""
_STOP_S = 60.0
_KILLED, _ILLEGAL, _NOT_FOUND = 137, 132, (126, 127)
_NO_ROOM = 64 << 10
"""Bytes free on a disk where the smallest files cannot be written any more."""


@dataclass(frozen=True)
class Sample:
    """The process seen from outside, `t_s` seconds after it was begun."""

    t_s: float
    status: ProcessMemory
    rollup: Rollup


@dataclass(frozen=True)
class Ended:
    """How a run ended. code: of the process, None if nobody was left to tell. stopped: asked, lease, timeout, None."""

    code: int | None
    stopped: str | None
    seconds: float
    samples: tuple[Sample, ...]
    during: tuple[Conditions, ...]


@dataclass(frozen=True)
class Job:
    """A folder of the device in which one command runs.

    place: the user who runs it. adb: adb's own, who may ask the system. scripts: folder on the device with job.sh and
    facts.sh.
    """

    place: Place
    adb: Place
    scripts: str
    folder: str

    def start(self, command: Sequence[str], timeout_s: int, prefix: Sequence[str] = ()) -> None:
        """Begin `command` (its words), where the words of `prefix` lead to; starting twice does no harm."""
        become = (*prefix, "sh", f"{self.scripts}/job.sh", "become", self.folder, *command)
        words = " ".join(quote(word) for word in become)
        output = self._script(f"start {quote(self.folder)} {LEASE_S} {timeout_s} {words}")
        if output.code:
            words = output.text.strip()[-300:]
            if "No space left" in words:
                raise DeviceFullError(words)
            raise DeviceAnswerError(f"the run did not begin: {words}")

    def follow(self, on_event: Callable[[dict[str, Any], Sample | None], None]) -> Ended:
        """Wait for the end, and hand over each event as it comes, with the latest sample."""
        began = time.monotonic()
        samples: list[Sample] = []
        during: list[Conditions] = []
        offset = 0
        pause_s = _FIRST_S
        beats = count(1)
        while True:
            look = time.monotonic()
            told = sections(self._script(f"tick {quote(self.folder)} {next(beats)} {offset}").text)
            if "end" not in told:
                raise DeviceAnswerError(f"no sense in what the run says of itself: {told}")
            if "process" in told:
                memory = parse_status(told["process"]), parse_smaps_rollup(told["process"])
                samples.append(Sample(round(time.monotonic() - began, 3), *memory))
            *whole, _ = told.get("events", "\n")[:-1].split("\n")  # the last line break is the script's own
            for line in whole:  # what is being written follows the next time
                offset += len(line.encode()) + 1
                with suppress(ValueError):  # the run writes nothing else; what spoils a line is not worth the run
                    on_event(json.loads(line), samples[-1] if samples else None)
            state = first_values(told.get("job", ""))
            if state.get("running") != "yes":
                seconds = time.monotonic() - began
                code = state.get("exit", "")
                return Ended(
                    int(code) if code.isdigit() else None, state.get("stopped"), seconds, tuple(samples), tuple(during)
                )
            if look - began >= _CONDITIONS_PERIOD_S * (len(during) + 1):
                during.append(self.conditions())
            took = time.monotonic() - look
            time.sleep(max(pause_s - took, _REST * took))
            pause_s = min(2 * pause_s, PERIOD_S)

    def conditions(self) -> Conditions:
        """Heat, frequencies, swapping at this moment."""
        return parse_conditions(self.adb.shell(f"sh {quote(self.scripts)}/facts.sh conditions").text)

    def stop(self) -> None:
        """End the run and wait for it; DeviceAnswerError if it does not end."""
        if self._script(f"stop {quote(self.folder)}", _STOP_S).code:
            raise DeviceAnswerError(f"the run in {self.folder} cannot be stopped")

    def is_running(self) -> bool:
        """Whether it has not ended yet; asking is no sign of life that would renew its lease."""
        return self._script(f"running {quote(self.folder)}").code == 0

    def remove(self) -> None:
        """Delete the folder."""
        self.place.shell(f"rm -rf {quote(self.folder)}")

    def failure(self, ended: Ended) -> AdabetError | None:
        """What to tell of an end that is not the good one; None for that."""
        if ended.stopped == "timeout":
            return TimedOutError(f"the run took more than {ended.seconds:.0f} s and was stopped; see --timeout")
        if ended.stopped == "lease":
            return ConnectionLostError(
                f"the connection was away for more than {LEASE_S} s, and the run ended itself; run it again"
            )
        if ended.code == 0 and not ended.stopped:
            return None
        if ended.stopped in ("asked", "removed"):
            return DeviceAnswerError("another command of the harness ended the run; one at a time, please")
        words = self.place.shell(f"tail -n 4 {quote(self.folder)}/said/stderr 2>/dev/null").text.strip()
        free = free_bytes(self.place.shell(f"df -k {quote(self.folder)}").text)
        if "No space left" in words or (free is not None and free < _NO_ROOM):
            return DeviceFullError(f"no room is left in {self.folder}: {words or 'not even for an error message'}")
        if ended.code in (None, _KILLED):
            return KilledError(
                f"the system killed the run after {ended.seconds:.0f} s. {self._killer()} A smaller "
                f"--budget-mib may fit; on Android 12 and later see --no-phantom-killer"
            )
        if ended.code == _ILLEGAL:
            return WrongAbiError(f"a package is not built for this processor (SIGILL): {words}")
        if ended.code in _NOT_FOUND:
            return MissingPackageError(f"Python could not be started: {words}")
        return RunFailedError(ended.code or 70, f"the run ended with {ended.code}: {words.removeprefix('error: ')}")

    def _killer(self) -> str:
        """Who did it, as far as the device tells."""
        number = self.place.shell(f"cat {quote(self.folder)}/state/pid").text.partition(" ")[0]
        if not number.isdigit():
            return "It left no trace."
        told = self.adb.shell(
            f"(logcat -d -t 2000 2>/dev/null; dmesg 2>/dev/null) | grep -w {number} | grep -i kill | tail -n 3"
        ).text.strip()
        return f"Its log says: {told}" if told else "Its log does not say why: likely too little memory."

    def _script(self, arguments: str, timeout_s: float = 40.0) -> Output:
        return self.place.shell(f"sh {quote(self.scripts)}/job.sh {arguments}", timeout_s)


class RunFailedError(AdabetError):
    """The command on the device ended with an error of its own, whose exit code this one hands on."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = code if code in (2, 3, 4, 5, 6, 7) else AdabetError.exit_code
