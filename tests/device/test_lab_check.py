"""What `python -m tests.device.lab` says where something is missing, each in a fresh process with a machine made up.

Root, QEMU or a lab are not needed: the parts of the machine that the answer depends on are replaced.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.device.lab.build import parse_mirror
from tests.device.lab.host import MAGIC, MASK, TOOLS, parse_handler
from tests.device.lab.layout import PROJECT, RECIPE, Lab, device_requirements, parse_size
from tests.end_to_end.commands import Finished

HANDLER = """\
{}
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: {}
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""

PROGRAM = """
import os, sys
from pathlib import Path
from signatures.errors import exit_code_of
from tests.device.lab import __main__, host, namespace
host.is_native = lambda: False
host.BINFMT = Path({binfmt!r})
os.geteuid = lambda: {user}
sys.platform = {system!r}
namespace.may_be_made = lambda: {may_mount}
sys.exit(exit_code_of(lambda: __main__.main({arguments!r})))
"""


@dataclass(frozen=True)
class Machine:
    """A made-up machine."""

    folder: Path
    user: int = 0
    system: str = "linux"
    may_mount: bool = True

    @property
    def binfmt(self) -> Path:
        return self.folder / "binfmt_misc"

    def lab(self, *arguments: str) -> Finished:
        """`python -m tests.device.lab …` on it, with a lab of its own."""
        program = PROGRAM.format(
            binfmt=str(self.binfmt),
            user=self.user,
            system=self.system,
            may_mount=self.may_mount,
            arguments=["--lab", str(self.folder / "lab"), *arguments],
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=PROJECT,
            env={"PATH": str(self.folder / "bin")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def refuses(self, *arguments: str) -> str:
        """What it says, in one line, with exit code 7."""
        done = self.lab(*arguments)
        assert (done.code, done.stdout) == (7, ""), done
        assert re.fullmatch(r"error: .+\n", done.stderr), done.stderr
        return done.stderr

    def install(self, *tools: str) -> None:
        for tool in tools:
            program = self.folder / "bin" / tool
            program.write_text("#!/bin/sh\nexit 1\n")
            program.chmod(0o755)

    def remove(self, tool: str) -> None:
        (self.folder / "bin" / tool).unlink()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """One that has all that the lab needs, but for the lab."""
    made = Machine(tmp_path)
    (tmp_path / "bin").mkdir()
    made.binfmt.mkdir()
    (made.binfmt / "register").touch()
    (made.binfmt / "status").write_text("enabled\n")
    (made.binfmt / "qemu-aarch64").write_text(HANDLER.format("enabled", "POCF"))
    made.install(*TOOLS)
    return made


@pytest.mark.parametrize("action", ["check", "build", "exec"])
def test_every_missing_package_is_named_at_once(machine: Machine, action: str) -> None:
    for tool in TOOLS:
        machine.remove(tool)
    (machine.binfmt / "qemu-aarch64").unlink()
    said = machine.refuses(action, *(["--", "true"] if action == "exec" else []))
    assert "needs debootstrap, adb, qemu-user-static: " in said
    assert said.endswith("apt-get install --no-install-recommends debootstrap adb qemu-user-static\n")


@pytest.mark.parametrize("tool", TOOLS)
def test_one_missing_package(machine: Machine, tool: str) -> None:
    machine.remove(tool)
    assert machine.refuses("check").endswith(f": apt-get install --no-install-recommends {tool}\n")


def test_not_root(machine: Machine) -> None:
    said = replace(machine, user=1000).refuses("build")
    assert "needs root (to mount and chroot; this is user 1000): run this as root" in said
    assert "apt-get" not in said


def test_not_root_and_a_package_missing(machine: Machine) -> None:
    machine.remove("debootstrap")
    said = replace(machine, user=1000).refuses("build")
    assert "needs debootstrap, root" in said
    assert said.endswith("apt-get install --no-install-recommends debootstrap and run this as root\n")


def test_not_root_and_binfmt_misc_not_mounted(machine: Machine) -> None:
    for entry in machine.binfmt.iterdir():
        entry.unlink()
    user = replace(machine, user=1000)
    assert "qemu-user-static" in user.refuses("check")
    machine.install("qemu-aarch64-static")
    assert "apt-get" not in user.refuses("check")  # root can mount it


def test_root_of_a_container(machine: Machine) -> None:
    assert "CAP_SYS_ADMIN" in replace(machine, may_mount=False).refuses("check")


def test_another_system(machine: Machine) -> None:
    assert "needs Linux, and this is darwin" in replace(machine, system="darwin").refuses("check")


@pytest.mark.parametrize("action", ["check", "exec"])
def test_no_lab(machine: Machine, action: str) -> None:
    said = machine.refuses(action, *(["--", "true"] if action == "exec" else []))
    assert f"is not there ({machine.folder / 'lab'}): run `make device-lab`" in said


def test_a_lab_of_another_recipe(machine: Machine) -> None:
    lab = Lab(machine.folder / "lab")
    lab.folder.mkdir()
    lab.stamp.write_text("0" * 64 + "\n")
    assert "was made with another recipe" in machine.refuses("check")
    lab.stamp.write_text(RECIPE.digest + "\n")
    assert machine.lab("check").succeeded().stdout == f"ready: {lab.folder}\n"
    assert "up to date" in machine.lab("build").succeeded().stderr


def test_a_disabled_handler_is_enabled(machine: Machine) -> None:
    entry = machine.binfmt / "qemu-aarch64"
    entry.write_text(HANDLER.format("disabled", "PF"))
    (machine.binfmt / "status").write_text("disabled\n")
    said = machine.lab("check").stderr
    assert "device lab: enabled binfmt_misc\ndevice lab: enabled qemu-aarch64 of binfmt_misc\n" in said
    assert entry.read_text() == (machine.binfmt / "status").read_text() == "1"


def test_a_handler_that_a_chroot_cannot_use_is_not_enough(machine: Machine) -> None:
    (machine.binfmt / "qemu-aarch64").write_text(HANDLER.format("enabled", "PO"))
    assert "qemu-user-static" in machine.refuses("check")


def test_qemu_is_registered(machine: Machine) -> None:
    (machine.binfmt / "qemu-aarch64").unlink()
    machine.install("qemu-aarch64-static")
    said = machine.lab("check").stderr
    program = machine.folder / "bin" / "qemu-aarch64-static"
    assert f"device lab: registered {program} with binfmt_misc\n" in said
    _, name, kind, offset, magic, mask, interpreter, flags = (machine.binfmt / "register").read_text().split(":")
    assert (name, kind, offset, interpreter, flags) == ("adabet-aarch64", "M", "", str(program), "F")
    assert [bytes.fromhex(text.replace("\\x", "")) for text in (magic, mask)] == [MAGIC, MASK]


@pytest.mark.parametrize(
    "arguments", [[], ["--tmpfs", "tmp:1m"], ["--tmpfs", "/tmp"], ["--tmpfs", "/tmp:0"], ["--tmpfs", "/tmp:1x"]]
)
def test_usage(machine: Machine, arguments: list[str]) -> None:
    done = machine.lab("exec", *arguments, "--", *(["true"] if arguments else []))
    assert done.code == 2
    assert "usage: " in done.stderr


def test_paths(machine: Machine) -> None:
    assert machine.lab("path").succeeded().stdout == f"{machine.folder / 'lab' / 'root'}\n"
    wheels = machine.lab("path", "wheels/tflite214").succeeded().stdout
    assert wheels == f"{machine.folder / 'lab' / 'wheels' / 'tflite214'}\n"


# ---- parsers ---------------------------------------------------------------------------------------------------------


def test_parse_handler() -> None:
    handler = parse_handler(Path("name"), HANDLER.format("enabled", "PF"))
    assert (handler.enabled, handler.flags, handler.magic) == (True, "PF", MAGIC)
    by_extension = parse_handler(Path("name"), "disabled\ninterpreter /usr/bin/java\nflags: \nextension .jar\n")
    assert (by_extension.enabled, by_extension.flags, by_extension.magic) == (False, "", b"")


def test_parse_mirror() -> None:
    security = "Debian Debian-Security http://mirror/debian-security/\n"
    assert parse_mirror(security + "Debian Debian http://mirror/debian/\n") == "http://mirror/debian/"
    assert parse_mirror(security + "Ubuntu Ubuntu http://mirror/ubuntu/\n") == ""
    assert parse_mirror("  http://mirror/debian/\n") == ""  # lists that were never fetched
    assert parse_mirror("Debian Debian cdrom:[disc]/\n") == ""


def test_parse_size() -> None:
    assert [parse_size(text) for text in ("7", "64k", "64m", "2g")] == [7, 64 << 10, 64 << 20, 2 << 30]


def test_the_requirements_are_those_of_the_extra() -> None:
    names = {re.split(r"[<>=!~]", requirement)[0] for requirement in device_requirements()}
    assert names == {"numpy", "flatbuffers", "tflite", "pillow"}
