"""What a run may change on the device, and how it is put back, by whoever comes first: this process or the next."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from shlex import quote

from android_harness.errors import DeviceAnswerError
from android_harness.link import Link
from signatures.errors import CapabilityError


@dataclass(frozen=True)
class Setting:
    """A value of the device: the commands that read and write it, and what it shall be during a run.

    `write` has {} where the value belongs. `unset` is the command for a value that was not set, which reads "null".
    """

    name: str
    read: str
    write: str
    wanted: str
    unset: str | None = None


def _android(name: str, wanted: str) -> Setting:
    return Setting(
        name,
        f"settings get global {name}",
        f"settings put global {name} {{}}",
        wanted,
        f"settings delete global {name}",
    )


AWAKE = _android("stay_on_while_plugged_in", "7")
"""The screen stays on at any charger (1 mains, 2 USB, 4 wireless), so that the phone does not doze."""
PHANTOM_KILLER = _android("settings_enable_monitor_phantom_procs", "false")
"""Android 12 and later kill child processes of apps, Termux' among them, beyond 32 in all or when they are busy."""


def governors(link: Link, wanted: str) -> tuple[Setting, ...]:
    """The governor of each group of cores. CapabilityError where there is none, or not this one."""
    listed = link.shell(
        "for p in /sys/devices/system/cpu/cpufreq/policy*; do [ -e $p/scaling_governor ] && "
        'echo "$p $(cat $p/scaling_available_governors 2>/dev/null)"; done'
    ).text
    found = []
    for line in listed.splitlines():
        policy, *available = line.split()
        if wanted not in available:
            raise CapabilityError(f"{policy} has no governor {wanted!r}, but {', '.join(available) or '?'}")
        path = f"{policy}/scaling_governor"
        found.append(Setting(path, f"cat {path}", f"echo {{}} > {path}", wanted))
    if not found:
        raise CapabilityError("the device lets nobody choose a governor (no cpufreq)")
    return tuple(found)


def change(link: Link, settings: Iterable[Setting], journal: str) -> tuple[str, ...]:
    """Set them, after how to put them back is written into the file `journal` on the device; returns what was changed.

    Raises CapabilityError where the device does not let us: most want root. What was changed before that stays changed
    until `restore`.
    """
    changed = []
    for setting in settings:
        before = link.checked(setting.read).strip()
        if before == setting.wanted:
            continue
        back = setting.unset if before == "null" and setting.unset else setting.write.format(quote(before))
        # A line that does nothing where the value stands: it may be there twice, or before anything was changed.
        line = f'[ "$({setting.read})" = {quote(before)} ] || {{ {back}; }}'
        link.checked(f"echo {quote(line)} >> {quote(journal)} && sync")
        output = link.shell(setting.write.format(quote(setting.wanted)))
        if link.checked(setting.read).strip() != setting.wanted:
            raise CapabilityError(
                f"cannot set {setting.name} to {setting.wanted}: {output.text.strip()[-200:] or 'no word'}; does that "
                "take root? (`adb root`)"
            )
        changed.append(f"{setting.name}: {before} → {setting.wanted}")
    return tuple(changed)


def restore(link: Link, journal: str) -> int:
    """Put back what the journal names, last change first, and remove it; returns how many settings that were.

    Raises DeviceAnswerError, when all others are back, if one could not be; the journal then stays.
    """
    lines = list(dict.fromkeys(link.shell(f"cat {quote(journal)} 2>/dev/null").text.splitlines()))
    failed = []
    for line in reversed(lines):
        output = link.shell(line)
        if output.code:
            failed.append(f"`{line}` ({output.text.strip()[-200:]})")
    if failed:
        raise DeviceAnswerError(f"could not be put back: {'; '.join(failed)}")
    link.shell(f"rm -f {quote(journal)}")
    return len(lines)
