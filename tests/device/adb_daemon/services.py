"""What a client can open on the device."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from tests.device.adb_daemon import forward, shell, sync
from tests.device.adb_daemon.stream import Stream

Service = Callable[[Stream], Awaitable[None]]
"""Accepts the stream, or refuses by returning at once; when it returns the stream closes."""

_PROPERTIES = ("ro.product.name", "ro.product.model", "ro.product.device")
_FEATURES = ("shell_v2",)


@dataclass(frozen=True)
class Device:
    """What clients see of it: properties for the banner, the shell, and what that runs in."""

    properties: Mapping[str, str]
    shell: str
    environment: Mapping[str, str]

    def banner(self) -> bytes:
        """What the device says of itself once the client may use it."""
        facts = [f"{name}={self.properties.get(name, '')}" for name in _PROPERTIES]
        return f"device::{';'.join(facts)};features={','.join(_FEATURES)}".encode()


def find_service(destination: bytes, device: Device) -> Service | None:
    """What a client asks for, such as b"shell,v2,raw:ls"; None where we do not have it."""
    name, _, rest = destination.partition(b":")
    kind, *options = name.split(b",")
    if kind in (b"shell", b"exec"):
        return partial(shell.serve, shell.parse_request(options, rest), device.shell, device.environment)
    if destination == b"sync:":
        return sync.serve
    if name == b"tcp" and rest.isdigit() and int(rest) < 1 << 16:
        return partial(forward.serve, int(rest))
    return None
