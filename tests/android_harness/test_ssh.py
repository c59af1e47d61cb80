"""Ssh through adb: what commands print, files that come in pieces, who is let in, what happens when the way breaks."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import paramiko
import pytest

import android_harness.link
from android_harness.errors import ConnectionLostError, DeviceAnswerError, MissingPackageError, UnauthorisedError
from android_harness.link import Link
from android_harness.ssh import SshPlace
from signatures.errors import CapabilityError
from tests.android_harness.device import Connected, Device, until
from tests.device.adb_daemon.process import Daemon

MIB = 1 << 20
USER = "somebody"


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


class _Files(paramiko.SFTPServerInterface):
    """SFTP that reads."""

    def stat(self, path: str) -> object:
        return _attributes(lambda: Path(path).stat(), paramiko.SFTPAttributes.from_stat)

    def open(self, path: str, flags: int, attr: object) -> object:
        return _attributes(lambda: Path(path).open("rb"), _Reading)


class _Reading(paramiko.SFTPHandle):
    def __init__(self, file: object) -> None:
        super().__init__()
        self.readfile = file

    def stat(self) -> object:
        return paramiko.SFTPAttributes.from_stat(os.fstat(self.readfile.fileno()))


def _attributes(ask, make):
    try:
        return make(ask())
    except OSError as error:
        return paramiko.SFTPServer.convert_errno(error.errno)


class _Rules(paramiko.ServerInterface):
    """One user with one key, who may run commands and fetch files."""

    def __init__(self, server: Sshd) -> None:
        self._server = server

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        if self._server.hangs:
            time.sleep(60)
        known = username == USER and key == self._server.known
        return paramiko.AUTH_SUCCESSFUL if known else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_subsystem_request(self, channel: paramiko.Channel, name: str) -> bool:
        self._server.sessions.append(channel)
        if self._server.sftp == "fails":
            threading.Timer(0.1, channel.close).start()
            return True
        return self._server.sftp == "works" and super().check_channel_subsystem_request(channel, name)

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self._server.commands.append(command.decode())
        threading.Thread(target=_run, args=(channel, command), daemon=True).start()
        return True


def _run(channel: paramiko.Channel, command: bytes) -> None:
    with (
        suppress(OSError, EOFError, paramiko.SSHException),
        subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        ) as child,
        channel,
    ):
        try:
            if not _passed_on(child.stdout.fileno(), channel):
                return
            channel.shutdown_write()
            code = child.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        if code >= 0:  # an sshd has a message of its own for signals, which paramiko cannot send
            channel.send_exit_status(code)


def _passed_on(pipe: int, channel: paramiko.Channel) -> bool:
    """Whether all was, until the other end closed its own."""
    while not channel.closed:
        if select.select([pipe], [], [], 0.1)[0]:
            data = os.read(pipe, 1 << 15)
            if not data:
                return True
            channel.sendall(data)
    return False


class Sshd:
    """An SSH server on the loopback address, which is the device's too. `known`: the key that may come in."""

    def __init__(self, known: paramiko.PKey) -> None:
        self.known = known
        self.host_key: paramiko.PKey = paramiko.ECDSAKey.generate()
        self.sftp = "works"
        """Or "refused", or "fails": granted, and then there is no program for it."""
        self.hangs = False
        self.commands: list[str] = []
        self.sessions: list[paramiko.Channel] = []
        """Of SFTP, all that were asked for."""
        self._transports: list[paramiko.Transport] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, name="sshd", daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport = paramiko.Transport(sock)
            transport.daemon = True
            transport.add_server_key(self.host_key)
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Files)
            self._transports.append(transport)
            with suppress(paramiko.SSHException, EOFError, OSError):
                transport.start_server(event=threading.Event(), server=_Rules(self))

    def hang_up(self) -> None:
        """Close all connections."""
        while self._transports:
            self._transports.pop().close()

    def close(self) -> None:
        """Close them, and take no more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()


@pytest.fixture(scope="module")
def key() -> paramiko.PKey:
    return paramiko.ECDSAKey.generate()


@pytest.fixture
def sshd(key: paramiko.PKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """A server that knows the only key of the user who runs the tests."""
    folder = tmp_path / "user" / ".ssh"
    folder.mkdir(parents=True)
    key.write_private_key_file(str(folder / "id_ecdsa"))
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    server = Sshd(key)
    yield server
    server.close()


@contextmanager
def place(link: Link, sshd: Sshd, folder: Path, stall_s: float = 5, user: str = USER) -> Iterator[SshPlace]:
    there = SshPlace(link, user, sshd.port, folder / "known_hosts", stall_s)
    try:
        yield there
    finally:
        there.close()
        there.close()


@contextmanager
def daemon(device: Device, *options: str, cuts: tuple[int, ...] = ()) -> Iterator[Connected]:
    with Daemon(keys=device.keys / "adbkey.pub", options=options, cuts=cuts) as on:
        yield Connected(device, f"127.0.0.1:{on.port}", on)


@contextmanager
def frozen(on: Connected, after_s: float) -> Iterator[None]:
    """Its daemon stops after a while and is still there."""
    assert on.daemon
    pid = on.daemon._process.pid
    timer = threading.Timer(after_s, os.kill, (pid, signal.SIGSTOP))
    timer.start()
    try:
        yield
    finally:
        timer.join()
        os.kill(pid, signal.SIGCONT)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").glob("*")))


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = open_files()
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("tunnel")] == []
    until(lambda: open_files() <= before, 5)


def test_commands(link: Link, sshd: Sshd, tmp_path: Path) -> None:
    with place(link, sshd, tmp_path) as there:
        assert there.shell("echo out; echo err >&2; exit 3").text == "out\nerr\n"
        assert there.shell("echo out; exit 3").code == 3
        assert there.shell("false").code == 1
        assert there.shell("seq 1 100000").text == "".join(f"{i}\n" for i in range(1, 100001))
        assert len(sshd.commands) == 4


def test_a_command_that_a_signal_ends_is_not_run_again(link: Link, sshd: Sshd, tmp_path: Path) -> None:
    with place(link, sshd, tmp_path) as there:
        with pytest.raises(DeviceAnswerError, match="by a signal"):
            there.shell("kill -9 $$")
        assert len(sshd.commands) == 1
        assert there.shell("echo").code == 0


@pytest.mark.parametrize("command", ["sleep 30", "while :; do echo; done"])
def test_a_slow_command_is_run_once(link: Link, sshd: Sshd, tmp_path: Path, command: str) -> None:
    with place(link, sshd, tmp_path) as there:
        with pytest.raises(DeviceAnswerError, match=r"took more than 0\.3 s"):
            there.shell(command, 0.3)
        assert len(sshd.commands) == 1
        assert there.shell("echo on").text == "on\n"


@pytest.mark.parametrize("payload", ["4096", "1048576"])
def test_packets_of_all_sizes(device: Device, sshd: Sshd, tmp_path: Path, payload: str) -> None:
    (tmp_path / "there").write_bytes(content(5 * MIB + 3))
    command = "echo " + "x" * 60_000
    with (
        daemon(device, "--max-payload", payload) as on,
        Link(on.serial, device.keys, 5, 5) as link,
        place(link, sshd, tmp_path) as there,
    ):
        assert len(there.shell(command).text) == 60_001
        there.fetch(f"{tmp_path}/there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content(5 * MIB + 3)
    assert len(sshd.commands) == 1


def test_an_empty_file(link: Link, sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    with place(link, sshd, tmp_path) as there:
        there.fetch(f"{tmp_path}/there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b""


def test_what_cannot_be_read_or_written(link: Link, sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(content(MIB))
    with place(link, sshd, tmp_path) as there:
        with pytest.raises(DeviceAnswerError, match="cannot read /nowhere"):
            there.fetch("/nowhere", tmp_path / "back")
        with pytest.raises(DeviceAnswerError, match="cannot read /tmp"):
            there.fetch("/tmp", tmp_path / "back")
        with pytest.raises(CapabilityError, match="on this computer"):
            there.fetch(f"{tmp_path}/there", tmp_path / "nowhere" / "back")
        (tmp_path / "full.partial").symlink_to("/dev/full")
        with pytest.raises(CapabilityError, match=r"on this computer.*No space left"):
            there.fetch(f"{tmp_path}/there", tmp_path / "full")
        there.fetch(f"{tmp_path}/there", tmp_path / "whole")
    assert len(sshd._transports) == len(sshd.sessions) == 1
    assert (tmp_path / "whole").read_bytes() == content(MIB)
    assert not list(tmp_path.glob("back*"))
    assert not list(tmp_path.glob("full*"))


@pytest.mark.parametrize("sftp", ["refused", "fails"])
def test_no_sftp(link: Link, sshd: Sshd, tmp_path: Path, sftp: str) -> None:
    sshd.sftp = sftp
    with place(link, sshd, tmp_path) as there:
        with pytest.raises(DeviceAnswerError, match="refuses SFTP"):
            there.fetch("/etc/passwd", tmp_path / "back")
        assert there.shell("echo on").text == "on\n"
    assert len(sshd.sessions) == 1


def test_files_and_commands_by_turns(link: Link, sshd: Sshd, tmp_path: Path) -> None:
    """In one session of SFTP: dropbear closes channels that are opened while one is closing."""
    with place(link, sshd, tmp_path) as there:
        for number in range(3):
            (tmp_path / "there").write_bytes(content(number))
            there.fetch(f"{tmp_path}/there", tmp_path / "back")
            assert (tmp_path / "back").read_bytes() == content(number)
            assert there.shell(f"echo {number}").text == f"{number}\n"
        assert len(sshd.sessions) == 1
        sshd.sessions[0].close()  # its program was killed
        there.fetch(f"{tmp_path}/there", tmp_path / "again")
    assert len(sshd.sessions) == 2
    assert (tmp_path / "again").read_bytes() == content(2)


def test_a_fetch_that_breaks_off_goes_on_where_it_broke(device: Device, sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(content(6 * MIB))
    # The second cut would come if more than the missing half was sent again.
    with (
        daemon(device, cuts=(4 * MIB, 3 * MIB)) as on,
        Link(on.serial, device.keys, 5, 5) as link,
        place(link, sshd, tmp_path) as there,
    ):
        there.fetch(f"{tmp_path}/there", tmp_path / "back")
        assert len(sshd._transports) == 2
    assert (tmp_path / "back").read_bytes() == content(6 * MIB)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("seed", range(3))
def test_broken_at_random_points(device: Device, sshd: Sshd, tmp_path: Path, seed: int) -> None:
    """In adb's handshake, in ssh's, in a command, in a file."""
    random_ = random.Random(seed)
    # Link's own connection is of 2 kB and breaks for good, ssh's handshake of 5 to 6 kB.
    points = (random_.randrange(2200, 4000), *(random_.randrange(200, 9000) for _ in range(3)), 300_000, 400_000)
    (tmp_path / "there").write_bytes(content(MIB))
    with (
        daemon(device, cuts=points) as on,
        Link(on.serial, device.keys, 5, 20) as link,
        place(link, sshd, tmp_path) as there,
    ):
        for number in range(3):
            assert there.shell(f"echo {number}").text == f"{number}\n"
        there.fetch(f"{tmp_path}/there", tmp_path / "back")
        assert there.shell("exit 7").code == 7
    assert (tmp_path / "back").read_bytes() == content(MIB)


def test_a_way_that_always_breaks(device: Device, sshd: Sshd, tmp_path: Path) -> None:
    with (
        daemon(device, cuts=(2200, *[3000] * 200)) as on,
        Link(on.serial, device.keys, 5, 1) as link,
        pytest.raises(ConnectionLostError, match="no ssh connection through adb within 1 s"),
    ):
        SshPlace(link, USER, sshd.port, tmp_path / "known_hosts", 5)


def test_an_sshd_that_hangs_up(link: Link, sshd: Sshd, tmp_path: Path) -> None:
    with place(link, sshd, tmp_path) as there:
        sshd.hang_up()
        assert there.shell("echo on").text == "on\n"


@pytest.mark.parametrize("how", ["fetch", "shell"])
def test_a_device_that_falls_silent(
    device: Device, sshd: Sshd, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection looks open, and nothing comes of it."""
    monkeypatch.setattr(android_harness.link, "_CONNECT_S", 0.5)
    (tmp_path / "there").write_bytes(content(50 * MIB))
    with (
        daemon(device) as on,
        Link(on.serial, device.keys, 5, 0.5) as link,
        place(link, sshd, tmp_path, stall_s=0.5) as there,
        frozen(on, 0.2),
    ):
        began = time.monotonic()
        with pytest.raises(ConnectionLostError, match="no ssh connection"):
            there.fetch(f"{tmp_path}/there", tmp_path / "back") if how == "fetch" else there.shell("sleep 60", 60)
        assert time.monotonic() - began < 8
        began = time.monotonic()
        with pytest.raises(ConnectionLostError):  # it is not waited for twice
            there.shell("true")
        assert time.monotonic() - began < 0.5
    assert not list(tmp_path.glob("back*"))


def test_an_sshd_that_falls_silent(link: Link, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sshd.hangs = True
    monkeypatch.setattr(link, "patience_s", 0.5)
    with pytest.raises(ConnectionLostError, match="did not let us in or refuse us for 1 s"):
        SshPlace(link, USER, sshd.port, tmp_path / "known_hosts", 1)


def test_a_key_that_the_sshd_does_not_know(link: Link, sshd: Sshd, tmp_path: Path) -> None:
    sshd.known = paramiko.ECDSAKey.generate()
    with pytest.raises(UnauthorisedError, match=f"sshd refused '{USER}'"):
        SshPlace(link, USER, sshd.port, tmp_path / "known_hosts")
    (tmp_path / "user" / ".ssh" / "id_ecdsa").unlink()
    with pytest.raises(UnauthorisedError, match="No authentication methods"):
        SshPlace(link, USER, sshd.port, tmp_path / "known_hosts")


def test_another_host_key(link: Link, sshd: Sshd, tmp_path: Path) -> None:
    with place(link, sshd, tmp_path):
        pass
    with place(link, sshd, tmp_path) as there:
        sshd.host_key = paramiko.ECDSAKey.generate()
        sshd.hang_up()
        with pytest.raises(UnauthorisedError, match=r"not the one known from before.*known_hosts"):
            there.shell("true")


def test_nothing_listens(link: Link, sshd: Sshd, tmp_path: Path) -> None:
    sshd.close()
    began = time.monotonic()
    with pytest.raises(MissingPackageError, match="nothing listens on port"):
        SshPlace(link, USER, sshd.port, tmp_path / "known_hosts")
    assert time.monotonic() - began < 2


def test_no_room_for_known_hosts(link: Link, sshd: Sshd, tmp_path: Path) -> None:
    with pytest.raises(CapabilityError, match="on this computer"):
        SshPlace(link, USER, sshd.port, tmp_path / "nowhere" / "known_hosts")
