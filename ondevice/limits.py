"""What the system lets this process take: the limits of its control groups, and of its address space.

Control groups: cgroups(7), memory.max of version 2 and memory.limit_in_bytes of version 1, of the group and of all that
it lies in. Address space: RLIMIT_AS, setrlimit(2).
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

_GROUPS, _OF_THIS_PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_STATUS = Path("/proc/self/status")
ADDRESS_SPACE = "limit of the address space (ulimit -v)"
_UNLIMITED_BYTES = 1 << 60
"""Version 1 says a number near 2**63 where there is no limit."""


@dataclass(frozen=True)
class SystemLimit:
    """The tightest limit."""

    n_bytes: int
    """Resident memory that the process may come to."""
    name: str
    """Of the limit, for people."""


def system_limit(resident_bytes: int, file_bytes: int) -> SystemLimit | None:
    """The tightest limit on this process now; None where there is none.

    resident_bytes: what of the memory that it has mapped now is resident, or will be without more being mapped.
    file_bytes: files that it will map, of which little stays resident.
    """
    found = []
    group_bytes = group_limit(_GROUPS, _text(_OF_THIS_PROCESS))
    if group_bytes is not None:
        found.append(SystemLimit(group_bytes, "memory limit of the control group"))
    mapped_bytes = parse_mapped(_text(_STATUS))
    if address_space_is_limited() and mapped_bytes is not None:
        # What is mapped beyond what is resident stays so: libraries, stacks of threads.
        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        found.append(SystemLimit(max(0, soft - mapped_bytes - file_bytes + resident_bytes), ADDRESS_SPACE))
    return min(found, key=lambda limit: limit.n_bytes, default=None)


def address_space_is_limited() -> bool:
    """Whether the process may map only so much: then what asks for memory may be told that there is none."""
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def group_limit(root: Path, groups: str) -> int | None:
    """The tightest memory limit of the control groups in `groups`, the text of /proc/self/cgroup; None without one."""
    limits = []
    for line in groups.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            base, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = base / path.strip("/")
        for folder in (group, *group.parents):
            text = _text(folder / name).strip()
            if text.isdecimal() and int(text) < _UNLIMITED_BYTES:
                limits.append(int(text))
            if folder == base:
                break
    return min(limits, default=None)


def parse_mapped(status: str) -> int | None:
    """VmSize in bytes, from the text of /proc/self/status; None if it has none."""
    for line in status.splitlines():
        name, _, rest = line.partition(":")
        if name == "VmSize":
            words = rest.split()
            return int(words[0]) << 10 if words and words[0].isdecimal() else None
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
