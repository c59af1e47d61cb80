"""The ADB daemon as adb-shell sees it: who may connect, shells, files, forwarded ports."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from adb_shell.adb_device import AdbDeviceTcp
from adb_shell.auth.sign_cryptography import CryptographySigner
from adb_shell.exceptions import AdbCommandFailureException, DeviceAuthError, PushFailedError, TcpTimeoutException

from tests.device.adb_daemon.process import Daemon, make_keys

TIMEOUT_S = 10
REPOSITORY = Path(__file__).resolve().parents[2]
ODD_NAMES = ["plain", "with space", "ünïcode ✓", "comma,in,it", "-dash", "quote'and\"more", "tail "]


@pytest.fixture
def device(daemon: Daemon, signer: CryptographySigner) -> Iterator[AdbDeviceTcp]:
    device = AdbDeviceTcp("127.0.0.1", daemon.port, TIMEOUT_S)
    device.connect(rsa_keys=[signer])
    yield device
    device.close()


class TestConnecting:
    def test_needs_a_key(self, daemon: Daemon) -> None:
        with pytest.raises(DeviceAuthError):
            AdbDeviceTcp("127.0.0.1", daemon.port, TIMEOUT_S).connect(rsa_keys=[])

    def test_ignores_the_offer_of_a_key_that_is_not_listed(self, daemon: Daemon, tmp_path: Path) -> None:
        stranger = make_keys(tmp_path)
        signer = CryptographySigner(str(stranger))
        with pytest.raises(TcpTimeoutException):
            AdbDeviceTcp("127.0.0.1", daemon.port, TIMEOUT_S).connect(rsa_keys=[signer], auth_timeout_s=0.3)

    def test_tries_every_key_that_the_client_has(
        self, daemon: Daemon, signer: CryptographySigner, tmp_path: Path
    ) -> None:
        device = AdbDeviceTcp("127.0.0.1", daemon.port, TIMEOUT_S)
        assert device.connect(rsa_keys=[CryptographySigner(str(make_keys(tmp_path))), signer])
        device.close()

    def test_refuses_to_run_with_keys_that_are_none(self, tmp_path: Path) -> None:
        (tmp_path / "keys").write_text("c3Vycmk= me@here\n")
        with pytest.raises(RuntimeError, match="exit code 1"), Daemon(keys=tmp_path / "keys"):
            pass


class TestShell:
    def test_merges_stdout_and_stderr(self, device: AdbDeviceTcp) -> None:
        assert device.shell("echo out; echo err >&2; echo again; exit 3") == "out\nerr\nagain\n"

    def test_sees_the_given_environment_and_not_the_hosts(self, device: AdbDeviceTcp) -> None:
        names = {line.partition("=")[0] for line in device.shell("env").splitlines()}
        assert names - {"PWD", "OLDPWD", "SHLVL", "_"} == {"PATH", "HOME", "TERM", "GREETING"}
        assert device.shell('echo "$GREETING"; pwd') == "hello there\n/\n"

    def test_passes_bytes_that_are_no_text(self, device: AdbDeviceTcp) -> None:
        assert device.shell(r"printf '\377\000\r\n\200'", decode=False) == b"\xff\x00\r\n\x80"

    def test_passes_much_output(self, device: AdbDeviceTcp) -> None:
        wanted = b"".join(b"%d\n" % number for number in range(1, 400_001))
        assert device.shell("seq 1 400000", decode=False) == wanted

    def test_ends_with_the_command_whoever_holds_its_stdout(self, device: AdbDeviceTcp) -> None:
        assert device.shell("(sleep 30; echo late) & echo early") == "early\n"

    def test_serves_several_clients(self, daemon: Daemon, device: AdbDeviceTcp, signer: CryptographySigner) -> None:
        other = AdbDeviceTcp("127.0.0.1", daemon.port, TIMEOUT_S)
        other.connect(rsa_keys=[signer])
        slow = other.streaming_shell("echo one; sleep 0.5; echo two")
        assert next(slow) == "one\n"
        assert device.shell("echo meanwhile") == "meanwhile\n"
        assert "".join(slow) == "two\n"
        other.close()


class TestFiles:
    @pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 5_000_000])
    def test_pushed_and_pulled_are_equal(self, device: AdbDeviceTcp, tmp_path: Path, size: int) -> None:
        data = random.Random(size).randbytes(size)
        here, there, back = (tmp_path / name for name in ("here", "there", "back"))
        here.write_bytes(data)
        device.push(str(here), str(there))
        assert there.read_bytes() == data
        device.pull(str(there), str(back))
        assert back.read_bytes() == data

    def test_names_may_be_odd(self, device: AdbDeviceTcp, tmp_path: Path) -> None:
        for number, name in enumerate(ODD_NAMES):
            device.push(BytesIO(bytes(number)), f"{tmp_path}/new folder/{name}")
        listed = {bytes(entry.filename).decode(): entry for entry in device.list(f"{tmp_path}/new folder")}
        assert listed.keys() == {".", "..", *ODD_NAMES}
        for number, name in enumerate(ODD_NAMES):
            found = (tmp_path / "new folder" / name).stat()
            assert listed[name][1:] == (found.st_mode, number, int(found.st_mtime))
            assert device.stat(f"{tmp_path}/new folder/{name}") == listed[name][1:]

    def test_modes_and_times_are_the_clients(self, device: AdbDeviceTcp, tmp_path: Path) -> None:
        path = tmp_path / "a" / "b" / "script"
        device.push(BytesIO(b"#!/bin/sh\necho ran\n"), str(path), st_mode=stat.S_IFREG | 0o750, mtime=1_234_567_890)
        # As on a phone, all get the rights that the owner has.
        assert device.stat(str(path)) == (stat.S_IFREG | 0o777, 19, 1_234_567_890)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o775
        assert device.shell(str(path)) == "ran\n"

    def test_a_push_replaces_the_file_and_not_what_it_links_to(self, device: AdbDeviceTcp, tmp_path: Path) -> None:
        (tmp_path / "target").write_text("before")
        (tmp_path / "link").symlink_to("target")
        device.push(BytesIO(b"after"), f"{tmp_path}/link")
        assert not (tmp_path / "link").is_symlink()
        assert (tmp_path / "target").read_text() == "before"

    def test_links_can_be_pushed(self, device: AdbDeviceTcp, tmp_path: Path) -> None:
        for target in ("first", "second"):
            device.push(BytesIO(target.encode() + b"\0"), f"{tmp_path}/new/link", st_mode=stat.S_IFLNK | 0o777)
            assert (tmp_path / "new" / "link").readlink() == Path(target)
        assert stat.S_ISLNK(device.stat(f"{tmp_path}/new/link")[0])

    def test_what_does_not_exist_has_no_facts_and_no_entries(self, device: AdbDeviceTcp, tmp_path: Path) -> None:
        assert device.stat(f"{tmp_path}/none") == (0, 0, 0)
        assert device.list(f"{tmp_path}/none") == []

    @pytest.mark.parametrize(
        ("where", "reason"),
        [
            ("{}", "couldn't create file: Is a directory"),
            ("{}/file/below", "couldn't create file: Not a directory"),
            ("/proc/adb_daemon", "couldn't create file: No such file or directory"),
            ("/proc/adb_daemon/below", "secure_mkdirs failed: No such file or directory"),
            ("/dev/full", "write failed: No space left on device"),
            ("relative/path", "secure_mkdirs failed"),
            ("{}/" + 1100 * "x", "path too long"),
        ],
    )
    def test_a_push_that_fails_says_why(self, device: AdbDeviceTcp, tmp_path: Path, where: str, reason: str) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(PushFailedError) as failure:
            device.push(BytesIO(b"data"), where.format(tmp_path), st_mode=stat.S_IFREG | 0o666)
        assert bytes(failure.value.args[0]).decode().startswith(reason)
        assert device.shell("echo lives") == "lives\n"

    @pytest.mark.parametrize(("name", "reason"), [("none", "No such file or directory"), ("", "Is a directory")])
    def test_a_pull_that_fails_says_why(self, device: AdbDeviceTcp, tmp_path: Path, name: str, reason: str) -> None:
        with pytest.raises(AdbCommandFailureException, match=reason):
            device.pull(f"{tmp_path}/{name}", BytesIO())
        assert device.shell("echo lives") == "lives\n"

    def test_a_fifo_does_not_stop_the_daemon(self, device: AdbDeviceTcp, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")
        pulled = BytesIO()
        device.pull(f"{tmp_path}/fifo", pulled)
        assert pulled.getvalue() == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(key: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "tests.device.adb_daemon", "--keys", str(key.with_suffix(".pub"))]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout
        port = json.loads(process.stdout.readline())["port"]
        socket.create_connection(("127.0.0.1", port)).close()
        process.send_signal(number)
        assert process.wait(TIMEOUT_S) == 0


def test_small_packets_do_as_well(key: Path, signer: CryptographySigner, tmp_path: Path) -> None:
    data = random.Random(0).randbytes(100_000)
    with Daemon(keys=key.with_suffix(".pub"), options=["--max-payload", "4096"]) as daemon:
        device = AdbDeviceTcp("127.0.0.1", daemon.port, TIMEOUT_S)
        device.connect(rsa_keys=[signer])
        assert device.max_chunk_size < 4096
        device.push(BytesIO(data), f"{tmp_path}/there")
        pulled = BytesIO()
        device.pull(f"{tmp_path}/there", pulled)
        assert pulled.getvalue() == data
        device.close()
