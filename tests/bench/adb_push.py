"""How fast the harness pushes beside Debian's adb, against one daemon: `python -m tests.bench.adb_push`.

200 MB of random bytes into a file system in memory, by turns, five times; MB/s and the ratio of the medians.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from android_harness.link import Link
from tests.device.adb_daemon.process import Daemon, make_keys

SIZE = 200_000_000
REPEATS = 5
SERVER_PORT = "15037"
"""A server of our own beside the one that may run here."""


def main() -> int:
    """Print a line a turn, then the ratio."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name, tempfile.TemporaryDirectory() as home:
        folder = Path(name)
        key = make_keys(Path(home))
        (folder / "here").write_bytes(os.urandom(SIZE))
        environment = {**os.environ, "HOME": home, "ADB_VENDOR_KEYS": str(key), "ANDROID_ADB_SERVER_PORT": SERVER_PORT}

        def adb(*words: str) -> None:
            subprocess.run(["adb", *words], env=environment, check=True, stdout=subprocess.DEVNULL, timeout=120)

        with Daemon(keys=key.with_suffix(".pub")) as daemon:
            serial = f"127.0.0.1:{daemon.port}"
            try:
                adb("connect", serial)
                with Link(serial, Path(home), 5, 30) as link:
                    ours, theirs = [], []
                    for _ in range(REPEATS):
                        theirs.append(_rate(lambda: adb("-s", serial, "push", f"{folder}/here", f"{folder}/theirs")))
                        ours.append(_rate(lambda: link.push(folder / "here", f"{folder}/ours")))
                        print(f"adb push {theirs[-1]:5.0f} MB/s, the harness {ours[-1]:5.0f} MB/s", flush=True)
            finally:
                adb("kill-server")
    print(f"ratio of the medians {statistics.median(ours) / statistics.median(theirs):.2f}")
    return 0


def _rate(push: Callable[[], None]) -> float:
    began = time.perf_counter()
    push()
    return SIZE / 1e6 / (time.perf_counter() - began)


if __name__ == "__main__":
    sys.exit(main())
