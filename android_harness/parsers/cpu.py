"""Processors: names and number of cores, and the frequencies they may run at.

Sources: /proc/cpuinfo as arch/arm, arch/arm64 and arch/x86 of Linux print it; Documentation/admin-guide/pm/cpufreq.rst;
part numbers from util-linux (sys-utils/lscpu-arm.c) and arch/arm64/include/asm/cputype.h.
"""

from __future__ import annotations

from dataclasses import dataclass

from android_harness.parsers.text import integer, pairs

_PARTS: dict[int, dict[int, str]] = {
    0x41: {
        0xB76: "ARM1176",
        0xC05: "Cortex-A5",
        0xC07: "Cortex-A7",
        0xC08: "Cortex-A8",
        0xC09: "Cortex-A9",
        0xC0D: "Cortex-A12",
        0xC0E: "Cortex-A17",
        0xC0F: "Cortex-A15",
        0xD01: "Cortex-A32",
        0xD02: "Cortex-A34",
        0xD03: "Cortex-A53",
        0xD04: "Cortex-A35",
        0xD05: "Cortex-A55",
        0xD06: "Cortex-A65",
        0xD07: "Cortex-A57",
        0xD08: "Cortex-A72",
        0xD09: "Cortex-A73",
        0xD0A: "Cortex-A75",
        0xD0B: "Cortex-A76",
        0xD0C: "Neoverse-N1",
        0xD0D: "Cortex-A77",
        0xD0E: "Cortex-A76AE",
        0xD40: "Neoverse-V1",
        0xD41: "Cortex-A78",
        0xD42: "Cortex-A78AE",
        0xD44: "Cortex-X1",
        0xD46: "Cortex-A510",
        0xD47: "Cortex-A710",
        0xD48: "Cortex-X2",
        0xD49: "Neoverse-N2",
        0xD4A: "Neoverse-E1",
        0xD4B: "Cortex-A78C",
        0xD4C: "Cortex-X1C",
        0xD4D: "Cortex-A715",
        0xD4E: "Cortex-X3",
        0xD4F: "Neoverse-V2",
        0xD80: "Cortex-A520",
        0xD81: "Cortex-A720",
        0xD82: "Cortex-X4",
        0xD84: "Neoverse-V3",
        0xD85: "Cortex-X925",
        0xD87: "Cortex-A725",
        0xD8E: "Neoverse-N3",
    },
    0x48: {0xD01: "Kunpeng-920", 0xD40: "Cortex-A76"},
    0x4E: {0x000: "Denver", 0x003: "Denver 2", 0x004: "Carmel"},
    0x51: {
        0x001: "Oryon",
        0x00F: "Scorpion",
        0x02D: "Scorpion",
        0x04D: "Krait",
        0x06F: "Krait",
        0x201: "Kryo",
        0x205: "Kryo",
        0x211: "Kryo",
        0x800: "Kryo-2XX-Gold",
        0x801: "Kryo-2XX-Silver",
        0x802: "Kryo-3XX-Gold",
        0x803: "Kryo-3XX-Silver",
        0x804: "Kryo-4XX-Gold",
        0x805: "Kryo-4XX-Silver",
    },
    0x53: {0x001: "Exynos-M1", 0x002: "Exynos-M3", 0x003: "Exynos-M4", 0x004: "Exynos-M5"},
}
"""Names by implementer and part, of cores that phones and small boards have."""


@dataclass(frozen=True)
class Processor:
    """One core that is on. name: such as Cortex-A76, or the model name of an x86; None where it is not told."""

    index: int
    name: str | None
    part: str | None
    """Implementer and part of an ARM core, as `0x41:0xd0b`."""


@dataclass(frozen=True)
class CpuInfo:
    """/proc/cpuinfo. hardware: the SoC or board by older ARM kernels; model: the board, by those of a Raspberry Pi."""

    processors: tuple[Processor, ...]
    hardware: str | None
    model: str | None


@dataclass(frozen=True)
class Policy:
    """Cores that change frequency together: one folder under /sys/devices/system/cpu/cpufreq. Frequencies in kHz.

    hardware_max_khz is what the cores can, max_khz what they may now: a governor, a power saver or a thermal limit
    lowers it. current_khz is what the governor asked for last.
    """

    name: str
    cpus: tuple[int, ...]
    governor: str | None
    min_khz: int | None
    max_khz: int | None
    current_khz: int | None
    hardware_max_khz: int | None


def parse_cpuinfo(text: str) -> CpuInfo:
    """Read /proc/cpuinfo of ARM or x86; cores that are off are not in it.

    Kernels before 3.16 or so write implementer and part once, for whichever core prints: then no core has a name, since
    a chip may have two kinds.
    """
    cores: list[tuple[int, dict[str, str]]] = []
    once: dict[str, str] = {}
    for name, value in pairs(text):
        index = integer(value) if name == "processor" else None
        if index is not None:
            cores.append((index, {}))
        elif name in _OF_A_CORE and cores:
            cores[-1][1].setdefault(name, value)
        else:
            once.setdefault(name, value)
    if len(cores) > 1 and sum("CPU part" in told for _, told in cores) == 1:
        cores = [(index, {}) for index, _ in cores]
    return CpuInfo(
        tuple(_processor(index, told) for index, told in cores),
        once.get("Hardware") or None,
        once.get("Model") or None,
    )


_OF_A_CORE = ("CPU implementer", "CPU part", "model name")


def _processor(index: int, told: dict[str, str]) -> Processor:
    implementer, part = integer(told.get("CPU implementer"), 16), integer(told.get("CPU part"), 16)
    if implementer is None or part is None:
        return Processor(index, told.get("model name") or None, None)
    return Processor(index, _PARTS.get(implementer, {}).get(part), f"{implementer:#04x}:{part:#05x}")


def parse_cpufreq(text: str) -> tuple[Policy, ...]:
    """Read lines `policy0/scaling_governor=schedutil`, as facts.sh prints the files of cpufreq, by policy.

    Older kernels have a folder for each core (`cpu0/…`); cores that name the same related cores are one policy.
    """
    told: dict[str, dict[str, str]] = {}
    for path, value in pairs(text, "="):
        name, found, key = path.partition("/")
        if found and value:
            told.setdefault(name, {}).setdefault(key, value)
    policies: dict[tuple[int, ...] | str, Policy] = {}
    for name, values in told.items():
        cpus = parse_cpu_list(values.get("related_cpus", ""))
        policy = Policy(
            name,
            cpus,
            values.get("scaling_governor"),
            integer(values.get("scaling_min_freq")),
            integer(values.get("scaling_max_freq")),
            integer(values.get("scaling_cur_freq")),
            integer(values.get("cpuinfo_max_freq")),
        )
        policies.setdefault(cpus or name, policy)
    return tuple(sorted(policies.values(), key=lambda policy: (policy.cpus, policy.name)))


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Read a list of cores: `0 1 2 3`, or `0-3,7` as in /sys/devices/system/cpu/present; empty where it is none."""
    cpus: set[int] = set()
    for part in text.replace(",", " ").split():
        first, dash, last = part.partition("-")
        low, high = integer(first), integer(last if dash else first)
        if low is None or high is None or not 0 <= low <= high < 4096:
            return ()
        cpus.update(range(low, high + 1))
    return tuple(sorted(cpus))
