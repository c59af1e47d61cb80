"""The connection: what commands print and end with, who is let in, what happens when it breaks."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from android_harness.errors import (
    ConnectionLostError,
    DeviceAnswerError,
    DeviceFullError,
    NoDeviceError,
    UnauthorisedError,
)
from android_harness.link import Link
from android_harness.transport import checksum
from signatures.errors import CapabilityError, UsageError
from tests.android_harness.device import Device
from tests.device.adb_daemon.process import make_keys

MIB = 1 << 20


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def test_a_command_has_its_output_and_its_exit_code(link: Link) -> None:
    assert link.shell("echo out; echo err >&2; exit 3").text == "out\nerr\n"
    assert link.shell("echo out; exit 3").code == 3
    assert link.shell("printf 'no line break'").text == "no line break"
    assert link.shell("false").code == 1
    assert link.shell("echo 'quote\"s' \"it's\"; for i in 1 2; do echo $i; done").text == "quote\"s it's\n1\n2\n"


def test_a_large_answer_comes_whole(link: Link) -> None:
    assert link.shell("seq 1 300000").text == "".join(f"{i}\n" for i in range(1, 300001))


def test_checked_says_what_failed(link: Link) -> None:
    with pytest.raises(DeviceAnswerError, match=r"`ls /nowhere` ended with 2: .*No such file"):
        link.checked("ls /nowhere")
    with pytest.raises(DeviceFullError, match="No space left"):
        link.checked("echo x | cat > /dev/full")


def test_lines_of_a_terminal_are_read_as_lines(link: Link) -> None:
    assert link.shell("printf 'a\\r\\nb\\r\\n'").text == "a\nb\n"


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, MIB - 8, 5 * MIB + 3])
def test_files_go_there_and_back(link: Link, tmp_path: Path, size: int) -> None:
    (tmp_path / "here").write_bytes(content(size))
    link.push(tmp_path / "here", f"{tmp_path}/there")
    link.pull(f"{tmp_path}/there", tmp_path / "back")
    assert (tmp_path / "there").read_bytes() == (tmp_path / "back").read_bytes() == content(size)
    assert sorted(path.name for path in tmp_path.glob("*")) == ["back", "here", "there"]


def test_what_cannot_be_written_or_read(link: Link, tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(b"x")
    with pytest.raises(DeviceAnswerError, match="cannot write"):
        link.push(tmp_path / "here", "/proc/none/there")
    with pytest.raises(DeviceAnswerError, match="cannot read /nowhere"):
        link.pull("/nowhere", tmp_path / "back")
    assert not list(tmp_path.glob("back*"))
    with pytest.raises(CapabilityError, match="on this computer"):
        link.push(tmp_path / "missing", f"{tmp_path}/there")


@pytest.mark.parametrize("size", [100, 5 * MIB])
def test_what_a_device_says_in_the_middle_of_a_push_is_heard(link: Link, tmp_path: Path, size: int) -> None:
    (tmp_path / "here").write_bytes(content(size))
    before = link.reconnections
    with pytest.raises(DeviceFullError):
        link.push(tmp_path / "here", "/dev/full")
    with pytest.raises(DeviceAnswerError, match="cannot write"):
        link.push(tmp_path / "here", "/proc/none/there")
    assert link.shell("echo still here").text == "still here\n"
    assert link.reconnections == before


def test_a_command_that_is_slow_is_not_begun_again(link: Link, tmp_path: Path) -> None:
    with pytest.raises(DeviceAnswerError, match=r"took more than 0.5 s"):
        link.shell(f"echo begun >> {tmp_path}/log; sleep 2", timeout_s=0.5)
    assert link.shell("echo still here").text == "still here\n"
    assert (tmp_path / "log").read_text() == "begun\n"


def test_nobody_there(keys: Path) -> None:
    with pytest.raises(NoDeviceError, match="no adb daemon answers"):
        Link("127.0.0.1:1", keys, 1, 30)


@pytest.mark.parametrize("serial", ["host:", ":5555", "host:port", "host:0", "host:70000"])
def test_no_address(serial: str, keys: Path) -> None:
    with pytest.raises(UsageError, match="not HOST:PORT"):
        Link(serial, keys, 1, 30)


def test_a_key_that_nobody_accepts(device: Device, tmp_path: Path) -> None:
    make_keys(tmp_path)
    with device.on() as on, pytest.raises(UnauthorisedError, match="nobody confirmed it"):
        Link(on.serial, tmp_path, 0.3, 30)


def test_a_key_is_made_where_there_is_none(device: Device, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with device.on() as on, pytest.raises(UnauthorisedError):
        Link(on.serial, folder, 0.1, 30)
    assert sorted(path.name for path in folder.iterdir()) == ["adbkey", "adbkey.pub"]
    assert (folder / "adbkey").stat().st_mode & 0o077 == 0


def test_a_pull_that_breaks_off_goes_on_where_it_broke(device: Device, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(content(6 * MIB))
    # A second cut would come if more than the missing half was sent again.
    with device.on(4 * MIB, 3 * MIB) as on, Link(on.serial, device.keys, 5, 30) as link:
        link.pull(f"{tmp_path}/there", tmp_path / "back")
        assert link.reconnections == 1
    assert (tmp_path / "back").read_bytes() == content(6 * MIB)
    assert not (tmp_path / "there.rest").exists()


@pytest.mark.parametrize("cut", [1600, 5000, 20_000, MIB, 2 * MIB])
def test_a_push_that_breaks_off_is_sent_again(device: Device, tmp_path: Path, cut: int) -> None:
    (tmp_path / "here").write_bytes(content(2 * MIB))
    with device.on(cut) as on, Link(on.serial, device.keys, 5, 30) as link:
        link.push(tmp_path / "here", f"{tmp_path}/there")
        assert link.reconnections == 1
    assert (tmp_path / "there").read_bytes() == content(2 * MIB)


def test_a_connection_that_always_breaks(device: Device, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(content(MIB))
    with device.on(*[3000] * 30) as on, Link(on.serial, device.keys, 5, 30) as link:
        with pytest.raises(ConnectionLostError):
            link.pull(f"{tmp_path}/there", tmp_path / "back")
        assert not list(tmp_path.glob("back*"))


def test_a_device_that_does_not_come_back(device: Device) -> None:
    with device.on() as on:
        link = Link(on.serial, device.keys, 5, 0.5)
    began = time.monotonic()
    with pytest.raises(ConnectionLostError, match="did not come back"):
        link.shell("true")
    assert time.monotonic() - began < 10
    began = time.monotonic()
    with pytest.raises(ConnectionLostError):
        link.shell("true")  # nobody waits for it a second time
    assert time.monotonic() - began < 0.4
    link.close()


def test_checksums_are_those_of_adb_shell() -> None:
    for data in (b"", b"\xff", content(70_000), b"\xff" * (17 * MIB)):
        assert checksum(data) == checksum(bytearray(data)) == sum(data) & 0xFFFFFFFF
