"""What a device is, which Pythons it has, and what each of them lacks."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from shlex import join
from typing import Any

from android_harness.facts import DeviceFacts
from android_harness.pythons import Python, best_problem, find_pythons, promising
from android_harness.session import Session
from signatures.errors import AdabetError

_MIB = 1 << 20


@dataclass(frozen=True)
class Diagnosis:
    """The device, its Pythons, and the places that could not be entered, with the reason.

    named: the one Python that was looked for. hoped: the places that a user would expect one in.
    """

    serial: str
    work: str
    device: DeviceFacts
    pythons: tuple[Python, ...]
    closed: dict[str, AdabetError]
    named: str | None
    hoped: tuple[str, ...]

    def failure(self) -> AdabetError | None:
        """What to raise where no Python is ready, as `choose` would; None where one is."""
        if any(not python.problems for python in self.pythons):
            return None
        return best_problem(self.pythons, [self.closed[name] for name in self.hoped if name in self.closed], self.named)

    def document(self) -> dict[str, Any]:
        """The diagnosis as JSON types."""
        return {
            "format": "adabet-doctor",
            "version": 1,
            "serial": self.serial,
            "work": self.work,
            "device": asdict(self.device),
            "pythons": [asdict(python) for python in self.pythons],
            "closed": {name: str(error) for name, error in self.closed.items()},
        }


def diagnose(session: Session, places: tuple[str, ...], named: str | None) -> Diagnosis:
    """Examine the device and every Python in `places`, or the one at the path `named`."""
    pythons: list[Python] = []
    closed: dict[str, AdabetError] = {}
    for name in places:
        try:
            with closing(session.place(name)) as place:
                pythons += find_pythons(session, place, named)
        except AdabetError as error:
            closed[name] = error
    hoped = places if len(places) == 1 else tuple(promising(session))
    return Diagnosis(session.link.serial, session.work, session.facts(), tuple(pythons), closed, named, hoped)


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
    rows += [f"             {why}" for why in device.throttled_because]
    rows += [f"our folder   {diagnosis.work}", ""]
    for python in diagnosis.pythons:
        rows.append(f"{'ready' if not python.problems else 'lacks':6} {join(python.command)} ({python.place})")
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
