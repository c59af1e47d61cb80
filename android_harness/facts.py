"""What a device is, from what facts.sh prints there."""

from __future__ import annotations

from dataclasses import dataclass

from android_harness.conditions import Conditions, concerns, notes, parse_conditions, sections, tells_throttling
from android_harness.parsers.cpu import CpuInfo, Policy, parse_cpu_list, parse_cpuinfo
from android_harness.parsers.memory import MemInfo, Swap, Zram, parse_meminfo, parse_swaps, parse_zram
from android_harness.parsers.system import (
    Disk,
    Kernel,
    parse_device_tree,
    parse_df,
    parse_getprop,
    parse_os_release,
    parse_uname,
)
from android_harness.parsers.text import integer


@dataclass(frozen=True)
class Core:
    """One core. name: such as Cortex-A76; governor and hardware_max_khz: of the policy that it belongs to."""

    index: int
    name: str | None
    governor: str | None
    hardware_max_khz: int | None


@dataclass(frozen=True)
class DeviceFacts:
    """A device and its state at one moment; `dataclasses.asdict` makes JSON of it. None: the device does not tell.

    kind: android or linux. abis: by preference; on Linux what `uname -m` says, which is the kernel's: a 64-bit kernel
    may have a 32-bit userland, see userland_bits. system: name of a Linux distribution. throttled:
    by the rules of `concerns`; None too where a limit of the frequencies may be heat's or the maker's, which one
    reading does not tell. throttled_because: what speaks for it. complete: whether the whole answer came through.
    """

    kind: str | None
    model: str | None
    manufacturer: str | None
    android_version: str | None
    sdk: int | None
    build: str | None
    system: str | None
    soc: str | None
    abis: tuple[str, ...]
    userland_bits: int | None
    kernel: Kernel | None
    cores: tuple[Core, ...]
    memory: MemInfo
    swaps: tuple[Swap, ...]
    zram: Zram | None
    disks: tuple[Disk, ...]
    conditions: Conditions
    throttled: bool | None
    throttled_because: tuple[str, ...]
    complete: bool


def parse_facts(text: str) -> DeviceFacts:
    """Read what `sh facts.sh facts` printed."""
    told = sections(text)
    properties = parse_getprop(told.get("getprop", ""))
    kernel = parse_uname(told.get("uname", ""))
    cpuinfo = parse_cpuinfo(told.get("cpuinfo", ""))
    release = parse_os_release(told.get("os_release", ""))
    conditions = parse_conditions(text)
    because, perhaps = concerns(conditions, (), conditions, ()), notes(conditions, (), conditions)
    return DeviceFacts(
        kind=_kind(properties, kernel),
        model=properties.get("ro.product.model")
        or next(iter(parse_device_tree(told.get("model", ""))), None)
        or cpuinfo.model,
        manufacturer=properties.get("ro.product.manufacturer"),
        android_version=properties.get("ro.build.version.release"),
        sdk=integer(properties.get("ro.build.version.sdk")),
        build=properties.get("ro.build.display.id"),
        system=None if properties else release.get("PRETTY_NAME"),
        soc=_soc(properties, parse_device_tree(told.get("compatible", "")), cpuinfo),
        abis=_abis(properties, kernel),
        userland_bits=integer(told.get("bits")),
        kernel=kernel,
        cores=_cores(cpuinfo, parse_cpu_list(told.get("present", "")), conditions.policies),
        memory=parse_meminfo(told.get("meminfo", "")),
        swaps=parse_swaps(told.get("swaps", "")),
        zram=parse_zram(told.get("zram_mm_stat", ""), told.get("zram_disksize", "")),
        disks=parse_df(told.get("df", "")),
        conditions=conditions,
        throttled=True if because else False if tells_throttling(conditions) and not perhaps else None,
        throttled_because=(*because, *perhaps),
        complete=conditions.complete,
    )


def _kind(properties: dict[str, str], kernel: Kernel | None) -> str | None:
    if properties:
        return "android"
    return "linux" if kernel is not None and kernel.system == "Linux" else None


def _soc(properties: dict[str, str], compatible: tuple[str, ...], cpuinfo: CpuInfo) -> str | None:
    model = properties.get("ro.soc.model")  # Android 12 and newer
    if model is not None:
        return " ".join(filter(None, (properties.get("ro.soc.manufacturer"), model)))
    # A device tree names the board first and what it is built of last, so the SoC; the line Hardware of cpuinfo says
    # BCM2835 of every Raspberry Pi (raspberrypi/linux issue 2008), and the SoC of a phone.
    return (
        (None if properties else next(reversed(compatible), None))
        or cpuinfo.hardware
        or properties.get("ro.board.platform")
        or properties.get("ro.hardware")
    )


def _abis(properties: dict[str, str], kernel: Kernel | None) -> tuple[str, ...]:
    listed = properties.get("ro.product.cpu.abilist") or properties.get("ro.product.cpu.abi")
    if listed:
        return tuple(listed.split(","))
    return (kernel.machine,) if kernel is not None and not properties else ()


def _cores(cpuinfo: CpuInfo, present: tuple[int, ...], policies: tuple[Policy, ...]) -> tuple[Core, ...]:
    names = {processor.index: processor.name for processor in cpuinfo.processors}
    of_core = {cpu: policy for policy in policies for cpu in policy.cpus}
    return tuple(
        Core(
            index,
            names.get(index),
            of_core[index].governor if index in of_core else None,
            of_core[index].hardware_max_khz if index in of_core else None,
        )
        for index in sorted({*names, *present, *of_core})
    )
