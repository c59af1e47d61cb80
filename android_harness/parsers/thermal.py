"""Heat: Android's thermal service, the kernel's thermal zones, the firmware of a Raspberry Pi.

Sources: ThermalManagerService.dump and android.os.Temperature (Android 10 and newer); Documentation/driver-api/thermal/
sysfs-api.rst; `vcgencmd get_throttled` in Raspberry Pi's documentation; drivers/firmware/raspberrypi.c.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from android_harness.parsers.text import first_values, integer, pairs, real

STATUS_NAMES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""THERMAL_STATUS_* of android.os.PowerManager, by number."""
_KINDS = {
    0: "cpu",
    1: "gpu",
    2: "battery",
    3: "skin",
    4: "usb port",
    5: "power amplifier",
    9: "npu",
    10: "tpu",
    11: "display",
    12: "modem",
    13: "soc",
    14: "wifi",
    15: "camera",
    16: "flashlight",
    17: "speaker",
    18: "ambient",
    19: "pogo",
}
"""TemperatureType of android.hardware.thermal."""
_NOT_A_TEMPERATURE = (6, 7, 8)
"""TemperatureType BCL_VOLTAGE, BCL_CURRENT and BCL_PERCENTAGE."""
_PLAUSIBLE_CELSIUS = (-40.0, 200.0)
"""What chips and batteries can be at. Services fill sensors that are not there with -99.9, -274 or 1e38."""


@dataclass(frozen=True)
class Temperature:
    """One sensor. kind: cpu, gpu, battery, skin, …, None where it is not told.

    throttling: the sensor's own status by Android, 0 to 6, see STATUS_NAMES; None elsewhere.
    """

    name: str
    celsius: float
    kind: str | None
    throttling: int | None


@dataclass(frozen=True)
class ThermalService:
    """`dumpsys thermalservice`. status: 0 to 6, see STATUS_NAMES; overridden: someone has set it by hand.

    current is asked of the sensors now; cached is what they last reported by themselves, hours ago perhaps.
    """

    status: int | None
    overridden: bool | None
    ready: bool | None
    current: tuple[Temperature, ...]
    cached: tuple[Temperature, ...]


@dataclass(frozen=True)
class Firmware:
    """What the firmware of a Raspberry Pi limits, now and at some time since the board started; None: not told."""

    under_voltage: bool | None
    frequency_capped: bool | None
    throttled: bool | None
    soft_temperature_limit: bool | None
    under_voltage_occurred: bool | None
    frequency_capped_occurred: bool | None
    throttled_occurred: bool | None
    soft_temperature_limit_occurred: bool | None


def parse_thermalservice(text: str) -> ThermalService | None:
    """Read `dumpsys thermalservice`; None where nothing of it is there (Android 9 and older, no right to ask)."""
    told = first_values(text)
    current: list[Temperature] = []
    cached: list[Temperature] = []
    into: list[Temperature] | None = None
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.endswith(":"):
            into = {"Current temperatures from HAL:": current, "Cached temperatures:": cached}.get(stripped)
        elif into is not None and (temperature := _android_temperature(stripped)) is not None:
            into.append(temperature)
    status = integer(told.get("Thermal Status"))
    service = ThermalService(
        status if status is not None and 0 <= status < len(STATUS_NAMES) else None,
        _truth(told.get("IsStatusOverride")),
        _truth(told.get("HAL Ready")),
        tuple(current),
        tuple(cached),
    )
    return None if service == ThermalService(None, None, None, (), ()) else service


def _android_temperature(line: str) -> Temperature | None:
    found = re.fullmatch(
        r"Temperature\{mValue=([^,]*), mType=(-?[0-9]{1,9}), mName=(.*), mStatus=(-?[0-9]{1,9})\}", line
    )
    if not found or int(found[2]) in _NOT_A_TEMPERATURE:
        return None
    celsius = _plausible(real(found[1]))
    return None if celsius is None else Temperature(found[3], celsius, _KINDS.get(int(found[2])), int(found[4]))


def parse_thermal_zones(text: str) -> tuple[Temperature, ...]:
    """Read lines `cpu-thermal=48312`, as facts.sh prints type and temp of the thermal zones, in thousandths of °C.

    Kernels 3.x of some phones tell whole degrees, against the documentation: numbers from 10 to 150 are read as such,
    which as thousandths would be less than 0.2 °C. Other small numbers are left out.
    """
    zones = []
    for name, value in pairs(text, "="):
        number = integer(value)
        if number is None:
            continue
        celsius = _plausible(number / 1000 if abs(number) >= 1000 else number if 10 <= number <= 150 else None)
        if celsius is not None:
            zones.append(Temperature(name, celsius, None, None))
    return tuple(zones)


def parse_measure_temp(text: str) -> float | None:
    """°C of `vcgencmd measure_temp`: `temp=48.3'C`."""
    found = re.search(r"^temp=([0-9.]+)'C\s*$", text, re.MULTILINE)
    return _plausible(real(found[1])) if found else None


def parse_throttled(text: str) -> Firmware | None:
    """Read `vcgencmd get_throttled`: `throttled=0x50005`."""
    found = re.fullmatch(r"throttled=0x([0-9a-fA-F]{1,8})", text.strip())
    return _firmware(int(found[1], 16)) if found else None


def parse_throttled_file(text: str) -> Firmware | None:
    """Read /sys/devices/platform/soc/*/get_throttled: the same number, without 0x; None for 0 too.

    The file holds what the kernel was last told, which on some kernels is never: 0, while vcgencmd says 0x80008
    (raspberrypi/linux issue 2367). So 0 says nothing.
    """
    found = re.fullmatch(r"[0-9a-fA-F]{1,8}", text.strip())
    return _firmware(int(found[0], 16)) if found and int(found[0], 16) else None


def _firmware(bits: int) -> Firmware:
    return Firmware(*(bool(bits >> bit & 1) for bit in (0, 1, 2, 3, 16, 17, 18, 19)))


def parse_under_voltage(text: str) -> Firmware | None:
    """Read `in0_lcrit_alarm=1`, the alarm of the hwmon driver rpi_volt, which tells under-voltage alone."""
    alarm = {"0": False, "1": True}.get(first_values(text, "=").get("in0_lcrit_alarm", ""))
    return None if alarm is None else Firmware(alarm, *[None] * 7)


def _plausible(celsius: float | None) -> float | None:
    low, high = _PLAUSIBLE_CELSIUS
    return celsius if celsius is not None and low <= celsius <= high else None


def _truth(word: str | None) -> bool | None:
    return {"true": True, "false": False}.get(word or "")
