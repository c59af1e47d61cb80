"""Run the daemon: `python -m tests.device.adb_daemon --keys FILE …`; prints {"port": N} when it listens."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

from tests.device.adb_daemon import server, wire
from tests.device.adb_daemon.auth import read_keys
from tests.device.adb_daemon.connection import Settings
from tests.device.adb_daemon.fuse import Fuse
from tests.device.adb_daemon.services import Device

_SHELLS = ("/system/bin/sh", "/bin/sh")
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/",
    "TERM": "dumb",
}
_PROPERTIES = {"ro.product.name": "adb_daemon", "ro.product.model": "adb_daemon", "ro.product.device": "adb_daemon"}


def main() -> int:
    """Serve until SIGTERM or SIGINT, with --until-eof also until stdin ends."""
    arguments = _parse_arguments()
    keys = read_keys(arguments.keys)
    properties = dict(_PROPERTIES)
    if arguments.props:
        properties.update(_pair(line) for line in arguments.props.read_text().splitlines() if line.strip())
    os.umask(0)  # as adbd: what the client asks for is what files get
    if arguments.root:
        os.chroot(arguments.root)
    os.chdir("/")
    shell = next((path for path in _SHELLS if os.access(path, os.X_OK)), _SHELLS[-1])
    device = Device(properties, shell, {**_ENVIRONMENT, **dict(arguments.env)})
    settings = Settings(device, keys, arguments.max_payload)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_run(settings, Fuse(arguments.cut), arguments.port, arguments.until_eof))
    return 0


async def _run(settings: Settings, fuse: Fuse, port: int, until_eof: bool) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    if until_eof:
        loop.add_reader(sys.stdin, lambda: os.read(sys.stdin.fileno(), 4096) or task.cancel())
    with server.listen(port) as listener:
        print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
        await server.serve(listener, settings, fuse)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.device.adb_daemon", description=__doc__)
    add = parser.add_argument
    add("--keys", type=Path, required=True, help="who may connect: public keys, one a line (adbkey.pub)")
    add("--root", type=Path, help="chroot there, as root (default: the device is this machine)")
    add("--port", type=int, default=0, help="of 127.0.0.1 (default: one that is free)")
    add("--env", type=_pair, nargs="+", action="extend", default=[], metavar="K=V", help="environment of shells")
    add("--props", type=Path, help="lines NAME=VALUE: ro.product.name, .model and .device, for the banner")
    add("--cut", type=_size, nargs="+", action="extend", default=[], metavar="BYTES", help="break a connection then")
    add("--max-payload", type=_size, default=wire.MAX_PAYLOAD_BYTES, metavar="BYTES", help="of a packet, both ways")
    add("--until-eof", action="store_true", help="end when stdin, a pipe, does")
    return parser.parse_args()


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _size(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes > 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
