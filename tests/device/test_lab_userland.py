"""The lab itself: `adapt` in it on both runtimes beside this machine's, what is installed, and what `exec` leaves.

Slow: `make test-device` runs it, and fails where the lab is missing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.device.lab.layout import LAB, LITERT, PROJECT, RECIPE, TFLITE214, Environment, exec_command
from tests.end_to_end import tiny
from tests.end_to_end.commands import Commands, Finished
from tests.end_to_end.conftest import read_report
from tests.oracles.other_runtime import tflite214_python

pytestmark = pytest.mark.slow

TIMEOUT_S = 1800
SETTINGS = ("--rho", "0.6", "--epochs", "3", "--batch", "8", "--lr", "0.02", "--seed", "0", "--threads", "2")
ELF, AARCH64 = b"\x7fELF", 183


def finish(command: list[str]) -> Finished:
    """Run a command of this machine to its end."""
    done = subprocess.run(
        command, cwd=PROJECT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module", autouse=True)
def lab() -> None:
    """Fails the tests with what `check` says where the lab is missing."""
    check = finish([sys.executable, "-m", "tests.device.lab", "check"])
    if check.code:
        pytest.fail(check.stderr)


@dataclass(frozen=True)
class Device:
    """A folder in the root with the project's code and something to adapt."""

    folder: Path

    @property
    def inside(self) -> str:
        """What the root calls it."""
        return f"/{self.folder.relative_to(LAB.root)}"

    def run(self, *command: str, user: str = "root") -> Finished:
        """Run a command of the root in it."""
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": self.inside,
            "XDG_CACHE_HOME": self.inside,
        }
        settings = [f"{name}={value}" for name, value in {**environment, "QEMU_CPU": "cortex-a72"}.items()]
        return finish(exec_command(["chroot", f"--userspec={user}", str(LAB.root), "env", "-i", *settings, *command]))

    def adapt(self, environment: Environment) -> dict:
        """The report of a run on the tiny bundle."""
        out = f"run_{environment.name}"
        self.run(
            environment.python, "-m", "ondevice.adapt", f"{self.inside}/bundle", "--data", f"{self.inside}/pictures",
            "--out", f"{self.inside}/{out}", *SETTINGS,
        ).succeeded()  # fmt: skip
        return read_report(self.folder / out)


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    folder = Path(tempfile.mkdtemp(dir=LAB.root / "tmp"))
    for package in ("signatures", "ondevice"):
        shutil.copytree(PROJECT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    tiny.write_bundle(folder / "bundle")
    tiny.write_pictures(folder / "pictures")
    yield Device(folder)
    shutil.rmtree(folder)


# ---- adapt, beside this machine --------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", RECIPE.environments, ids=lambda environment: environment.name)
def test_adapt_learns_what_it_learns_here(device: Device, environment: Environment, tmp_path: Path) -> None:
    there = device.adapt(environment)
    commands = Commands(tmp_path) if environment == LITERT else Commands(tmp_path, tflite214_python())
    commands.adapt(
        device.folder / "bundle", "--data", device.folder / "pictures", "--out", tmp_path / "run", *SETTINGS
    ).succeeded()
    here = read_report(tmp_path / "run")

    # The kernel's marks are those of the emulator with the program in it: each phase's own, but tens of MiB too high.
    assert all(phase["reset"] and phase["peak_bytes"] > phase["anonymous_bytes"] > 0 for phase in there["phases"])
    assert there["environment"]["machine"] == "aarch64"
    assert there["environment"]["runtime"] == environment.pins[0].replace("==", " ")
    assert len(there["step_losses"]) == 18
    np.testing.assert_allclose(there["step_losses"], here["step_losses"], rtol=0, atol=1e-3)
    assert there["after"]["accuracy"] > there["before"]["accuracy"]
    for moment in ("before", "after"):
        assert there[moment]["accuracy"] == pytest.approx(here[moment]["accuracy"], abs=1e-3)
    # The same layers for the same reason: every b1 of every batch.
    choices = [
        [(row["layer"], row["picked"], row["b1_by_batch"]) for row in report["selection"]["table"]]
        for report in (there, here)
    ]
    assert choices[0] == choices[1]


# ---- what is installed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", RECIPE.environments, ids=lambda environment: environment.name)
def test_what_an_environment_holds(device: Device, environment: Environment) -> None:
    program = (
        "import importlib.metadata as m, importlib.util as u, json, os, platform, sys\n"
        "names = {d.metadata['Name']: d.version for d in m.distributions()}\n"
        "print(json.dumps([os.getuid(), platform.machine(), names, u.find_spec('numba') is None, sys.prefix]))"
    )
    done = device.run(environment.python, "-c", program, user="shell:shell").succeeded()
    user, machine, versions, no_numba, prefix = json.loads(done.stdout)
    assert (user, machine, no_numba, prefix) == (2000, "aarch64", True, environment.place)
    runtime, version = environment.pins[0].split("==")
    assert versions[runtime] == version
    assert versions["numpy"].startswith("1." if environment == TFLITE214 else "2.")
    assert {"pip", "pillow", "flatbuffers", "tflite"} <= versions.keys()


def test_nothing_of_this_machine_is_installed() -> None:
    machines = {environment.name: set[int]() for environment in RECIPE.environments}
    for environment in RECIPE.environments:
        for path in (LAB.root / environment.place.lstrip("/")).rglob("*"):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    start = file.read(20)
                if start.startswith(ELF):
                    machines[environment.name].add(int.from_bytes(start[18:20], "little"))
    assert machines == {"litert": {AARCH64}, "tflite214": {AARCH64}}


def test_users_and_folders(device: Device) -> None:
    listed = device.run("stat", "-c", "%a %U %G", "/data/local/tmp").succeeded()
    assert listed.stdout == "771 shell shell\n"
    assert device.run("id", "-u", "shell").succeeded().stdout == "2000\n"
    assert device.run("test", "-x", "/usr/sbin/dropbear", "-a", "-x", "/usr/lib/openssh/sftp-server").code == 0


# ---- exec ------------------------------------------------------------------------------------------------------------


def lab_mounts() -> list[str]:
    return [line for line in Path("/proc/mounts").read_text().splitlines() if str(LAB.folder) in line]


def command_lines() -> list[bytes]:
    """Of every process, its arguments, each ended by a zero."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            lines.append(path.read_bytes())
    return lines


def wait_until_gone(marker: str) -> None:
    deadline = time.monotonic() + 10
    while any(marker.encode() in line for line in command_lines()):
        assert time.monotonic() < deadline, f"{marker} still runs"
        time.sleep(0.05)


def test_exec_hands_on_arguments_exit_codes_and_streams() -> None:
    done = finish(exec_command(["sh", "-c", 'echo "$@"; echo "$QEMU_CPU" >&2; exit 9', "sh", "a", "--", "-b"]))
    assert (done.code, done.stdout) == (9, "a -- -b\n")
    assert done.stderr.endswith(f"{os.environ.get('QEMU_CPU', 'cortex-a72')}\n")
    assert finish(exec_command(["sh", "-c", "kill -9 $$"])).code == 128 + 9
    assert finish(exec_command(["no-such-program"])).code == 127


def test_exec_mounts_for_itself_alone(device: Device) -> None:
    seen = device.run("sh", "-c", "ls /proc/self/fd /dev/null /dev/pts && head -c 8 /dev/urandom | wc -c")
    assert seen.succeeded().stdout.endswith("8\n")
    assert "CPU part\t: 0xd08" in device.run("cat", "/proc/cpuinfo").succeeded().stdout
    assert device.run("cat", "/proc/1/cmdline").succeeded().stdout.count("tests.device.lab") == 1
    assert lab_mounts() == []
    assert list((LAB.root / "proc").iterdir()) == []


def test_a_small_disk_fills_up() -> None:
    place = "/data/local/tmp"
    write = f"ls -ld {place}; head -c 2M /dev/zero > {place}/file"
    done = finish(exec_command(["chroot", str(LAB.root), "sh", "-c", write], tmpfs=[f"{place}:1m"]))
    assert done.stdout.startswith("drwxrwx--x 2 shell shell ")
    assert done.code != 0
    assert os.strerror(errno.ENOSPC) in done.stderr
    assert not (LAB.root / place.lstrip("/") / "file").exists()
    outside = finish(exec_command(["true"], tmpfs=["/../../tmp:1m"]))
    assert outside.code == 7
    assert "no such folder inside" in outside.stderr


def test_what_the_command_leaves_running_ends_with_it() -> None:
    marker = "86413.25"
    finish(exec_command(["sh", "-c", f"setsid sleep {marker} & sleep 0.3"])).succeeded()
    wait_until_gone(marker)


# Not SIGINT, which a shell has ignored in all that it starts in the background.
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_signals_end_the_command(number: signal.Signals) -> None:
    marker = f"8641{number}.5"
    process = subprocess.Popen(exec_command(["sleep", marker]), cwd=PROJECT, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while f"sleep\0{marker}\0".encode() not in command_lines():  # the command itself, not what is about to start it
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(TIMEOUT_S) == (-number if number == signal.SIGKILL else 128 + number)
    wait_until_gone(marker)
