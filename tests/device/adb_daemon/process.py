"""For tests: a daemon in a process of its own, and keys to connect with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from adb_shell.auth.keygen import keygen

_REPOSITORY = Path(__file__).resolve().parents[3]
_TIMEOUT_S = 30


class Daemon:
    """`with Daemon(keys=FILE) as daemon:` — listens at `daemon.port` of 127.0.0.1 inside the block.

    `keys` holds the public keys that may connect; `root` is the chroot to serve (needs root), `env` goes into the
    environment of shells, `cuts` are for the fuse, `options` any further arguments of the command; `through` makes of
    the command line the one to start. Raises RuntimeError where the daemon does not start; why is on stderr.
    """

    def __init__(
        self,
        *,
        keys: Path,
        root: Path | None = None,
        env: Mapping[str, str] | None = None,
        cuts: Sequence[int] = (),
        options: Sequence[str] = (),
        through: Callable[[Sequence[str]], Sequence[str]] = list,
    ) -> None:
        self.port = 0
        self._through = through
        self._arguments = ["--keys", str(keys), *options]
        if root is not None:
            self._arguments += ["--root", str(root)]
        for name, value in (env or {}).items():
            self._arguments += ["--env", f"{name}={value}"]
        for cut in cuts:
            self._arguments += ["--cut", str(cut)]

    def __enter__(self) -> Daemon:
        self._process = subprocess.Popen(
            self._through([sys.executable, "-m", "tests.device.adb_daemon", "--until-eof", *self._arguments]),
            cwd=_REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the ADB daemon did not start: exit code {self.stop()}")
        self.port = json.loads(line)["port"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def stop(self) -> int:
        """End it now; returns its exit code, which is 0 unless it failed or had to be killed."""
        with self._process as process:
            assert process.stdin
            process.stdin.close()
            try:
                return process.wait(_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                return process.wait()


def make_keys(folder: Path, name: str = "adbkey") -> Path:
    """A pair of RSA keys, `name` and `name`.pub, as adb makes them; returns the path of the private one."""
    path = folder / name
    keygen(str(path))
    return path
