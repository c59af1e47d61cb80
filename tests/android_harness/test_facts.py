"""facts.sh, run for real under every shell that is here, and what is made of what it prints."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import android_harness
from android_harness.conditions import Conditions, concerns, notes, parse_conditions, sections
from android_harness.facts import Core, DeviceFacts, parse_facts
from android_harness.parsers.battery import Battery
from android_harness.parsers.cpu import Policy
from android_harness.parsers.memory import Paging, Zram
from android_harness.parsers.system import Kernel
from android_harness.parsers.thermal import Temperature, parse_thermalservice, parse_throttled
from tests.android_harness.declared import fits

SCRIPT = Path(android_harness.__file__).with_name("facts.sh")
FIXTURES = Path(__file__).parent / "fixtures"
SHELLS = {
    "sh": ["/bin/sh"],
    "mksh": ["mksh"],  # what Android has
    "busybox": ["busybox", "sh"],
    "bash": ["bash", "--posix"],
}


def text(name: str) -> str:
    return (FIXTURES / f"{name}.txt").read_bytes().decode()


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> list[str]:
    """Each shell that is installed."""
    command = SHELLS[request.param]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    return command


def output(shell: Sequence[str], script: Path, what: str, path: str | None = None) -> str:
    environment = {**os.environ, "PATH": path or os.environ["PATH"]}
    done = subprocess.run([*shell, script, what], capture_output=True, env=environment, timeout=60, check=True)
    assert done.stderr == b""
    return done.stdout.decode()


# ---- this machine ----------------------------------------------------------------------------------------------------


def test_facts_of_this_machine(shell: list[str]) -> None:
    facts = parse_facts(output(shell, SCRIPT, "facts"))
    uname = os.uname()
    assert facts.complete
    assert facts.kind == "linux"
    assert facts.kernel == Kernel(uname.sysname, uname.release, uname.machine)
    assert facts.abis == (uname.machine,)
    assert facts.userland_bits == int(platform.architecture()[0].removesuffix("bit"))
    assert len(facts.cores) == os.sysconf("SC_NPROCESSORS_CONF")
    assert facts.memory.total_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = facts.conditions.available_bytes
    assert available is not None
    assert 0 < available <= facts.memory.total_bytes
    assert facts.system == platform.freedesktop_os_release()["PRETTY_NAME"]
    assert facts.android_version is None
    assert json.loads(json.dumps(dataclasses.asdict(facts)))["kernel"]["machine"] == uname.machine
    free = shutil.disk_usage("/tmp").free
    assert any(abs(disk.available_bytes - free) < 2**30 for disk in facts.disks)


def test_conditions_of_this_machine(shell: list[str]) -> None:
    printed = output(shell, SCRIPT, "conditions")
    conditions = parse_conditions(printed)
    assert conditions.complete
    vmstat = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    if "pswpout" in vmstat:
        assert conditions.paging.out_pages is not None
        assert conditions.paging.out_pages <= int(vmstat["pswpout"])
    assert "uname" not in sections(printed)


def test_nothing_else_is_asked_for() -> None:
    done = subprocess.run(["/bin/sh", SCRIPT, "everything"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: sh facts.sh ")


# ---- a phone and a board, put together from what real ones printed ---------------------------------------------------


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A root folder with files under sys and proc/device-tree, and commands under bin."""
    for folder in ("bin", "sys", "proc/device-tree"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def put(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def command(root: Path, name: str, script: str) -> None:
    file = root / "bin" / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def ask(shell: Sequence[str], root: Path, what: str) -> str:
    """Run facts.sh with the files and the commands of `root`."""
    script = root / "facts.sh"
    moved = (
        SCRIPT.read_text().replace("/sys/", f"{root}/sys/").replace("/proc/device-tree/", f"{root}/proc/device-tree/")
    )
    script.write_text(moved)
    return output(shell, script, what, f"{root}/bin:{os.environ['PATH']}")


CPUFREQ = "sys/devices/system/cpu/cpufreq"
PHONE = {
    f"{CPUFREQ}/policy0/related_cpus": "0 1\n",
    f"{CPUFREQ}/policy0/scaling_governor": "schedutil\n",
    f"{CPUFREQ}/policy0/scaling_min_freq": "300000\n",
    f"{CPUFREQ}/policy0/scaling_max_freq": "1209600\n",
    f"{CPUFREQ}/policy0/scaling_cur_freq": "1209600\n",
    f"{CPUFREQ}/policy0/cpuinfo_max_freq": "1900800\n",
    "sys/block/zram0/disksize": "4294967296\n",
    "sys/block/zram0/mm_stat": text("six_gb_phone/zram_mm_stat"),
}


def make_phone(root: Path) -> None:
    put(root, PHONE)
    command(root, "getprop", f"cat {FIXTURES}/moto_g75/getprop.txt; echo '[ro.serialno]: [secret]'")
    command(root, "dumpsys", f'cat {FIXTURES}/xiaomi_13t_pro/"${{3}}".txt')


def test_a_phone(shell: list[str], device: Path) -> None:
    make_phone(device)
    printed = ask(shell, device, "facts")
    facts = parse_facts(printed)
    assert "secret" not in printed
    assert (facts.kind, facts.model, facts.manufacturer) == ("android", "moto g75 5G", "motorola")
    assert facts.soc == "QTI SM6475"
    assert facts.abis == ("arm64-v8a", "armeabi-v7a", "armeabi")
    assert (facts.android_version, facts.sdk, facts.system) == (None, None, None)
    assert facts.zram == Zram(4294967296, 706387968, 167064882, 174997504)
    assert facts.cores[0].governor == "schedutil"
    assert facts.cores[0].hardware_max_khz == 1900800
    told = facts.conditions
    assert told.battery == Battery(64, 32.8, "discharging", "good", (), True)
    assert (told.thermal_status, told.thermal_status_name) == (0, "none")
    assert told.temperatures == (Temperature("CPU", 57.9, "cpu", 0), Temperature("SKIN", 34.351, "skin", 0))
    assert told.policies == (Policy("policy0", (0, 1), "schedutil", 300000, 1209600, 1209600, 1900800),)
    assert facts.throttled is None  # one reading does not tell heat from the maker
    assert facts.throttled_because == (CAPPED.format("policy0", 1209, 1900, "throughout"),)
    assert parse_conditions(ask(shell, device, "conditions")).battery == told.battery


def test_an_older_phone(shell: list[str], device: Path) -> None:
    """Android 9: a folder of cpufreq for each core, no thermal service, zones of which some refuse."""
    put(
        device,
        {
            f"sys/devices/system/cpu/cpu{core}/cpufreq/{name}": content
            for core in (0, 1)
            for name, content in {
                "related_cpus": "0 1\n",
                "scaling_max_freq": "1805000\n",
                "cpuinfo_max_freq": "1805000\n",
            }.items()
        },
    )
    put(
        device,
        {
            "sys/class/thermal/thermal_zone0/type": "soc_thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "41250\n",
            "sys/class/thermal/thermal_zone1/type": "battery\n",
            "sys/class/thermal/thermal_zone2/temp": "36000",
        },
    )
    command(device, "getprop", f"cat {FIXTURES}/gwm_head_unit/getprop.txt")
    command(device, "dumpsys", 'echo "Can\'t find service: $3" >&2; exit 20')
    facts = parse_facts(ask(shell, device, "facts"))
    assert (facts.android_version, facts.sdk, facts.build) == ("9", 28, "PQ1A.190105.004 test-keys")
    assert facts.soc == "qcom"
    assert [policy.name for policy in facts.conditions.policies] == ["cpu0"]
    assert facts.conditions.temperatures == (
        Temperature("soc_thermal", 41.25, None, None),
        Temperature("thermal_zone2", 36.0, None, None),
    )
    assert facts.conditions.battery is None
    assert facts.throttled is False


def test_a_raspberry_pi(shell: list[str], device: Path) -> None:
    put(
        device,
        {
            "proc/device-tree/model": "Raspberry Pi 3 Model B Plus Rev 1.3\0",
            "proc/device-tree/compatible": "raspberrypi,3-model-b-plus\0brcm,bcm2837\0",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "0\n",
            "sys/class/hwmon/hwmon0/name": "cpu_thermal\n",
            "sys/class/hwmon/hwmon1/name": "rpi_volt\n",
            "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "1\n",
        },
    )
    without = parse_facts(ask(shell, device, "facts"))
    assert (without.model, without.soc) == ("Raspberry Pi 3 Model B Plus Rev 1.3", "brcm,bcm2837")
    assert without.throttled_because == ("throttled: the firmware reports " + UNDER_VOLTAGE,)
    assert without.conditions.temperatures == ()
    pi = f"{FIXTURES}/raspberry_pi_3b_plus"
    command(
        device, "vcgencmd", f"case $1 in get_throttled) cat {pi}/throttled.txt ;; *) cat {pi}/measure_temp.txt ;; esac"
    )
    facts = parse_facts(ask(shell, device, "facts"))
    assert facts.conditions.temperatures == (Temperature("vcgencmd", 39.7, "soc", None),)
    assert facts.throttled is True
    assert facts.throttled_because == (
        "throttled: the firmware reports " + UNDER_VOLTAGE,
        "throttled: the firmware reports throttling",
    )


UNDER_VOLTAGE = "under-voltage: the power supply or its cable is too weak"
CAPPED = "{} was limited to {} of {} MHz {}, by its maker, a power saver or earlier heat"


def started(root: Path, what: str) -> list[str]:
    """The commands that facts.sh starts, which is what it costs a phone: its shell has none of these built in."""
    log = root / "started"
    log.write_text("")
    for name in ("cat", "df", "getconf", "grep", "sed", "uname"):
        command(root, name, f'echo {name} >>{log}; exec {shutil.which(name)} "$@"')
    ask(["/bin/sh"], root, what)
    return log.read_text().split()


def test_sensors_cost_no_process_each(device: Path) -> None:
    make_phone(device)
    command(device, "dumpsys", f"echo dumpsys >>{device}/started; exit 20")
    before = started(device, "conditions")
    assert sorted(before) == ["cat", "cat", "dumpsys", "dumpsys", "grep"]
    for zone in range(100):
        put(device, {f"sys/class/thermal/thermal_zone{zone}/{name}": "30000\n" for name in ("type", "temp")})
    for policy in range(1, 8):
        put(device, {f"{CPUFREQ}/policy{policy}/{name}": "300000\n" for name in ("scaling_max_freq", "related_cpus")})
    assert started(device, "conditions") == before
    assert len(parse_facts(ask(["/bin/sh"], device, "facts")).conditions.temperatures) == 100


# ---- what is cut or garbled ------------------------------------------------------------------------------------------


def test_what_was_printed_on_the_way_here() -> None:
    facts = parse_facts(text("lab/facts"))
    assert facts.complete
    assert facts.cores == tuple(Core(index, "Intel(R) Xeon(R) Processor", None, None) for index in (0, 1))
    assert facts.memory.total_bytes == 24684084 * 1024
    assert (facts.swaps, facts.zram) == ((), Zram(0, 0, 0, 0))
    assert facts.conditions.paging == Paging(0, 0)
    assert facts.throttled is None


@given(st.integers(0, 6000))
def test_a_cut_answer_tells_less_and_nothing_else(cut: int) -> None:
    told = text("lab/facts")
    part, whole = parse_facts(told[:cut]), parse_facts(told)
    assert part.complete == ("@@facts end@@" in told[:cut])
    for field in ("kernel", "system", "userland_bits", "memory", "disks", "cores", "swaps"):
        assert getattr(part, field) in (getattr(whole, field), getattr(parse_facts(""), field), *CUT_CORES)
    assert part.zram in (None, Zram(0, None, None, None), whole.zram)
    assert part.conditions.paging in (Paging(None, None), whole.conditions.paging)


# The cores are told twice, by cpuinfo and by the list of what is present.
CUT_CORES = (tuple(Core(index, "Intel(R) Xeon(R) Processor", None, None) for index in (0, 1)),)


def test_line_ends_do_not_matter() -> None:
    assert parse_facts(text("lab/facts").replace("\n", "\r\n")) == parse_facts(text("lab/facts"))


@given(st.text(max_size=300), st.integers(0, 6000))
def test_any_text(noise: str, at: int) -> None:
    told = text("lab/facts")
    assert parse_facts(noise) == parse_facts("")
    assert fits(parse_facts(told[:at] + noise + told[at:]), DeviceFacts)
    conditions = parse_conditions("\n@@facts battery@@\n" + noise + "\n@@facts end@@\n")
    assert fits(conditions, Conditions)
    assert dataclasses.replace(conditions, battery=None) == parse_conditions("\n@@facts end@@\n")


# ---- what speaks against a run ---------------------------------------------------------------------------------------

CALM = Conditions(None, (), None, None, (), None, Paging(None, None), None, True)


def with_limit(khz: int | None) -> Conditions:
    policy = Policy("policy4", (4, 5, 6, 7), "schedutil", 300000, khz, khz, 2419200)
    return dataclasses.replace(CALM, policies=(policy,))


def with_status(status: int) -> Conditions:
    return dataclasses.replace(with_limit(2419200), thermal_status=status)


def with_firmware(bits: int) -> Conditions:
    return dataclasses.replace(CALM, firmware=parse_throttled(f"throttled={bits:#x}"))


def with_swapped(pages: int) -> Conditions:
    return dataclasses.replace(CALM, paging=Paging(0, pages))


def test_nothing_speaks_against_a_calm_run() -> None:
    assert concerns(CALM, (), CALM, ()) == ()
    assert concerns(with_status(0), [with_status(1)], with_status(0), [0, 0]) == ()
    assert concerns(with_firmware(0x50000), [with_firmware(0x50000)], with_firmware(0x50000), ()) == ()
    assert notes(with_limit(2419200), [with_limit(2419200)], with_limit(None)) == ()


@pytest.mark.parametrize(("status", "name"), [(2, "moderate"), (3, "severe"), (6, "shutdown")])
def test_a_thermal_status(status: int, name: str) -> None:
    assert concerns(with_status(0), [with_status(status)], with_status(1), ()) == (
        f"throttled: Android's thermal status was {status} ({name})",
    )


def test_a_light_status_where_frequencies_are_not_told() -> None:
    light = dataclasses.replace(CALM, thermal_status=1)
    assert concerns(CALM, [light], CALM, ()) == (
        "perhaps throttled: Android's thermal status was 1 (light), and the frequencies are not told",
    )


def test_the_skin_of_a_phone_that_throttles_without_saying_so() -> None:
    service = parse_thermalservice(text("xiaomi_13t_pro/thermalservice_skin_severe"))
    assert service is not None
    hot = dataclasses.replace(CALM, thermal_status=service.status, temperatures=service.current)
    assert concerns(CALM, [hot], CALM, ()) == ("throttled: Android's thermal status was 3 (severe)",)


def test_a_limit_that_is_lowered() -> None:
    assert concerns(with_limit(2419200), [with_limit(1804800)], with_limit(2419200), ()) == (
        "throttled: the limit of policy4 was lowered from 2419 to 1804 MHz",
    )
    assert concerns(with_limit(1804800), [], with_limit(1708800), ())
    assert notes(with_limit(2419200), [with_limit(1804800)], with_limit(2419200)) == ()
    assert concerns(CALM, [with_limit(2419200)], with_limit(1804800), ())  # a core that was off before


def test_a_limit_that_was_there_before() -> None:
    run = with_limit(1804800), [with_limit(None)], with_limit(1804800)
    assert concerns(*run, ()) == ()
    assert notes(*run) == (CAPPED.format("policy4", 1804, 2419, "throughout"),)


def test_a_limit_that_is_raised() -> None:
    run = with_limit(1804800), [with_limit(2112000), with_limit(2419200)], with_limit(1804800)
    assert concerns(*run, ()) == ()
    assert notes(*run) == (CAPPED.format("policy4", 1804, 2419, "at first and 2419 later"),)


@pytest.mark.parametrize(
    ("bits", "words"),
    [(0x1, UNDER_VOLTAGE), (0x2, "the frequency was capped"), (0x4, "throttling"), (0x8, "the soft temperature limit")],
)
def test_the_firmware_of_a_raspberry_pi(bits: int, words: str) -> None:
    (now,) = concerns(with_firmware(0), [with_firmware(bits | bits << 16)], with_firmware(bits << 16), ())
    (between,) = concerns(with_firmware(0), [with_firmware(0)], with_firmware(bits << 16), ())
    assert now == between
    assert now.startswith(f"throttled: the firmware reports {words}")


def test_swapping() -> None:
    assert concerns(CALM, (), CALM, [0, 3 << 19, 1 << 20]) == ("swapped: up to 1.5 MiB of the process were in swap",)
    assert concerns(CALM, (), CALM, [0, 4096, 1 << 20]) == ()


def test_swapping_of_the_system() -> None:
    run = with_swapped(1000), [CALM], with_swapped(3257)
    assert concerns(*run, [0]) == ()
    assert notes(*run) == ("the system wrote 2,257 pages to swap during the run",)
    assert notes(with_swapped(1000), [], with_swapped(1256)) == ()
    assert notes(with_swapped(1000), [], with_swapped(3)) == ()  # the board was started anew
