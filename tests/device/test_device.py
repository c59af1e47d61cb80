"""The harness against a device in a box: adb-shell, our ADB daemon, an arm64 Debian that QEMU emulates, both runtimes.

Slow: `make test-device` runs it, and fails where the lab is missing.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import paramiko
import pytest

from android_harness.link import Link
from tests.device.adb_daemon.process import Daemon
from tests.device.lab.build import emulated_cpu
from tests.device.lab.layout import LAB, LITERT, PROJECT, TFLITE214, Environment, exec_command
from tests.end_to_end.commands import Commands, Finished
from tests.end_to_end.conftest import read_report
from tests.oracles.other_runtime import tflite214_python

pytestmark = pytest.mark.slow

TIMEOUT_S = 3600
"""Of a command that hangs: QEMU is slow, the more so on a machine with other work."""
IMAGE = 48
MOBILENET = ("--epochs", 4, "--batch", 16, "--seed", 0, "--threads", 2)
TINY = ("--epochs", 2, "--batch", 8, "--threads", 1)
EQUAL = 1e-3


@dataclass(frozen=True)
class Box:
    """The device that is on, at `serial`, and the harness for it. home: of the host's user."""

    serial: str
    keys: Path
    home: Path

    def link(self) -> Link:
        """A connection to it."""
        return Link(self.serial, self.keys, 5, 30)

    def harness(self, command: str, *arguments: object) -> Finished:
        """`python -m android_harness …` in a fresh process; options of adapt come behind "--"."""
        words = [str(word) for word in arguments]
        at = words.index("--") if "--" in words else len(words)
        line = [sys.executable, "-m", "android_harness", command, *words[:at], "--serial", self.serial]
        done = subprocess.run(
            [*line, "--keys", str(self.keys), *words[at:]], cwd=PROJECT, stdin=subprocess.DEVNULL, check=False,
            capture_output=True, text=True, timeout=TIMEOUT_S, env={"PATH": "/usr/bin:/bin", "HOME": str(self.home)},
        )  # fmt: skip
        return Finished(done.returncode, done.stdout, done.stderr)


@contextmanager
def switched_on(keys: Path, home: Path, through: Callable[[Sequence[str]], Sequence[str]]) -> Iterator[Box]:
    # The daemon gives its shells nothing of its own environment; QEMU's default processor is several times slower.
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "QEMU_CPU": emulated_cpu()}
    with Daemon(keys=keys / "adbkey.pub", root=LAB.root, env=environment, through=through) as daemon:
        yield Box(f"127.0.0.1:{daemon.port}", keys, home)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The host's user: ssh keys, nothing else."""
    folder = tmp_path_factory.mktemp("home")
    (folder / ".ssh").mkdir(mode=0o700)
    key = paramiko.ECDSAKey.generate()
    key.write_private_key_file(str(folder / ".ssh" / "id_ecdsa"))
    (folder / ".ssh" / "id_ecdsa.pub").write_text(f"{key.get_name()} {key.get_base64()}\n")
    return folder


@pytest.fixture(scope="module")
def box(keys: Path, home: Path) -> Iterator[Box]:
    """The device with a disk of its own for what the harness puts there, which is gone with the device."""
    with switched_on(keys, home, partial(exec_command, tmpfs=["/data/local/tmp:2g"])) as box:
        yield box


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """Commands of this machine."""
    return Commands(tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module")
def digits(host: Commands) -> Path:
    """64 handwritten digits to learn, 60 to test."""
    everything, out = host.folder / "all_digits", host.folder / "digits"
    host.converter("digits", everything, "--image", IMAGE).succeeded()
    for split, count in (("train", 64), ("test", 60)):
        (out / split).mkdir(parents=True)
        for name in ("images.npy", "labels.npy"):
            np.save(out / split / name, np.load(everything / split / name, mmap_mode="r")[:count])
    shutil.copy(everything / "classes.json", out)
    return out


@pytest.fixture(scope="module")
def mobilenet(host: Commands) -> Path:
    """MobileNetV2 with ImageNet weights."""
    out = host.folder / "mobilenet"
    host.converter(
        "export", "mobilenetv2", "--weights", "package", "--image", IMAGE, "--rho", 0.1, "--out", out
    ).succeeded()
    return out


def picked(report: dict) -> list[str]:
    return [row["layer"] for row in report["selection"]["table"] if row["picked"]]


@pytest.mark.parametrize("environment", [LITERT, TFLITE214], ids=lambda environment: environment.name)
def test_a_real_network_adapts_as_it_does_here(
    box: Box, host: Commands, mobilenet: Path, digits: Path, tmp_path: Path, environment: Environment
) -> None:
    out = tmp_path / "out"
    given = ("--place", "adb", "--python", environment.python, "--out", out, "--", *MOBILENET)
    done = box.harness("run", mobilenet, digits, *given).succeeded()
    there = read_report(out / "run1")
    assert there["environment"]["machine"] == "aarch64"
    assert there["environment"]["runtime"].startswith(environment.pins[0].split("==")[0])

    here = host.on(tflite214_python()) if environment is TFLITE214 else host
    run = tmp_path / "here"
    here.adapt(mobilenet, "--data", digits, "--out", run, *MOBILENET).succeeded()
    ours = read_report(run)
    assert picked(there) == picked(ours)
    losses, expected = np.array(there["step_losses"]), np.array(ours["step_losses"])
    accuracies = there["after"]["accuracy"], ours["after"]["accuracy"]
    with np.load(out / "run1" / "weights.npz") as theirs, np.load(run / "weights.npz") as weights:
        assert set(theirs) == set(weights)
        apart = max(float(np.abs(theirs[name] - weights[name]).max()) for name in weights)
    seconds = json.loads((out / "profile.json").read_text())["repeats"][0]["seconds"]
    print(
        f"\n{environment.name}: {len(losses)} losses within {np.abs(losses - expected).max():.1e}, weights within "
        f"{apart:.1e}, test accuracy {accuracies[0]:.3f} there and {accuracies[1]:.3f} here, {seconds:.0f} s there"
    )
    np.testing.assert_allclose(losses, expected, atol=EQUAL)
    assert accuracies[0] == pytest.approx(accuracies[1], abs=EQUAL)
    assert there["after"]["loss"] == pytest.approx(ours["after"]["loss"], abs=EQUAL)
    assert "epoch 4: loss" in done.stderr


def test_the_doctor_knows_what_it_is(box: Box) -> None:
    diagnosis = json.loads(box.harness("doctor", "--place", "adb", "--python", LITERT.python, "--json").stdout)
    device = diagnosis["device"]
    assert diagnosis["work"] == "/data/local/tmp/adabet"
    assert (device["kind"], device["abis"], device["userland_bits"]) == ("linux", ["aarch64"], 64)
    assert device["cores"][0]["name"] == "Cortex-A72"
    assert "Debian GNU/Linux 12" in device["system"]
    assert diagnosis["pythons"][0]["problems"] == []

    without = box.harness("doctor", "--place", "adb")
    assert without.code == 18
    assert "numpy is missing" in without.stderr


def test_setup_makes_an_environment_that_run_then_finds(box: Box, bundle: Path, pictures: Path, tmp_path: Path) -> None:
    done = box.harness("setup", "--place", "adb").succeeded()
    assert "ai-edge-litert" in done.stdout
    assert "/data/local/tmp/adabet/env/bin/python" in done.stdout
    box.harness("run", bundle, pictures, "--out", tmp_path / "out", "--", *TINY).succeeded()
    assert read_report(tmp_path / "out" / "run1")["environment"]["machine"] == "aarch64"
    box.harness("restore").succeeded()
    refused = box.harness("setup", "--place", "adb", "--pin", "ai-edge-litert==0.0.1")
    assert refused.code == 17
    assert "no wheels for aarch64" in refused.stderr


def test_by_ssh_through_adb(box: Box, bundle: Path, pictures: Path, tmp_path: Path) -> None:
    """As into Termux: the daemon forwards a port of the device, on which its sshd listens."""
    given = ("--place", "ssh", "--python", LITERT.python, "--out", tmp_path / "out", "--", *TINY)
    closed = box.harness("run", bundle, pictures, *given)
    assert closed.code == 18
    assert "nothing listens on port 8022" in closed.stderr

    start_sshd(box)
    shutil.rmtree(tmp_path / "out")
    box.harness("run", bundle, pictures, *given).succeeded()
    profile = json.loads((tmp_path / "out" / "profile.json").read_text())
    assert profile["place"] == "ssh"
    assert profile["repeats"][0]["outside"]["peak_bytes"] > 1 << 24
    box.harness("restore").succeeded()
    assert not (LAB.root / "root" / ".adabet").exists()


def start_sshd(box: Box) -> None:
    public = (box.home / ".ssh" / "id_ecdsa.pub").read_text().strip()
    with box.link() as link:
        link.checked(
            f"mkdir -p ~/.ssh && chmod 700 ~ ~/.ssh && echo '{public}' > ~/.ssh/authorized_keys && "
            "chmod 600 ~/.ssh/authorized_keys && "
            "rm -f /tmp/hostkey && dropbearkey -t ed25519 -f /tmp/hostkey && "
            "dropbear -r /tmp/hostkey -p 127.0.0.1:8022 -P /tmp/dropbear.pid </dev/null >/dev/null 2>&1",
            timeout_s=300,
        )  # it goes to the background when it listens


class TestAFullDevice:
    @pytest.fixture
    def small(self, keys: Path, home: Path) -> Iterator[Box]:
        with switched_on(keys, home, partial(exec_command, tmpfs=["/data/local/tmp:6m"])) as box:
            yield box

    def test_is_told_before_anything_is_sent(self, small: Box, mobilenet: Path, digits: Path) -> None:
        done = small.harness("push", mobilenet, digits)
        assert done.code == 13
        assert "MiB are needed" in done.stderr
        small.harness("restore").succeeded()

    def test_is_told_of_a_run_that_fills_it(self, small: Box, bundle: Path, pictures: Path, tmp_path: Path) -> None:
        # The run is let in with what little is left, and finds it too little for its own files.
        given = ("--place", "adb", "--python", LITERT.python, "--out", tmp_path / "out", "--", *TINY)
        small.harness("push", bundle, pictures).succeeded()
        fill(small, leaving_kib=40)
        done = small.harness("run", bundle, pictures, *given)
        assert done.code == 13, done.stderr
        assert "no room is left in /data/local/tmp" in done.stderr
        small.harness("restore").succeeded()


def fill(box: Box, leaving_kib: int) -> None:
    with box.link() as link:
        link.checked(
            "cd /data/local/tmp && free=$(df -k . | tail -n 1 | awk '{print $4}') && "
            f"head -c $(((free - {leaving_kib}) * 1024)) /dev/zero > filling"
        )
