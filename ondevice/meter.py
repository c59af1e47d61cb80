"""Memory and time of each phase, read inside the measured process.

The peak is the kernel's own high-water mark of resident memory (VmHWM), reset at the start of each phase by
writing 5 to /proc/self/clear_refs (proc(5)); sampling would miss short peaks. RssAnon (heap, arenas) and RssFile
(mapped weights, libraries) have no mark of their own: theirs is the largest value seen at `sample()`.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # mallopt(3)


@dataclass(frozen=True)
class PhaseMemory:
    """What one phase took.

    peak_bytes: largest resident size, exact. `reset` says whether it is the phase's own; if False (no right to
    reset the mark, or no /proc) it is that of the process since its start.
    anonymous_bytes, file_bytes: largest seen when sampled, so a lower bound; None where the system does not tell.
    """

    name: str
    seconds: float
    peak_bytes: int
    anonymous_bytes: int | None
    file_bytes: int | None
    reset: bool


@dataclass(frozen=True)
class Resident:
    """One reading: high-water mark, and the anonymous and file-backed parts of what is resident now."""

    peak_bytes: int
    anonymous_bytes: int | None
    file_bytes: int | None

    @property
    def resident_bytes(self) -> int:
        """What is resident now; the peak where the system does not tell."""
        if self.anonymous_bytes is None or self.file_bytes is None:
            return self.peak_bytes
        return self.anonymous_bytes + self.file_bytes


class Meter:
    """Measures phases, one after the other; `phases` holds the finished ones in order."""

    def __init__(self) -> None:
        self.phases: list[PhaseMemory] = []
        self._largest: Resident | None = None  # seen so far in the phase that runs

    @property
    def peak_bytes(self) -> int:
        """The peak over all finished phases, 0 before the first."""
        return max((phase.peak_bytes for phase in self.phases), default=0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the block; recorded also where it raises. Phases do not nest: there is one mark to reset."""
        assert self._largest is None, "a phase inside a phase"
        reset = _reset_peak()
        started = time.monotonic()
        self._largest = read_resident()
        try:
            yield
        finally:
            seconds = time.monotonic() - started
            seen = _larger_of(self._largest, read_resident())
            self._largest = None
            self.phases.append(
                PhaseMemory(name, seconds, seen.peak_bytes, seen.anonymous_bytes, seen.file_bytes, reset)
            )

    def sample(self) -> None:
        """Note what is resident now (0.1 ms); call it inside loops, where the most is held. Nothing outside a phase."""
        if self._largest is not None:
            self._largest = _larger_of(self._largest, read_resident())


def read_resident() -> Resident:
    """Read this process's memory, from /proc where there is one, else the peak alone from getrusage."""
    try:
        text = _STATUS.read_text(encoding="ascii", errors="replace")
    except OSError:
        text = ""
    return parse_status(text) or Resident(_rusage_peak_bytes(), None, None)


def keep_large_blocks_apart() -> None:
    """Have glibc map every block of 1 MiB and more by itself, so that it goes back to the system when it is freed.

    Left alone, glibc raises that size to 32 MiB once such blocks were freed, and what one phase leaves of its heap
    stays: 17 MiB in training after probing (docs/decisions.md). And have all threads share one heap: each of its own
    takes 64 MiB of address space, which RLIMIT_AS counts. Nothing on other C libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 20)
        mallopt(_M_ARENA_MAX, 1)


def release_free_memory() -> None:
    """Give memory that was freed back to the system, where the C library knows how (glibc): what one phase leaves
    behind would count in the next.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def parse_status(text: str) -> Resident | None:
    """Read the text of /proc/<pid>/status (proc(5), sizes in KiB); None if it has no VmHWM.

    RssAnon and RssFile came with Linux 4.5; older phones have kernels without.
    """
    sizes: dict[str, int] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        number, _, unit = value.strip().partition(" ")
        if unit == "kB" and number.isdecimal():
            sizes[name] = int(number) * 1024
    if "VmHWM" not in sizes:
        return None
    return Resident(sizes["VmHWM"], sizes.get("RssAnon"), sizes.get("RssFile"))


def _reset_peak() -> bool:
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def _rusage_peak_bytes() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _larger_of(a: Resident, b: Resident) -> Resident:
    return Resident(
        max(a.peak_bytes, b.peak_bytes),
        _larger(a.anonymous_bytes, b.anonymous_bytes),
        _larger(a.file_bytes, b.file_bytes),
    )


def _larger(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else max(a, b)
