"""Memory: /proc/meminfo, a process's share of it, swap, zram, paging, and Android's own view of it.

Sources: proc(5); Documentation/admin-guide/blockdev/zram.rst for mm_stat; Android's
ActivityManagerService.dumpApplicationMemoryUsage for `dumpsys meminfo`. All sizes in bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from android_harness.parsers.text import first_values, integer, kib


@dataclass(frozen=True)
class MemInfo:
    """/proc/meminfo. available_bytes: what programs can still get without swapping (Linux 3.14 and newer)."""

    total_bytes: int | None
    available_bytes: int | None
    free_bytes: int | None
    swap_total_bytes: int | None
    swap_free_bytes: int | None


@dataclass(frozen=True)
class ProcessMemory:
    """/proc/PID/status. resident is now, peak since the start of the process (or since its mark was reset).

    anonymous and file: parts of resident (Linux 4.5 and newer); file does not hold shared memory. A kernel thread or a
    process that has ended (state Z) has no sizes.
    """

    state: str | None
    """One letter: R running, S sleeping, D in the kernel, T stopped, Z ended, …"""
    resident_bytes: int | None
    peak_bytes: int | None
    anonymous_bytes: int | None
    file_bytes: int | None
    swap_bytes: int | None


@dataclass(frozen=True)
class Rollup:
    """/proc/PID/smaps_rollup (Linux 4.14 and newer): the sum over all mappings.

    proportional: each page divided by the number of processes that map it (Pss).
    """

    resident_bytes: int | None
    proportional_bytes: int | None
    private_clean_bytes: int | None
    private_dirty_bytes: int | None
    swap_bytes: int | None
    swap_proportional_bytes: int | None


@dataclass(frozen=True)
class Swap:
    """One line of /proc/swaps. kind: partition or file; zram is a partition."""

    name: str
    kind: str
    size_bytes: int
    used_bytes: int
    priority: int


@dataclass(frozen=True)
class Zram:
    """Swap that is kept compressed in memory.

    stored is what the pages held measure, used the memory that they take compressed, with zram's own.
    """

    disk_bytes: int | None
    stored_bytes: int | None
    compressed_bytes: int | None
    used_bytes: int | None


@dataclass(frozen=True)
class Paging:
    """/proc/vmstat: pages read from and written to swap since the start of the system."""

    in_pages: int | None
    out_pages: int | None


@dataclass(frozen=True)
class AndroidMemory:
    """The summary at the end of `dumpsys meminfo`.

    zram_used is the memory that zram takes, zram_stored what it holds of the zram_total that it can.
    """

    total_bytes: int | None
    free_bytes: int | None
    used_bytes: int | None
    status: str | None
    zram_used_bytes: int | None
    zram_stored_bytes: int | None
    zram_total_bytes: int | None


def parse_meminfo(text: str) -> MemInfo:
    """Read /proc/meminfo."""
    told = first_values(text)
    return MemInfo(
        kib(told.get("MemTotal")),
        kib(told.get("MemAvailable")),
        kib(told.get("MemFree")),
        kib(told.get("SwapTotal")),
        kib(told.get("SwapFree")),
    )


def parse_status(text: str) -> ProcessMemory:
    """Read /proc/PID/status."""
    told = first_values(text)
    state = re.match(r"[A-Za-z]\b", told.get("State", ""))
    return ProcessMemory(
        state[0] if state else None,
        kib(told.get("VmRSS")),
        kib(told.get("VmHWM")),
        kib(told.get("RssAnon")),
        kib(told.get("RssFile")),
        kib(told.get("VmSwap")),
    )


def parse_smaps_rollup(text: str) -> Rollup:
    """Read /proc/PID/smaps_rollup."""
    told = first_values(text)
    return Rollup(
        kib(told.get("Rss")),
        kib(told.get("Pss")),
        kib(told.get("Private_Clean")),
        kib(told.get("Private_Dirty")),
        kib(told.get("Swap")),
        kib(told.get("SwapPss")),
    )


def parse_swaps(text: str) -> tuple[Swap, ...]:
    """Read /proc/swaps: a heading, then one line a swap; sizes in KiB."""
    swaps = []
    for line in text.splitlines():
        words = line.split()
        if len(words) != 5:
            continue
        size, used, priority = integer(words[2]), integer(words[3]), integer(words[4])
        if size is not None and used is not None and priority is not None:
            swaps.append(Swap(words[0], words[1], size * 1024, used * 1024, priority))
    return tuple(swaps)


def parse_zram(mm_stat: str, disksize: str) -> Zram | None:
    """Read /sys/block/zram0/mm_stat and disksize, both in bytes; None where neither tells a number."""
    words = mm_stat.split()
    # Fewer words than the oldest kernel with the file writes (seven): a message, or cut.
    stored, compressed, used = [integer(word) for word in words[:3]] if len(words) >= 7 else [None] * 3
    disk = integer(disksize)
    return None if disk is None and stored is None else Zram(disk, stored, compressed, used)


def parse_vmstat(text: str) -> Paging:
    """Read pswpin and pswpout of /proc/vmstat; kernels without swap have neither."""
    told = first_values(text, " ")
    return Paging(integer(told.get("pswpin")), integer(told.get("pswpout")))


def parse_dumpsys_meminfo(text: str) -> AndroidMemory:
    """Read the summary of `dumpsys meminfo`: `2,863,284K` since Android 7, `2863284 kB` before."""
    told = first_values(text)
    total = told.get("Total RAM", "")
    status = re.search(r"\(status (\w+)\)", total)
    zram = re.match(rf"({_SIZE}) physical used for +({_SIZE}) in swap \( *({_SIZE}) total swap\)", told.get("ZRAM", ""))
    return AndroidMemory(
        _grouped_kib(total),
        _grouped_kib(told.get("Free RAM", "")),
        _grouped_kib(told.get("Used RAM", "")),
        status[1] if status else None,
        *(_grouped_kib(zram[part]) if zram else None for part in (1, 2, 3)),
    )


_SIZE = r"[0-9][0-9,]{0,20} ?(?:K|kB)"


def _grouped_kib(value: str) -> int | None:
    found = re.match(rf"{_SIZE}\b", value)
    return int(re.sub(r"[^0-9]", "", found[0])) * 1024 if found else None
