"""A device for tests: this machine behind our ADB daemon, with folders of its own and the commands a test gives it."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.device.adb_daemon.process import Daemon
from tests.end_to_end.commands import ROOT, Finished

TIMEOUT_S = 600


@dataclass(frozen=True)
class Device:
    """`folder` holds the device's home, its temporary files, and bin/, which its shells search first."""

    folder: Path
    keys: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def work(self) -> Path:
        return self.home / "adabet"

    @property
    def python(self) -> Path:
        """The Python of the tests, under a name of its own: a link into an environment is the environment."""
        return self.command("a_python", f'exec {shlex.quote(sys.executable)} "$@"')

    def command(self, name: str, script: str) -> Path:
        """Put a command on the device's PATH."""
        path = self.folder / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    @contextmanager
    def on(self, *cuts: int) -> Iterator[Connected]:
        """Switch it on; the connection breaks after each number of bytes in `cuts`."""
        self.home.mkdir(parents=True, exist_ok=True)
        environment = {"HOME": str(self.home), "PATH": f"{self.folder}/bin:/usr/bin:/bin"}
        with Daemon(keys=self.keys / "adbkey.pub", env=environment, cuts=cuts) as daemon:
            yield Connected(self, f"127.0.0.1:{daemon.port}", daemon)

    def processes(self) -> list[str]:
        """Command lines of all processes that name a folder of this device, the daemon's own aside."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode(errors="replace").replace("\0", " ").strip()
            except OSError:
                continue
            if str(self.work) in words and "android_harness" not in words.split(str(self.work))[0]:
                found.append(words)
        return found

    def left(self) -> list[str]:
        """What lies in the work folder beside the inputs and Python's bytecode, which are kept on purpose."""
        paths = [path.relative_to(self.work).as_posix() for path in self.work.rglob("*") if path.is_file()]
        kept = ("inputs/", "own/bytecode/")
        return sorted(path for path in paths if not path.startswith(kept) or path.endswith((".partial", ".rest")))


@dataclass(frozen=True)
class Connected:
    """A device that is on, at `serial`."""

    device: Device
    serial: str
    daemon: Daemon | None = None

    def stop(self) -> None:
        """Switch it off before its time."""
        assert self.daemon
        self.daemon.stop()

    def words(self, command: str, *arguments: object, keys: Path | None = None) -> list[str]:
        """The words of `python -m android_harness …` for this device; options of adapt come behind "--"."""
        ours = [str(word) for word in arguments]
        at = ours.index("--") if "--" in ours else len(ours)
        return [
            *(sys.executable, "-m", "android_harness", command, *ours[:at], "--serial", self.serial),
            *("--keys", str(keys or self.device.keys), "--work", str(self.device.home), *ours[at:]),
        ]

    def harness(self, command: str, *arguments: object, keys: Path | None = None) -> Finished:
        """Run it in a fresh process."""
        done = subprocess.run(
            self.words(command, *arguments, keys=keys), cwd=ROOT, capture_output=True, text=True, check=False,
            timeout=TIMEOUT_S, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return Finished(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def started(self, command: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
        """The same, still running; its stderr is to be read from."""
        with subprocess.Popen(
            self.words(command, *arguments), cwd=ROOT, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_as_at_a_terminal,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                process.kill()


def _as_at_a_terminal() -> None:
    """Ctrl-C is heard, though a shell that runs the tests in the background has it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def said(process: subprocess.Popen[str], words: str) -> str:
    """Read its stderr up to a line with `words`; that line. Fails if it ends before."""
    assert process.stderr
    for line in process.stderr:
        if words in line:
            return line
    raise AssertionError(f"ended with {process.wait()} and never said {words!r}")


def until(happens: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for something."""
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
