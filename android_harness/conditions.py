"""What may spoil a measurement: heat, lowered frequencies, swapping; read before, during and after a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from android_harness.parsers.battery import Battery, parse_battery
from android_harness.parsers.cpu import Policy, parse_cpufreq
from android_harness.parsers.memory import Paging, parse_meminfo, parse_vmstat
from android_harness.parsers.thermal import (
    STATUS_NAMES,
    Firmware,
    Temperature,
    parse_measure_temp,
    parse_thermal_zones,
    parse_thermalservice,
    parse_throttled,
    parse_throttled_file,
    parse_under_voltage,
)

_MODERATE = 2
"""PowerManager.THERMAL_STATUS_MODERATE, `moderate throttling where UX is not largely impacted`: from here on the system
itself says that it is slower to be felt. LIGHT (`UX is not impacted`) may be a warm case and full frequencies, so it
counts only where nothing tells the frequencies."""
_SWAPPED_BYTES = 1 << 20
"""What of the process may be in swap: memory is shown in whole MiB, and a run's peak varies by more itself (9 MiB,
README). A phone with zram moves single pages that nobody has touched for a while, which costs the run nothing."""
_SWAPPED_PAGES = 256
"""Pages written to swap by the whole system during a run that are not worth a word: eight rounds of reclaim, which
takes 32 at a time (SWAP_CLUSTER_MAX in include/linux/swap.h)."""


@dataclass(frozen=True)
class Conditions:
    """One reading. What the device does not tell is None or empty.

    thermal_status: 0 to 6 and its name, by Android. firmware: what a Raspberry Pi's limits. paging counts from the
    start of the system. complete: whether the reading came to its end.
    """

    battery: Battery | None
    temperatures: tuple[Temperature, ...]
    thermal_status: int | None
    thermal_status_name: str | None
    policies: tuple[Policy, ...]
    firmware: Firmware | None
    paging: Paging
    available_bytes: int | None
    complete: bool


def sections(text: str) -> dict[str, str]:
    """The parts of what facts.sh printed, by name.

    Only those that another one follows: the last may be cut in the middle of a number.
    """
    parts = re.split(r"^@@facts ([a-z_]+)@@\r*$\n?", text, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    if found:
        last = parts[-2]
        found = {name: part for name, part in found.items() if name != last or name == "end"}
    return found


def parse_conditions(text: str) -> Conditions:
    """Read what `sh facts.sh conditions` (or `facts`) printed."""
    told = sections(text)
    service = parse_thermalservice(told.get("thermalservice", ""))
    status = service.status if service else None
    return Conditions(
        parse_battery(told.get("battery", "")),
        (service.current if service else ()) or _zones(told),
        status,
        None if status is None else STATUS_NAMES[status],
        parse_cpufreq(told.get("cpufreq", "")),
        parse_throttled(told.get("throttled", ""))
        or parse_throttled_file(told.get("throttled_file", ""))
        or parse_under_voltage(told.get("under_voltage", "")),
        parse_vmstat(told.get("vmstat", "")),
        parse_meminfo(told.get("meminfo", "")).available_bytes,
        "end" in told,
    )


def _zones(told: dict[str, str]) -> tuple[Temperature, ...]:
    zones = parse_thermal_zones(told.get("zones", ""))
    celsius = parse_measure_temp(told.get("measure_temp", ""))
    return zones or (() if celsius is None else (Temperature("vcgencmd", celsius, "soc", None),))


def concerns(
    before: Conditions, during: Sequence[Conditions], after: Conditions, process_swap_bytes: Sequence[int]
) -> tuple[str, ...]:
    """Why a run must not be averaged in, in words; empty where nothing speaks against it.

    process_swap_bytes: VmSwap of the measured process, each time it was read. What the device does not tell is no
    reason: see `tells_throttling`; nor is what `notes` says.
    """
    readings = (before, *during, after)
    return (
        *_thermal_concerns(readings),
        *_firmware_concerns(readings),
        *_frequency_concerns(readings),
        *_swap_concerns(process_swap_bytes),
    )


def notes(before: Conditions, during: Sequence[Conditions], after: Conditions) -> tuple[str, ...]:
    """What a reader of a run's figures should know, though the run counts: in words, empty where there is nothing."""
    readings = (before, *during, after)
    return (*_frequency_notes(readings), *_paging_notes(readings))


def tells_throttling(conditions: Conditions) -> bool:
    """Whether the device tells enough to say that it is not throttled."""
    limits = [policy for policy in conditions.policies if policy.max_khz and policy.hardware_max_khz]
    return conditions.thermal_status is not None or conditions.firmware is not None or bool(limits)


def _thermal_concerns(readings: Sequence[Conditions]) -> list[str]:
    worst = max((_thermal_status(reading) for reading in readings), default=0)
    told = f"Android's thermal status was {worst} ({STATUS_NAMES[worst]})"
    if worst >= _MODERATE:
        return [f"throttled: {told}"]
    if worst and not any(policy.max_khz for reading in readings for policy in reading.policies):
        return [f"perhaps throttled: {told}, and the frequencies are not told"]
    return []


def _thermal_status(reading: Conditions) -> int:
    """The system's status, or that of a sensor of the skin where it is worse.

    The system's is the worst of these sensors (ThermalManagerService.onTemperatureChanged), by what they last reported;
    a Xiaomi 13T Pro stayed at 0 with its skin at 3 and its cores at a third of their frequency.
    """
    skin = [sensor.throttling or 0 for sensor in reading.temperatures if sensor.kind == "skin"]
    return min(max(reading.thermal_status or 0, *skin, 0), len(STATUS_NAMES) - 1)


_FIRMWARE_WORDS = {
    "under_voltage": "under-voltage: the power supply or its cable is too weak",
    "frequency_capped": "the frequency was capped",
    "throttled": "throttling",
    "soft_temperature_limit": "the soft temperature limit was reached",
}


def _firmware_concerns(readings: Sequence[Conditions]) -> list[str]:
    told = [reading.firmware for reading in readings if reading.firmware is not None]
    found = []
    for name, words in _FIRMWARE_WORDS.items():
        # Bits 16 to 19 stay set until the board starts anew, so only one that was not set before is of this run.
        history = [getattr(firmware, f"{name}_occurred") for firmware in told]
        if any(getattr(firmware, name) for firmware in told) or (True in history and history[0] is False):
            found.append(f"throttled: the firmware reports {words}")
    return found


def _frequency_concerns(readings: Sequence[Conditions]) -> list[str]:
    return [
        f"throttled: the limit of {limit.policy} was lowered from {limit.first_mhz} to {limit.least_mhz} MHz"
        for limit in _limits(readings)
        if limit.least_mhz < limit.first_mhz
    ]


def _frequency_notes(readings: Sequence[Conditions]) -> list[str]:
    """Limits that stood below what the cores can from the first reading on.

    Whose they are cannot be told: many a vendor caps its cores for good, and such a device would never count.
    """
    found = []
    for limit in _limits(readings):
        if limit.first_mhz == limit.least_mhz and limit.first_mhz < limit.hardware_mhz:
            how_long = "throughout" if limit.most_mhz == limit.first_mhz else f"at first and {limit.most_mhz} later"
            mhz = f"{limit.first_mhz} of {limit.hardware_mhz} MHz"
            found.append(f"{limit.policy} was limited to {mhz} {how_long}, by its maker, a power saver or earlier heat")
    return found


@dataclass(frozen=True)
class _Limit:
    """What a group of cores might run at: by the first reading, the least, the most; and what they can, 0 if unknown.

    In whole MHz, as it is told: what is less is none of ours.
    """

    policy: str
    first_mhz: int
    least_mhz: int
    most_mhz: int
    hardware_mhz: int


def _limits(readings: Sequence[Conditions]) -> list[_Limit]:
    told: dict[str, list[int]] = {}
    hardware: dict[str, int] = {}
    for reading in readings:
        for policy in reading.policies:
            if policy.max_khz is not None:
                told.setdefault(policy.name, []).append(policy.max_khz // 1000)
            if policy.hardware_max_khz is not None:
                hardware[policy.name] = policy.hardware_max_khz // 1000
    return [_Limit(name, mhz[0], min(mhz), max(mhz), hardware.get(name, 0)) for name, mhz in told.items()]


def _swap_concerns(process_swap_bytes: Sequence[int]) -> list[str]:
    largest = max(process_swap_bytes, default=0)
    if largest <= _SWAPPED_BYTES:
        return []
    return [f"swapped: up to {largest / (1 << 20):.1f} MiB of the process were in swap"]


def _paging_notes(readings: Sequence[Conditions]) -> list[str]:
    """Of the whole system: with zram it goes on in the background of every phone, whatever the run does."""
    counts = [reading.paging.out_pages for reading in readings if reading.paging.out_pages is not None]
    written = counts[-1] - counts[0] if counts else 0
    return [f"the system wrote {written:,} pages to swap during the run"] if written > _SWAPPED_PAGES else []
