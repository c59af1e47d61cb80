"""What a device is, which Pythons it has, and what each of them lacks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from android_harness.facts import DeviceFacts
from android_harness.pythons import Python, find_pythons
from android_harness.session import Session
from signatures.errors import AdabetError

_MIB = 1 << 20


@dataclass(frozen=True)
class Diagnosis:
    """The device, its Pythons, and the places that could not be entered, with the reason."""

    serial: str
    work: str
    device: DeviceFacts
    pythons: tuple[Python, ...]
    closed: dict[str, str]

    def document(self) -> dict[str, Any]:
        """The diagnosis as JSON types."""
        return {"format": "adabet-doctor", "version": 1, **asdict(self)}


def diagnose(session: Session, places: tuple[str, ...], named: str | None) -> Diagnosis:
    """Examine the device and every Python in `places`, or the one at the path `named`."""
    pythons: list[Python] = []
    closed = {}
    for name in places:
        try:
            place = session.place(name)
            pythons += find_pythons(session, place, named)
            place.close()
        except AdabetError as error:
            closed[name] = str(error)
    return Diagnosis(session.link.serial, session.work, session.facts(), tuple(pythons), closed)


def render(diagnosis: Diagnosis) -> str:
    """The diagnosis for a terminal."""
    device = diagnosis.device
    memory, battery = device.memory, device.conditions.battery
    cores = [core.name or "core" for core in device.cores]
    system = f"Android {device.android_version} (SDK {device.sdk})" if device.android_version else device.system
    rows = [
        f"device       {' '.join(filter(None, (device.manufacturer, device.model))) or 'not told'}, {system or '?'}",
        f"processor    {device.soc or 'SoC not told'}; {', '.join(device.abis) or '?'}; "
        f"{', '.join(f'{cores.count(name)} × {name}' for name in dict.fromkeys(cores)) or 'cores not told'}",
        f"governors    {', '.join(sorted({core.governor for core in device.cores if core.governor})) or 'not told'}",
        f"memory       {_mib(memory.total_bytes)} MiB, {_mib(memory.available_bytes)} available, "
        f"swap {_mib(memory.swap_total_bytes)} MiB",
    ]
    if battery is not None:
        warmth = "" if battery.temperature_celsius is None else f"{battery.temperature_celsius:.1f} °C"
        level = "" if battery.level_percent is None else f"{battery.level_percent:.0f} %"
        rows.append(f"battery      {', '.join(filter(None, (level, battery.status, warmth)))}")
    heat = [f"{t.name} {t.celsius:.0f} °C" for t in device.conditions.temperatures[:6]]
    status = device.conditions.thermal_status_name
    rows.append(f"heat         {', '.join([*([f'status {status}'] if status else []), *heat]) or 'not told'}")
    if device.throttled:
        rows += [f"             {why}" for why in device.throttled_because]
    rows += [f"our folder   {diagnosis.work}", ""]
    for python in diagnosis.pythons:
        rows.append(f"{'ready' if not python.problems else 'lacks':6} {' '.join(python.command)} ({python.place})")
        rows.append(f"       Python {python.version}, {python.machine}, {python.runtime or 'no interpreter'}")
        rows += [f"       {problem}" for problem in python.problems]
        if python.problems:
            rows.append(f"       {python.remedy}")
    if not diagnosis.pythons:
        rows.append("no Python found: see docs/devices.md")
    rows += [f"closed {name}: {why}" for name, why in diagnosis.closed.items()]
    return "\n".join(rows)


def _mib(size: int | None) -> str:
    return "?" if size is None else f"{size // _MIB:,}"
