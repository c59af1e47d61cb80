"""What the parsers read off real output; where each text is from: fixtures/SOURCES.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from android_harness.parsers import free_bytes
from android_harness.parsers.battery import Battery, parse_battery
from android_harness.parsers.cpu import Policy, parse_cpu_list, parse_cpufreq, parse_cpuinfo
from android_harness.parsers.memory import (
    AndroidMemory,
    MemInfo,
    Paging,
    ProcessMemory,
    Rollup,
    Swap,
    Zram,
    parse_dumpsys_meminfo,
    parse_meminfo,
    parse_smaps_rollup,
    parse_status,
    parse_swaps,
    parse_vmstat,
    parse_zram,
)
from android_harness.parsers.system import (
    Disk,
    Kernel,
    parse_device_tree,
    parse_df,
    parse_getprop,
    parse_os_release,
    parse_uname,
)
from android_harness.parsers.thermal import (
    Firmware,
    Temperature,
    parse_measure_temp,
    parse_thermal_zones,
    parse_thermalservice,
    parse_throttled,
    parse_throttled_file,
    parse_under_voltage,
)
from tests.android_harness.declared import fits

FIXTURES = Path(__file__).parent / "fixtures"
DENIED = "cat: /proc/swaps: Permission denied\n"
KIB = 1024


def text(name: str) -> str:
    return (FIXTURES / f"{name}.txt").read_bytes().decode()


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "total", "available", "free", "swap_total", "swap_free"),
    [
        ("pixel_10_pro_xl/meminfo", 15949056, 3494176, 2006432, 7974524, 2677648),
        ("galaxy_s20_plus/meminfo", 11162608, 6123500, 3205120, 4194300, 2833404),
        ("galaxy_s10/meminfo", 7656764, 3271272, 1294452, 2621436, 2136632),
    ],
)
def test_meminfo(name: str, total: int, available: int, free: int, swap_total: int, swap_free: int) -> None:
    expected = MemInfo(*(kib * KIB for kib in (total, available, free, swap_total, swap_free)))
    assert parse_meminfo(text(name)) == expected


def test_meminfo_as_adb_hands_it_on() -> None:
    told = text("xiaomi_13t_pro/meminfo")
    assert "\r\n" in told
    assert parse_meminfo(told) == MemInfo(11616040 * KIB, 4913428 * KIB, 161396 * KIB, None, None)


def test_process_status() -> None:
    told = parse_status(text("galaxy_s10/status"))
    assert told == ProcessMemory("R", 180580 * KIB, 184796 * KIB, 83420 * KIB, 96708 * KIB, 4480 * KIB)
    assert parse_status(text("lab/status")).peak_bytes == 64720 * KIB


def test_status_of_a_process_that_has_ended() -> None:
    # Built here: the kernel writes no sizes for a zombie (task_mem in fs/proc/task_mmu.c needs a memory map).
    told = parse_status("Name:\tsh\nState:\tZ (zombie)\nTgid:\t7\n")
    assert told == ProcessMemory("Z", None, None, None, None, None)


def test_smaps_rollup() -> None:
    assert parse_smaps_rollup(text("chromebook/smaps_rollup")) == Rollup(
        5940 * KIB, 580 * KIB, 64 * KIB, 300 * KIB, 0, 0
    )
    assert parse_smaps_rollup(text("lab/smaps_rollup")).proportional_bytes == 58706 * KIB


def test_swaps() -> None:
    assert parse_swaps(text("oneplus_8/swaps")) == (Swap("/block/zram0", "partition", 2150396 * KIB, 8864 * KIB, -2),)
    assert parse_swaps(text("six_gb_phone/swaps")) == (
        Swap("/dev/block/zram0", "partition", 4194300 * KIB, 691028 * KIB, -2),
    )
    four = parse_swaps(text("raspberry_pi_3_android/swaps"))
    assert four[3] == Swap("/dev/block/zram3", "partition", 47656 * KIB, 0, 5)
    assert len(four) == 4


def test_zram() -> None:
    told = parse_zram(text("six_gb_phone/zram_mm_stat"), "4294967296\n")
    assert told == Zram(4294967296, 706387968, 167064882, 174997504)
    assert parse_zram("", "0\n") == Zram(0, None, None, None)
    assert parse_zram(DENIED, DENIED) is None


def test_vmstat() -> None:
    assert parse_vmstat(text("chromebook/vmstat")) == Paging(345219, 2605828)
    assert parse_vmstat("nr_free_pages 40132\n") == Paging(None, None)


def test_dumpsys_meminfo() -> None:
    told = parse_dumpsys_meminfo(text("amlogic_tv/dumpsys_meminfo"))
    assert told == AndroidMemory(3955784 * KIB, 2675569 * KIB, 1187409 * KIB, "normal", 12 * KIB, 0, 262140 * KIB)


def test_dumpsys_meminfo_of_android_6() -> None:
    # Built here, after ActivityManagerService of Android 6, which wrote kB and no commas.
    told = parse_dumpsys_meminfo("Total RAM: 1899548 kB (status moderate)\n Free RAM: 641068 kB (72316 cached pss)\n")
    assert told == AndroidMemory(1899548 * KIB, 641068 * KIB, None, "moderate", None, None, None)


# ---- processors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cores", "hardware", "model"),
    [
        ("galaxy_s7/cpuinfo", ["Kryo"] * 4, "Qualcomm Technologies, Inc MSM8996", None),
        (
            "galaxy_s9/cpuinfo",
            ["Kryo-3XX-Silver"] * 4 + ["Kryo-3XX-Gold"] * 4,
            "Qualcomm Technologies, Inc SDM845",
            None,
        ),
        ("huawei_mate_20/cpuinfo", ["Cortex-A55"] * 4 + ["Cortex-A76"] * 4, None, None),
        ("raspberry_pi_4_armv7/cpuinfo", ["Cortex-A72"] * 4, "BCM2835", "Raspberry Pi 4 Model B Rev 1.1"),
        ("nexus_5/cpuinfo", [None] * 4, "Qualcomm MSM 8974 HAMMERHEAD (Flattened Device Tree)", None),
    ],
)
def test_cpuinfo(name: str, cores: list[str | None], hardware: str | None, model: str | None) -> None:
    told = parse_cpuinfo(text(name))
    assert [core.index for core in told.processors] == list(range(len(cores)))
    assert [core.name for core in told.processors] == cores
    assert (told.hardware, told.model) == (hardware, model)


def test_cores_keep_implementer_and_part() -> None:
    assert parse_cpuinfo(text("galaxy_s7/cpuinfo")).processors[2].part == "0x51:0x205"
    # Built here: a part that is in no list has no name, and the kernel's word for the instruction set is not one.
    unknown = parse_cpuinfo("processor: 0\nmodel name: ARMv9 Processor\nCPU implementer: 0x41\nCPU part: 0xfff\n")
    assert (unknown.processors[0].name, unknown.processors[0].part) == (None, "0x41:0xfff")


def test_cpuinfo_of_an_x86() -> None:
    told = parse_cpuinfo(text("lab/facts"))
    assert [core.name for core in told.processors] == ["Intel(R) Xeon(R) Processor"] * 2


def test_cpufreq_of_cores_that_share_a_policy() -> None:
    assert parse_cpufreq(text("huawei_mate_20/cpufreq")) == (
        Policy("cpu0", (0, 1, 2, 3), None, None, None, 830000, 1805000),
    )
    assert parse_cpufreq(text("pixel_2_xl/cpufreq")) == (
        Policy("cpu1", (0, 1, 2, 3), "schedutil", 300000, None, 1900800, 1900800),
    )


def test_lists_of_cores() -> None:
    assert parse_cpu_list("0-3\n") == (0, 1, 2, 3)
    assert parse_cpu_list("0 1 4-5,7") == (0, 1, 4, 5, 7)
    for nothing in ("", "\n", "0-x", "3-1", "0-99999999999999999999", DENIED):
        assert parse_cpu_list(nothing) == ()


# ---- battery ---------------------------------------------------------------------------------------------------------


def test_battery() -> None:
    assert parse_battery(text("xiaomi_13t_pro/battery")) == Battery(64, 32.8, "discharging", "good", (), True)
    assert parse_battery(text("miui_phone/battery")) == Battery(65, 37.7, "charging", "good", ("USB",), True)
    assert parse_battery(text("galaxy_s20_plus/battery")) == Battery(19, 37.6, "charging", "good", ("USB",), True)


def test_no_battery() -> None:
    for nothing in ("", "Can't find service: battery\n", "Permission Denial: can't dump battery\n"):
        assert parse_battery(nothing) is None


# ---- heat ------------------------------------------------------------------------------------------------------------


def test_thermalservice() -> None:
    told = parse_thermalservice(text("xiaomi_13t_pro/thermalservice"))
    assert told is not None
    assert (told.status, told.overridden, told.ready) == (0, False, True)
    assert told.current == (Temperature("CPU", 57.9, "cpu", 0), Temperature("SKIN", 34.351, "skin", 0))
    assert told.cached[0] == Temperature("CPU", 84.208, "cpu", 0)
    assert len(told.cached) == 5


def test_a_sensor_throttles_while_the_status_does_not_say_so() -> None:
    told = parse_thermalservice(text("xiaomi_13t_pro/thermalservice_skin_severe"))
    assert told is not None
    assert told.status == 0
    assert told.current[3] == Temperature("SKIN", 50.77, "skin", 3)


def test_voltages_and_currents_are_no_temperatures() -> None:
    told = parse_thermalservice(text("pixel_tensor/thermalservice"))
    assert told is not None
    assert [sensor.name for sensor in told.current] == [
        "TPU", "FLASH_LED_REDUCE", "G3D", "BIG", "LITTLE", "VIRTUAL-USB-THROTTLING", "USB2-MINUS-USB",
        "neutral_therm", "cellular-emergency", "MID", "VIRTUAL-SKIN", "battery",
    ]  # fmt: skip
    assert told.current[0] == Temperature("TPU", 25.000002, "npu", 0)
    assert told.current[1].kind is None
    assert [sensor.name for sensor in told.cached] == ["LITTLE"]


def test_thermal_hal_2() -> None:
    told = parse_thermalservice(text("pixel_snapdragon/thermalservice"))
    assert told is not None
    assert (len(told.cached), len(told.current)) == (13, 13)
    assert told.current[4] == Temperature("cpu1-silver-usr", 44.1, "cpu", 0)


def test_what_is_no_temperature() -> None:
    # Built here, in Android's format, of values that services fill gaps with.
    values = ("NaN", "-99.9", "-274.0", "1.0E38", "Infinity", "")
    lines = "".join(f"\tTemperature{{mValue={value}, mType=0, mName=x, mStatus=0}}\n" for value in values)
    told = parse_thermalservice(f"Thermal Status: 9\nHAL Ready: false\nCurrent temperatures from HAL:\n{lines}")
    assert told is not None
    assert (told.status, told.ready, told.current) == (None, False, ())
    assert parse_thermalservice("Can't find service: thermalservice\n") is None


def test_thermal_zones() -> None:
    # Built here: thousandths by the kernel's documentation, whole degrees as some kernels 3.x; 350 could be either's.
    told = parse_thermal_zones("cpu-thermal=48312\r\ntsens_tz_sensor1=41\nbattery=350\nnpu=-274000\nskin=\nx=Invalid\n")
    assert told == (Temperature("cpu-thermal", 48.312, None, None), Temperature("tsens_tz_sensor1", 41, None, None))


def test_raspberry_pi() -> None:
    assert parse_measure_temp(text("raspberry_pi_3b_plus/measure_temp")) == 39.7
    assert parse_throttled(text("raspberry_pi_3b_plus/throttled")) == Firmware(
        True, False, True, False, True, False, True, False
    )


def test_firmware_bits() -> None:
    # Built here, bit by bit after Raspberry Pi's documentation.
    assert parse_throttled("throttled=0x0\n") == Firmware(*[False] * 8)
    for position, bit in enumerate((0, 1, 2, 3, 16, 17, 18, 19)):
        told = parse_throttled(f"throttled={1 << bit:#x}")
        assert told == Firmware(*(place == position for place in range(8)))
        assert parse_throttled_file(f"{1 << bit:x}\n") == told
    assert parse_throttled_file("0\n") is None
    for nothing in ("", 'error=1 error_msg="Command not registered"', "VCHI initialization failed", "throttled=0xzz"):
        assert parse_throttled(nothing) is None
    assert parse_under_voltage("in0_lcrit_alarm=1\n") == Firmware(True, *[None] * 7)
    assert parse_under_voltage("") is None


# ---- the system ------------------------------------------------------------------------------------------------------


def test_getprop() -> None:
    told = parse_getprop(text("gwm_head_unit/getprop"))
    assert told["ro.build.version.release"] == "9"
    assert told["ro.product.model"] == "msmnile_gvmq for arm64"
    assert "ro.build.version.base_os" not in told
    assert parse_getprop(text("moto_g75/getprop"))["ro.soc.model"] == "SM6475"
    assert parse_getprop(text("emulator_14/getprop"))["ro.product.cpu.abilist"] == "x86_64,arm64-v8a"
    # Built here: a value of two lines.
    assert parse_getprop("[a]: [one\r\ntwo]\r\n[b]: [x]\r\n") == {"a": "one\ntwo", "b": "x"}


def test_os_release() -> None:
    told = parse_os_release(text("raspberry_pi_3b/os_release"))
    assert told["PRETTY_NAME"] == "Raspbian GNU/Linux 11 (bullseye)"
    assert told["ID"] == "raspbian"
    # Built here, after os-release(5).
    assert parse_os_release('NAME=\'Fedora Linux\'\nX="a\\"b"\n') == {"NAME": "Fedora Linux", "X": 'a"b'}


def test_device_tree_and_uname() -> None:
    assert parse_device_tree("Raspberry Pi 5 Model B Rev 1.0\0") == ("Raspberry Pi 5 Model B Rev 1.0",)
    assert parse_device_tree("raspberrypi,5-model-b\0brcm,bcm2712\0") == ("raspberrypi,5-model-b", "brcm,bcm2712")
    assert parse_uname("Linux 6.1.21-v7+ armv7l\n") == Kernel("Linux", "6.1.21-v7+", "armv7l")
    assert parse_uname("Linux 6.1.21\n") is None


def test_df() -> None:
    assert parse_df(text("xiaomi_13t_pro/df")) == (
        Disk("/dev/block/dm-59", 485636064 * KIB, 171563720 * KIB, 313535476 * KIB, "/data/user/0"),
    )
    assert free_bytes(text("xiaomi_13t_pro/df")) == 313535476 * KIB
    broken = parse_df(text("red_hat_6/df"))
    assert [disk.mounted_on for disk in broken] == ["/", "/dev/shm", "/boot", "/opt", "/tmp", "/usr", "/var"]
    assert broken[0] == Disk("/dev/mapper/internvg-root", 44381296 * KIB, 6123420 * KIB, 36003964 * KIB, "/")
    assert [disk.available_bytes for disk in parse_df(text("lab/df_toybox"))] == [190802680 * KIB, 23532516 * KIB]
    assert [disk.available_bytes for disk in parse_df(text("lab/df_busybox"))] == [32981504 * KIB, 23532516 * KIB]


def test_no_disk() -> None:
    assert free_bytes(text("red_hat_6/df")) is None
    for nothing in (
        "",
        "df: /data: Permission denied\n",
        "Filesystem Size Used Avail Use% Mounted on\n/x 1G 1G 1G 1% /\n",
    ):
        assert parse_df(nothing) == ()
        assert free_bytes(nothing) is None


# ---- any text --------------------------------------------------------------------------------------------------------


def zram(told: str) -> Zram | None:
    return parse_zram(told, told)


PARSERS: dict[str, Callable[[str], Any]] = {
    "meminfo": parse_meminfo,
    "status": parse_status,
    "smaps_rollup": parse_smaps_rollup,
    "swaps": parse_swaps,
    "zram_mm_stat": zram,
    "vmstat": parse_vmstat,
    "dumpsys_meminfo": parse_dumpsys_meminfo,
    "cpuinfo": parse_cpuinfo,
    "cpufreq": parse_cpufreq,
    "battery": parse_battery,
    "thermalservice": parse_thermalservice,
    "throttled": parse_throttled,
    "throttled_file": parse_throttled_file,
    "under_voltage": parse_under_voltage,
    "measure_temp": parse_measure_temp,
    "zones": parse_thermal_zones,
    "getprop": parse_getprop,
    "os_release": parse_os_release,
    "device_tree": parse_device_tree,
    "uname": parse_uname,
    "df": parse_df,
}
TEXTS = sorted(path.relative_to(FIXTURES).with_suffix("").as_posix() for path in FIXTURES.rglob("*.txt"))


def reads(parse: Callable[[str], Any], told: str) -> bool:
    """Whether it makes of `told` what it says it does: nothing raises, no field has another type."""
    return fits(parse(told), get_type_hints(parse)["return"])


def parser_of(name: str) -> Callable[[str], Any]:
    subject = name.partition("/")[2]
    return next((parse for key, parse in PARSERS.items() if subject.startswith(key)), parse_cpuinfo)


@pytest.mark.parametrize("name", TEXTS)
def test_line_ends_do_not_matter(name: str) -> None:
    unix = text(name).replace("\r\n", "\n")
    parse = parser_of(name)
    assert parse(unix.replace("\n", "\r\n")) == parse(unix)
    assert parse(unix.replace("\n", "\r\r\n")) == parse(unix)  # adb shell of Android 6 and older, through a terminal


@given(name=st.sampled_from(TEXTS), cut=st.integers(0, 5000), other=st.sampled_from(sorted(PARSERS)))
def test_a_text_that_was_cut(name: str, cut: int, other: str) -> None:
    told = text(name)
    for part in (told[:cut], told[cut:], told[:cut] + "�" + told[cut + 1 :]):
        assert reads(parser_of(name), part)
        assert reads(PARSERS[other], part)


@given(told=st.text(max_size=400), name=st.sampled_from(sorted(PARSERS)))
def test_any_text(told: str, name: str) -> None:
    assert reads(PARSERS[name], told)


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_a_refusal(name: str) -> None:
    """Nothing is read off it but that it is a line of text, where a file may hold any."""
    told = PARSERS[name](DENIED)
    if name != "device_tree":
        assert told == PARSERS[name]("")
