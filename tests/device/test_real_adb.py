"""The ADB daemon against the adb that people use: Debian's, in PATH.

Every test has an ADB server of its own, on a port and with a HOME that nobody else uses.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.device.adb_daemon.process import Daemon, make_keys

pytestmark = pytest.mark.slow

TIMEOUT_S = 120
LARGE_BYTES = 200_000_000


@dataclass(frozen=True)
class Finished:
    """What a process left."""

    code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


class Adb:
    """`with Adb(folder, key) as adb:` — its files are kept in `folder`, its server ends with the block."""

    def __init__(self, folder: Path, key: Path) -> None:
        if shutil.which("adb") is None:
            pytest.fail("there is no adb in PATH: install Debian's package of that name")
        (folder / "home").mkdir()
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder),
            "ADB_VENDOR_KEYS": str(key),
            "ANDROID_ADB_SERVER_PORT": str(free_port()),
        }
        self._serial: list[str] = []

    def __enter__(self) -> Adb:
        return self

    def __exit__(self, *_: object) -> None:
        self._serial = []
        self.run("kill-server")

    def connect(self, daemon: Daemon) -> str:
        """Make it the device that commands are for; returns what adb says."""
        self._serial = []
        address = f"127.0.0.1:{daemon.port}"
        said = self.run("connect", address).output
        self._serial = ["-s", address]
        return said

    def run(self, *arguments: object, stdin: str = "") -> Finished:
        """`adb …`."""
        done = subprocess.run(
            ["adb", *self._serial, *map(str, arguments)],
            env=self._environment,
            input=stdin.encode(),
            capture_output=True,
            check=False,
            timeout=TIMEOUT_S,
        )
        return Finished(done.returncode, done.stdout.decode(), done.stderr.decode())

    def succeed(self, *arguments: object) -> str:
        """`adb …`, which has to; returns what it says on stdout."""
        done = self.run(*arguments)
        assert done.code == 0, done.output
        return done.stdout


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, so that large files cost no disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def unconnected(tmp_path: Path, key: Path) -> Iterator[Adb]:
    with Adb(tmp_path, key) as adb:
        yield adb


@pytest.fixture
def adb(unconnected: Adb, daemon: Daemon) -> Adb:
    assert unconnected.connect(daemon).startswith("connected to")
    return unconnected


def large_file(folder: Path) -> Path:
    path = folder / "large"
    path.write_bytes(random.Random(0).randbytes(LARGE_BYTES))
    return path


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_the_device_is_listed(adb: Adb) -> None:
    assert re.search(r"device product:adb_daemon model:adb_daemon device:adb_daemon", adb.succeed("devices", "-l"))
    assert adb.succeed("get-state") == "device\n"
    assert adb.succeed("features") == "shell_v2\n"


def test_a_key_that_is_not_listed_is_not_authorised(tmp_path: Path, daemon: Daemon) -> None:
    with Adb(tmp_path, make_keys(tmp_path)) as stranger:
        assert "failed to authenticate" in stranger.connect(daemon)
        done = stranger.run("shell", "echo in")
        assert done.code != 0
        assert "unauthorized" in done.output
        assert "in\n" not in done.stdout


class TestShell:
    def test_has_exit_codes_and_a_stderr_of_its_own(self, adb: Adb) -> None:
        assert adb.run("shell", "echo out; echo err >&2; exit 42") == Finished(42, "out\n", "err\n")
        assert adb.run("shell", "kill -9 $$").code == 128 + 9

    def test_reads_stdin(self, adb: Adb) -> None:
        text = "line\n" * 100_000
        assert adb.run("shell", "cat; echo end", stdin=text).stdout == text + "end\n"
        assert adb.run("shell", stdin="echo typed; exit 3\n") == Finished(3, "typed\n", "")

    def test_of_the_first_version_has_neither(self, adb: Adb) -> None:
        done = adb.run("shell", "-x", "echo out; echo err >&2; exit 42")
        assert done == Finished(0, "out\nerr\n", "")
        assert adb.succeed("exec-out", "printf 'a\\r\\nb'; echo c >&2") == "a\r\nbc\n"


class TestFiles:
    def test_go_there_and_come_back(self, adb: Adb, tmp_path: Path) -> None:
        here = tmp_path / "with space, ünïcode"
        here.write_bytes(bytes(range(256)))
        os.utime(here, (1_000_000_000, 1_000_000_000))
        here.chmod(0o640)
        adb.succeed("push", here, tmp_path / "there" / "deep" / "file")
        found = (tmp_path / "there" / "deep" / "file").stat()
        assert (stat.S_IMODE(found.st_mode), int(found.st_mtime)) == (0o666, 1_000_000_000)
        adb.succeed("pull", "-a", tmp_path / "there" / "deep" / "file", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == here.read_bytes()
        assert int((tmp_path / "back").stat().st_mtime) == 1_000_000_000

    def test_go_as_trees(self, adb: Adb, tmp_path: Path) -> None:
        chance = random.Random(0)
        for folder in ("tree", "tree/a", "tree/a/b", "tree/empty", "tree/ä ö"):
            (tmp_path / folder).mkdir()
        for number, folder in enumerate(("a", "a/b", "ä ö") * 5):
            (tmp_path / "tree" / folder / f"file {number}").write_bytes(chance.randbytes(number * 9_000))
        (tmp_path / "tree" / "a" / "link").symlink_to("b")
        adb.succeed("push", tmp_path / "tree", tmp_path / "there")
        assert contents(tmp_path / "there") == contents(tmp_path / "tree")
        assert (tmp_path / "there" / "a" / "link").readlink() == Path("b")
        adb.succeed("pull", tmp_path / "there", tmp_path / "back")
        (tmp_path / "back" / "a" / "link").rename(tmp_path / "followed")
        assert contents(tmp_path / "followed") == contents(tmp_path / "tree" / "a" / "b")
        (tmp_path / "tree" / "a" / "link").unlink()
        assert contents(tmp_path / "back") == contents(tmp_path / "tree")

    def test_that_are_large_arrive_whole(self, adb: Adb, memory: Path) -> None:
        here = large_file(memory)
        print(adb.succeed("push", here, memory / "there"), end="")
        print(adb.succeed("pull", memory / "there", memory / "back"), end="")
        assert digest(here) == digest(memory / "there") == digest(memory / "back")

    def test_that_cannot_go_there_say_why(self, adb: Adb, tmp_path: Path, memory: Path) -> None:
        (tmp_path / "small").write_bytes(b"data")
        for path in (tmp_path / "small", large_file(memory)):
            done = adb.run("push", path, "/proc/adb_daemon")
            assert done.code != 0
            assert "remote couldn't create file: No such file or directory" in done.output
        done = adb.run("push", memory / "large", "/dev/full")
        assert done.code != 0
        assert "remote write failed: No space left on device" in done.output
        done = adb.run("pull", tmp_path / "none", tmp_path / "back")
        assert done.code != 0
        assert "does not exist" in done.output or "failed to stat remote object" in done.output


def contents(folder: Path) -> dict[str, bytes | None]:
    """The bytes of all files below it, None for all else."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_a_port_is_forwarded(adb: Adb) -> None:
    def echo() -> None:
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT_S)
        server = threading.Thread(target=echo)
        server.start()
        port = adb.succeed("forward", "tcp:0", f"tcp:{listener.getsockname()[1]}").strip()
        with socket.create_connection(("127.0.0.1", int(port)), TIMEOUT_S) as client:
            sent = random.Random(0).randbytes(100_000)
            client.sendall(sent)
            received = b""
            while len(received) < len(sent):
                received += client.recv(1 << 16)
            assert received == sent
        server.join(TIMEOUT_S)
        assert not server.is_alive()


def test_a_cut_in_mid_push_is_an_error_and_no_more(unconnected: Adb, key: Path, memory: Path) -> None:
    here = large_file(memory)
    with Daemon(keys=key.with_suffix(".pub"), cuts=[50_000_000]) as daemon:
        unconnected.connect(daemon)
        done = unconnected.run("push", here, memory / "there")
        assert done.code != 0
        assert not (memory / "there").exists()
        assert daemon.alive
        unconnected.run("disconnect")
        unconnected.connect(daemon)
        assert unconnected.succeed("shell", "echo works") == "works\n"
        unconnected.succeed("push", here, memory / "there")
        assert digest(memory / "there") == digest(here)


def test_the_device_can_be_a_chroot(unconnected: Adb, key: Path, tmp_path: Path) -> None:
    assert os.geteuid() == 0, "only root may chroot"
    root = tmp_path / "root"
    for program in ("/bin/sh", "/bin/ls", "/bin/cat"):
        for path in [program, *libraries_of(program)]:
            copy = root / path.lstrip("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    here = tmp_path / "file"
    here.write_bytes(random.Random(0).randbytes(3_000_000))
    with Daemon(keys=key.with_suffix(".pub"), root=root, env={"PATH": "/bin"}) as daemon:
        unconnected.connect(daemon)
        assert set(unconnected.succeed("shell", "ls /").split()) == {path.name for path in root.iterdir()}
        unconnected.succeed("push", here, "/data/new/file")
        assert (root / "data" / "new" / "file").read_bytes() == here.read_bytes()
        unconnected.succeed("pull", "/data/new/file", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == here.read_bytes()
        assert unconnected.run("shell", "cat /none").stderr.startswith("cat: /none: No such file")
        assert unconnected.run("push", here, "/bin/sh/x").code != 0


def libraries_of(program: str) -> list[str]:
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return re.findall(r"(/\S+) \(0x", listed)
