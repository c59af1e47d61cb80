"""`dumpsys battery`: charge, temperature, what powers the device.

Source: BatteryService.dumpInternal of Android, codes from android.os.BatteryManager.
"""

from __future__ import annotations

from dataclasses import dataclass

from android_harness.parsers.text import first_values, integer

_STATUS = {1: "unknown", 2: "charging", 3: "discharging", 4: "not charging", 5: "full"}
_HEALTH = {1: "unknown", 2: "good", 3: "overheat", 4: "dead", 5: "over voltage", 6: "failure", 7: "cold"}
_SOURCES = ("AC", "USB", "Wireless", "Dock")


@dataclass(frozen=True)
class Battery:
    """The battery of an Android device. level_percent: 0 to 100.

    powered_by: AC, USB, Wireless, Dock, all that apply; empty on battery; None where it is not told.
    """

    level_percent: float | None
    temperature_celsius: float | None
    status: str | None
    health: str | None
    powered_by: tuple[str, ...] | None
    present: bool | None


def parse_battery(text: str) -> Battery | None:
    """Read `dumpsys battery`; None where nothing of it is there (no such service, no right to ask)."""
    told = first_values(text)
    level, scale = integer(told.get("level")), integer(told.get("scale", "100"))
    tenths = integer(told.get("temperature"))
    powered = {source: _truth(told.get(f"{source} powered")) for source in _SOURCES}
    known = any(value is not None for value in powered.values())
    battery = Battery(
        100 * level / scale if level is not None and scale else None,
        None if tenths is None else tenths / 10,
        _named(_STATUS, told.get("status")),
        _named(_HEALTH, told.get("health")),
        tuple(source for source, on in powered.items() if on) if known else None,
        _truth(told.get("present")),
    )
    return None if battery == Battery(None, None, None, None, None, None) else battery


def _truth(word: str | None) -> bool | None:
    return {"true": True, "false": False}.get(word or "")


def _named(names: dict[int, str], word: str | None) -> str | None:
    code = integer(word)
    return None if code is None else names.get(code)
