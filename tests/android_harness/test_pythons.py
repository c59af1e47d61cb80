"""Which Pythons of a device are found, how they are started, what is asked for them, and what is said of the others."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path

import pytest

from android_harness import session as sessions
from android_harness.doctor import Diagnosis, diagnose, render
from android_harness.errors import DeviceAnswerError, DeviceError, MissingPackageError, WrongAbiError
from android_harness.facts import parse_facts
from android_harness.link import Output
from android_harness.places import AdbPlace, Place
from android_harness.pythons import Python, best_problem, choose, examine, find_pythons
from android_harness.session import Address, Session
from android_harness.setting_up import parse_pins, platforms, requirements, set_up
from signatures.errors import CapabilityError, UsageError
from tests.android_harness.device import Connected, Device

ODD = """it's "a" $HOME; & (folder)"""
READY = {
    "python": "3.11.2",
    "machine": "aarch64",
    "pointer_bits": 64,
    "libc": "glibc 2.36",
    "packages": {
        "numpy": "2.4.6",
        "flatbuffers": "24.3.25",
        "tflite": "2.18.0",
        "ai-edge-litert": "2.3.0",
        "tflite-runtime": None,
    },
    "interpreters": [{"module": "ai_edge_litert.interpreter", "imports": True, "problem": None}],
}
BARE = {**READY, "packages": dict.fromkeys(("numpy", "flatbuffers", "tflite")), "interpreters": []}
PROOT = """
[ "$1 $2" = "login debian" ] || exit 1
for word; do echo "$word"; done >"{inside}/words"
while [ "$1" != -- ]; do shift; done
shift
PATH={inside}/bin:$PATH exec "$@"
"""
RUN_AS = """
[ "$1" = com.termux ] || { echo "run-as: unknown package: $1"; exit 1; }
[ -f /proc/self/fd/1 ] && exec >/dev/null # as SELinux does
shift
exec "$@"
"""
TERMUX_HOME = "/data/data/com.termux/files/home"


def answer(told: dict[str, object]) -> str:
    """What a Python says of itself, as a command's script."""
    return f"cat <<'EOF'\n{json.dumps(told)}\nEOF"


def inside(device: Device) -> Device:
    """Commands that are on the PATH inside proot only."""
    return Device(device.folder / "inside", device.keys)


def with_proot(device: Device) -> None:
    inside(device).folder.mkdir(exist_ok=True)
    device.command("proot-distro", PROOT.replace("{inside}", str(inside(device).folder)))


def put(path: Path, told: dict[str, object]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{answer(told)}\n")
    path.chmod(0o755)
    return str(path)


def address(connected: Connected, home: Path) -> Address:
    return Address(connected.serial, connected.device.keys, 5, 30, str(home), "root")


@pytest.fixture(scope="module")
def device_session(connected: Connected) -> Iterator[Session]:
    home = connected.device.home / ODD
    home.mkdir()
    with sessions.connected(address(connected, home)) as session:
        yield session


@pytest.fixture
def session(device_session: Session, connected: Connected) -> Iterator[Session]:
    """A device with no commands of its own, whose folder has an odd name."""
    yield device_session
    for folder in ("bin", "inside"):
        shutil.rmtree(connected.device.folder / folder, ignore_errors=True)
    for name in ("env", "env-proot"):
        shutil.rmtree(Path(device_session.work) / name, ignore_errors=True)


# ---- which are found -------------------------------------------------------------------------------------------------


def test_their_order(session: Session, connected: Connected) -> None:
    device = connected.device
    ours = put(Path(session.work) / "env" / "bin" / "python", BARE)
    on_path = [str(device.command(name, answer(READY))) for name in ("python3", "python")]
    found = list(find_pythons(session, session.adb))
    assert [python.interpreter for python in found[:3]] == [ours, *on_path]
    assert [python.interpreter for python in found].count("/usr/bin/python3") == os.access("/usr/bin/python3", os.X_OK)
    assert {python.prefix for python in found} == {()}
    assert choose(session, None, None)[1] == found[1]


def test_what_is_no_python(session: Session, connected: Connected) -> None:
    connected.device.command("python3", "echo 'Python 2.7'; exit 1")
    assert "python3" not in [Path(p.interpreter).name for p in find_pythons(session, session.adb, "python3")]
    connected.device.command("garbled", "echo welcome")
    with pytest.raises(DeviceAnswerError, match="garbled answered 'welcome'"):
        list(find_pythons(session, session.adb, "garbled"))


class Bare(AdbPlace):
    """adb's user with hardly anything on the PATH."""

    before = "unset PATH"

    def shell(self, command: str, timeout_s: float = 30.0) -> Output:
        return super().shell(f"{self.before}\n{command}", timeout_s)


@pytest.mark.skipif(not os.access("/usr/bin/python3", os.X_OK), reason="this machine has no Python there")
@pytest.mark.parametrize("before", ["unset PATH", "PATH=$HOME/few", "PATH="])
def test_a_path_that_leads_nowhere(session: Session, connected: Connected, before: str) -> None:
    few = connected.device.home / "few"
    few.mkdir(exist_ok=True)
    place = Bare(session.link)
    place.before = before
    assert [python.interpreter for python in find_pythons(session, place)][:1] == ["/usr/bin/python3"]


def test_in_debians_proot(session: Session, connected: Connected) -> None:
    device = connected.device
    with_proot(device)
    outside = str(device.command("python3", answer(BARE)))
    ours = put(Path(session.work) / "env-proot" / "bin" / "python", READY)
    theirs = str(inside(device).command("python3", answer(READY)))
    prefix = ("proot-distro", "login", "debian", "--bind", f"{session.work}:{session.work}", "--")
    found = list(find_pythons(session, session.adb))
    assert (found[0].prefix, found[0].interpreter) == ((), outside)
    (first, second, *_) = [python for python in found if python.prefix]
    assert (first.prefix, first.interpreter) == (prefix, ours)
    assert first.command == (*prefix, ours)
    assert second.interpreter == theirs
    assert (inside(device).folder / "words").read_text().startswith("\n".join(prefix[1:]) + "\n")
    assert choose(session, "adb", None)[1] == first


def test_a_proot_without_debian(session: Session, connected: Connected) -> None:
    connected.device.command("proot-distro", "echo \"/data: 'debian' is not installed\"; exit 1")
    assert {python.prefix for python in find_pythons(session, session.adb)} <= {()}


def test_one_that_is_named(session: Session, connected: Connected) -> None:
    device = connected.device
    odd = put(device.folder / ODD / "python", READY)
    inside(device).command("only-inside", answer(READY))
    assert [python.command for python in find_pythons(session, session.adb, odd)] == [(odd,)]
    assert list(find_pythons(session, session.adb, "only-inside")) == []
    with_proot(device)
    assert [python.command for python in find_pythons(session, session.adb, odd)] == [(odd,)]
    (found,) = find_pythons(session, session.adb, "only-inside")
    assert (found.prefix[0], found.interpreter) == ("proot-distro", "only-inside")
    with pytest.raises(MissingPackageError, match="no Python found at /nowhere/python"):
        choose(session, "adb", "/nowhere/python")


def test_in_termux_by_run_as(session: Session, connected: Connected) -> None:
    """A Python that has all only in Termux' environment, into which `run-as` leads."""
    device = connected.device
    device.command("run-as", RUN_AS)
    there = device.command("python", f'if [ "$HOME" = {TERMUX_HOME} ]; then\n{answer(READY)}\nelse\n{answer(BARE)}\nfi')
    with pytest.raises(MissingPackageError, match="numpy is missing"):
        choose(session, None, "python")  # Termux is not installed
    device.command("pm", '[ "$*" = "path com.termux" ] && echo package:/data/app/base.apk')
    Path(session.work).chmod(0o700)
    place, python = choose(session, None, None)
    assert (place.name, python.place, python.command) == ("run-as", "run-as", (str(there),))
    assert stat.S_IMODE(Path(session.work).stat().st_mode) == 0o755  # its user has to read our scripts


def test_files_of_termux(session: Session, connected: Connected, tmp_path: Path) -> None:
    connected.device.command("run-as", RUN_AS)
    place = session.place("run-as")
    (tmp_path / ODD).write_bytes(bytes(range(256)) * 1000)
    place.fetch(f"{tmp_path}/{ODD}", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / ODD).read_bytes()
    with pytest.raises(DeviceAnswerError, match="nowhere: No such file"):
        place.fetch("/nowhere", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert list(Path(session.work, "staging").iterdir()) == []


def test_proot_behind_run_as(session: Session, connected: Connected) -> None:
    device = connected.device
    device.command("run-as", RUN_AS)
    with_proot(device)
    inside(device).command(ODD, answer(READY))
    (found,) = find_pythons(session, session.place("run-as"), ODD)
    assert (found.place, found.prefix[0], found.interpreter) == ("run-as", "proot-distro", ODD)


def test_termux_that_lets_nobody_in(session: Session, connected: Connected) -> None:
    connected.device.command("run-as", "echo 'run-as: package not debuggable: com.termux'; exit 1")
    with pytest.raises(CapabilityError, match="package not debuggable"):
        choose(session, "run-as", None)


# ---- places are left -------------------------------------------------------------------------------------------------


class Counting(AdbPlace):
    """A place that breaks, and counts how often it is closed."""

    closed = 0

    def shell(self, command: str, timeout_s: float = 30.0) -> Output:
        if "python_facts" in command:
            raise DeviceAnswerError("broke")
        return super().shell(command, timeout_s)

    def close(self) -> None:
        self.closed += 1


class Broken(Session):
    """A device whose every place is one that breaks."""

    def place(self, name: str) -> Place:
        place: Place = self.adb
        return place


def test_a_place_that_breaks_is_closed(session: Session) -> None:
    place = Counting(session.link)
    broken = Broken(session.link, place, session.work, session.address)
    with pytest.raises(DeviceAnswerError, match="broke"):
        choose(broken, "adb", "python3")
    assert place.closed == 1
    diagnosis = diagnose(broken, ("adb",), "python3")
    assert place.closed == 2
    assert str(diagnosis.closed["adb"]) == "broke"
    failure = diagnosis.failure()
    assert failure is diagnosis.closed["adb"]
    assert diagnosis.document()["closed"] == {"adb": "broke"}


# ---- what they need --------------------------------------------------------------------------------------------------

PYTHON = Python(
    place="adb",
    prefix=(),
    interpreter="/usr/bin/python3",
    version="3.11.2",
    machine="aarch64",
    pointer_bits=64,
    libc="glibc 2.36",
    runtime=None,
    packages={},
    problems=("numpy is missing",),
    wrong_abi=False,
)
PI_4_OF_32_BITS = replace(PYTHON, pointer_bits=32)
ARMV7 = replace(PYTHON, machine="armv7l", pointer_bits=32)
X86_64 = replace(PYTHON, machine="x86_64")


def runtimes(python: Python, *pins: str) -> list[str]:
    asked = requirements(python, parse_pins(pins))
    assert any(one.startswith("flatbuffers") for one in asked)
    return sorted(one for one in asked if one.startswith(("ai-edge-litert", "tflite-runtime")))


@pytest.mark.parametrize("python", [PYTHON, X86_64], ids=["aarch64", "x86_64"])
def test_wheels_for_64_bits(python: Python) -> None:
    assert runtimes(python) == ["ai-edge-litert!=2.1.2,>=2.0.3"]
    assert runtimes(python, "ai-edge-litert==2.1.4") == ["ai-edge-litert==2.1.4"]
    assert runtimes(python, "AI_Edge.LiteRT==2.1.4") == []  # the same, in another spelling
    assert runtimes(python, "tflite-runtime==2.14.0") == ["tflite-runtime==2.14.0"]
    tags = platforms(python)
    assert tags[0] == f"manylinux_2_36_{python.machine}"
    assert tags[-3:] == (
        f"manylinux_2_17_{python.machine}",
        f"manylinux2014_{python.machine}",
        f"linux_{python.machine}",
    )


@pytest.mark.parametrize(
    "python", [PI_4_OF_32_BITS, ARMV7, replace(ARMV7, machine="armv8l")], ids=["aarch64", "armv7l", "armv8l"]
)
def test_wheels_for_32_bits(python: Python) -> None:
    """The machine is the userland's, whatever the kernel is."""
    assert python.userland == "armv7l"
    assert runtimes(python) == ["tflite-runtime==2.14.0"]
    assert "numpy<2" in requirements(python, ())
    assert runtimes(replace(python, version="3.12.1")) == []
    tags = platforms(python)
    assert (tags[0], tags[-1]) == ("manylinux_2_36_armv7l", "linux_armv7l")


@pytest.mark.parametrize(
    "python",
    [*(replace(PYTHON, libc=libc) for libc in (None, "libc", "glibc")), replace(X86_64, pointer_bits=32)],
    ids=["no libc", "bionic", "glibc of no version", "i686"],
)
def test_no_wheels_at_all(python: Python) -> None:
    with pytest.raises(WrongAbiError, match=r"no wheels for .* docs/devices\.md"):
        platforms(python)


@pytest.mark.parametrize("pin", ["==", "", "ai-edge-litert=2", "--index-url=http://x", "a b"])
def test_pins_that_are_none(session: Session, pin: str) -> None:
    with pytest.raises(UsageError, match="--pin"):
        set_up(session, session.adb, None, [pin])


# ---- what is said ----------------------------------------------------------------------------------------------------


def read(session: Session, connected: Connected, told: dict[str, object]) -> Python:
    python = examine(session, session.adb, (), str(connected.device.command("a_python", answer(told))))
    assert python is not None
    return python


def test_what_is_missing(session: Session, connected: Connected) -> None:
    assert read(session, connected, READY).problems == ()
    python = read(session, connected, {**BARE, "python": "3.9.2"})
    assert python.problems == (
        "Python 3.9.2 is too old, 3.10 is needed",
        "numpy is missing",
        "flatbuffers is missing",
        "tflite is missing",
        "an interpreter (ai-edge-litert or tflite-runtime) is missing",
    )
    problem = python.problem()
    assert isinstance(problem, MissingPackageError)
    assert "`python -m android_harness setup --place adb` makes an environment for it" in str(problem)
    broken = [{"module": "ai_edge_litert.interpreter", "imports": False, "problem": "ended by SIGILL"}]
    alien = read(session, connected, {**READY, "interpreters": broken})
    assert alien.problems == ("ai-edge-litert 2.3.0 does not load: ended by SIGILL",)
    assert isinstance(alien.problem(), WrongAbiError)


def test_what_helps() -> None:
    in_proot = replace(PYTHON, place="run-as", prefix=("proot-distro", "login", "debian", "--"))
    assert "setup --place run-as --python /usr/bin/python3`" in in_proot.remedy
    termux = replace(PYTHON, place="ssh", interpreter="/data/data/com.termux/files/usr/bin/python")
    assert termux.is_termux
    assert "setup_termux.sh" in termux.remedy
    assert not replace(in_proot, interpreter=f"{TERMUX_HOME}/.adabet/env-proot/bin/python").is_termux
    for python in (ARMV7, PI_4_OF_32_BITS):
        assert 'docs/devices.md, "32-bit, armv7"' in python.remedy


def test_the_section_that_messages_name() -> None:
    lines = (Path(__file__).parents[2] / "docs" / "devices.md").read_text().splitlines()
    assert "## 32-bit, armv7" in lines
    assert "## Debian in Termux" in lines


def test_the_best_problem() -> None:
    worse = replace(PYTHON, interpreter="/worse", problems=("numpy is missing", "tflite is missing"))
    closed = CapabilityError("run-as refused")
    assert str(best_problem([worse, PYTHON], [closed], None)).startswith("/usr/bin/python3 (adb): numpy is missing. ")
    assert best_problem([], [closed], None) is closed
    nothing = best_problem([], [], "/odd/python")
    assert isinstance(nothing, MissingPackageError)
    assert str(nothing).startswith("no Python found at /odd/python. ")


def test_a_diagnosis() -> None:
    refused = CapabilityError("run-as refused")
    diagnosis = Diagnosis("serial", "/work", parse_facts(""), (), {"run-as": refused}, None, ("adb",))
    assert isinstance(diagnosis.failure(), MissingPackageError)  # no Termux: nobody hoped for run-as
    assert replace(diagnosis, hoped=("adb", "run-as")).failure() is refused
    lacking = replace(diagnosis, pythons=(PYTHON,))
    assert str(lacking.failure()).startswith("/usr/bin/python3 (adb): numpy is missing")
    assert replace(lacking, pythons=(PYTHON, replace(PYTHON, problems=()))).failure() is None
    told = json.loads(json.dumps(lacking.document()))
    assert told["closed"] == {"run-as": "run-as refused"}
    assert (told["pythons"][0]["prefix"], told["pythons"][0]["interpreter"]) == ([], "/usr/bin/python3")
    assert "closed run-as: run-as refused" in render(lacking)


# ---- setup -----------------------------------------------------------------------------------------------------------

WHEELS = {
    "ai_edge_litert-2.3.0": {"ai_edge_litert/__init__.py": "", "ai_edge_litert/interpreter.py": ""},
    "numpy-2.0.0": {"numpy.py": ""},
    "flatbuffers-24.3.25": {"flatbuffers.py": ""},
    "tflite-2.18.0": {"tflite.py": ""},
    "pillow-10.0.0": {"PIL.py": ""},
}


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the whole of PyPI: packages that hold nothing, and pip itself."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name, files in WHEELS.items():
        package, version = name.split("-")
        info = {
            "METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n",
            "WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        files = {**files, **{f"{name}.dist-info/{file}": text for file, text in info.items()}}
        record = "".join(f"{file},,\n" for file in [*files, f"{name}.dist-info/RECORD"])
        with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
            for file, text in {**files, f"{name}.dist-info/RECORD": record}.items():
                wheel.writestr(file, text)
    pip = distribution("pip")
    with zipfile.ZipFile(folder / f"pip-{pip.version}-py3-none-any.whl", "w") as wheel:
        for path in pip.files or ():
            if path.parts[0].startswith("pip") and path.suffix != ".pyc":
                wheel.write(str(path.locate()), path.as_posix())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_setup_inside_proot(device: Device, wheels: Path) -> None:
    """The environment is made, filled and afterwards found where its Python lives."""
    with device.on() as connected, sessions.connected(address(connected, device.home)) as session:
        with_proot(device)
        inside(device).command("debians-python", f'echo "$@" >>{device.folder}/calls; exec {sys.executable} "$@"')
        made = set_up(session, session.adb, "debians-python", ["ai-edge-litert==2.3.0"])
        assert (made.prefix[0], made.interpreter) == ("proot-distro", f"{session.work}/env-proot/bin/python")
        assert (made.problems, made.packages["numpy"], made.runtime) == ((), "2.0.0", "ai-edge-litert 2.3.0")
        assert "-m venv" in (device.folder / "calls").read_text()
        assert not (Path(session.work) / "inputs" / "wheels").exists()
        assert choose(session, "adb", None)[1] == made

        (wheels / "numpy-2.0.0-py3-none-any.whl").unlink()
        with pytest.raises(WrongAbiError, match=r"no wheels for .*numpy"):
            set_up(session, session.adb, "debians-python", ["ai-edge-litert==2.3.0"])
        assert choose(session, "adb", None)[1] == made


def test_no_python_to_set_up(session: Session) -> None:
    with pytest.raises(DeviceError, match=r"no Python 3\.10 or newer in adb at /nowhere/python"):
        set_up(session, session.adb, "/nowhere/python", [])
