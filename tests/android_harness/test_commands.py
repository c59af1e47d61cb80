"""The harness as a user runs it: fresh processes, a real adaptation behind a real connection, exit codes checked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.android_harness.device import Connected, Device, said, until
from tests.device.adb_daemon.process import make_keys
from tests.end_to_end.commands import Commands

FIXTURES = Path(__file__).parent / "fixtures"
ADAPT = ("--epochs", 2, "--batch", 8, "--threads", 1)
FOREVER = ("--epochs", 1_000_000, "--batch", 8, "--threads", 1)

SETTINGS = """
folder=$HOME/settings; mkdir -p "$folder"
case $1 in
get) cat "$folder/$3" 2>/dev/null || echo null ;;
put) echo "$4" > "$folder/$3" ;;
delete) rm -f "$folder/$3" ;;
esac
"""
"""What Android's `settings` does, with files."""


def as_run(device: Device, *more: object) -> tuple[object, ...]:
    return ("--python", device.python, "--place", "adb", *more)


def settings(device: Device) -> dict[str, str]:
    return {path.name: path.read_text().strip() for path in (device.home / "settings").glob("*")}


def test_one_command_adapts_there_and_measures(
    connected: Connected, bundle: Path, pictures: Path, tmp_path: Path
) -> None:
    device = connected.device
    out = tmp_path / "out"
    done = connected.harness("run", bundle, pictures, "--out", out, *as_run(device, "--repeats", 2), "--", *ADAPT)
    done.succeeded()
    assert "epoch 2: loss" in done.stderr
    assert "median of 2" in done.stdout
    profile = json.loads((out / "profile.json").read_text())
    assert (profile["format"], profile["version"], profile["place"]) == ("adabet-profile", 1, "adb")
    assert profile["device"]["complete"]
    assert profile["device"]["kind"] == "linux"
    assert profile["device"]["memory"]["total_bytes"] > 1 << 28
    assert [repeat["number"] for repeat in profile["repeats"]] == [1, 2]
    assert profile["medians"]["repeats"] == 2
    for repeat in profile["repeats"]:
        run = out / repeat["folder"]
        report = json.loads((run / "report.json").read_text())
        assert repeat["accuracy"] == report["after"]["accuracy"]
        assert repeat["inside_peak_bytes"] == report["peak_bytes"]
        # The same process, seen by two: they differ by what happens between two looks.
        assert 0.5 < repeat["outside"]["peak_bytes"] / repeat["inside_peak_bytes"] < 1.01
        samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
        assert len(samples) == repeat["outside"]["samples"] >= 1
        assert max(sample["status"]["peak_bytes"] for sample in samples) == repeat["outside"]["peak_bytes"]
        assert json.loads((run / "events.jsonl").read_text().splitlines()[-1])["event"] == "done"
        assert "test accuracy" in (run / "stdout").read_text()
    assert device.left() == []
    assert device.processes() == []

    here = Commands(tmp_path).adapt(bundle, "--data", pictures, "--out", tmp_path / "here", *ADAPT)
    here.succeeded()
    for folder in ("run1", "run2"):
        with np.load(out / folder / "weights.npz") as there, np.load(tmp_path / "here" / "weights.npz") as ours:
            assert set(there) == set(ours)
            for name in ours:
                np.testing.assert_array_equal(there[name], ours[name])

    again = connected.harness("push", bundle, pictures).succeeded()
    assert again.stderr.count("0 files, 0.0 MiB sent") == 4

    asked = connected.harness("doctor", "--json", *as_run(device)).succeeded()
    diagnosis = json.loads(asked.stdout)
    assert diagnosis["pythons"][0]["problems"] == []
    assert diagnosis["pythons"][0]["version"] == ".".join(map(str, sys.version_info[:3]))

    connected.harness("restore").succeeded()
    assert not device.work.exists()


def test_results_that_cannot_be_written_here_stay_there(
    connected: Connected, bundle: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    given = ("--out", out, *as_run(connected.device), "--", *ADAPT)
    with connected.started("run", bundle, pictures, *given) as process:
        said(process, "run 1 of 1")
        (out / "run1").write_text("in the way")
        _, words = process.communicate(timeout=60)
    assert process.returncode == 7
    assert "on this computer" in words
    assert "`pull` fetches it" in words
    pulled = connected.harness("pull", "--out", tmp_path / "pulled").succeeded()
    assert (Path(pulled.stdout.strip()) / "report.json").exists()
    assert connected.device.left() == []


def test_the_folder_on_the_device_is_the_owners(connected: Connected, bundle: Path, pictures: Path) -> None:
    connected.harness("push", bundle, pictures).succeeded()
    assert connected.device.work.stat().st_mode & 0o777 == 0o700
    mine = connected.device.home / "mine"
    mine.write_text("x")
    connected.harness("restore").succeeded()
    assert mine.exists()
    relative = Connected(connected.device, connected.serial).words("doctor")
    relative[relative.index("--work") + 1] = "some/folder"
    done = subprocess.run(relative, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "not an absolute path" in done.stderr


def test_a_folder_that_holds_something(connected: Connected, bundle: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    done = connected.harness("run", bundle, pictures, "--out", tmp_path)
    assert done.code == 2
    assert "is not empty" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("--", "--out", "x"), ("--", "--force"), ("--", "--rho", "many"), ("--", "--nonsense"), ("--repeats", "0")],
)
def test_arguments_that_make_no_sense(
    connected: Connected, bundle: Path, pictures: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    done = connected.harness("run", bundle, pictures, "--out", tmp_path / "out", *arguments)
    assert done.code == 2
    assert not (tmp_path / "out").exists()


def test_no_bundle(connected: Connected, pictures: Path, tmp_path: Path) -> None:
    done = connected.harness("run", pictures, pictures, "--out", tmp_path / "out", *as_run(connected.device))
    assert done.code == 3
    assert "not a bundle" in done.stderr


def test_errors_of_the_adaptation_are_handed_on(
    connected: Connected, bundle: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    given = ("--out", out, *as_run(connected.device), "--", "--batch", 8, "--budget-mib", 1)
    done = connected.harness("run", bundle, pictures, *given)
    assert done.code == 4
    assert "give at least --budget-mib" in done.stderr
    assert "give at least --budget-mib" in json.loads((out / "profile.json").read_text())["repeats"][0]["failure"]
    assert (out / "run1" / "events.jsonl").exists()
    assert connected.device.left() == []


def test_no_device(keys: Path) -> None:
    nobody = Connected(Device(Path("/nowhere"), keys), "127.0.0.1:1")
    done = nobody.harness("doctor")
    assert done.code == 10
    assert "127.0.0.1:1: no adb daemon answers" in done.stderr


def test_not_authorised(connected: Connected, tmp_path: Path) -> None:
    make_keys(tmp_path)
    done = connected.harness("doctor", "--confirm", 0.5, keys=tmp_path)
    assert done.code == 11
    assert "confirm this computer's key" in done.stderr
    assert "nobody confirmed it" in done.stderr


def test_lost_in_the_middle_and_fetched_later(device: Device, bundle: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ("--out", out, "--patience", 1, *as_run(device), "--", *FOREVER)
    with device.on() as on, on.started("run", bundle, pictures, *given) as process:
        said(process, "epoch 3")
        on.stop()
        _, words = process.communicate(timeout=60)
        assert process.returncode == 12
        assert "did not come back" in words
    assert device.processes() != []
    with device.on() as on:
        assert "still running" in on.harness("pull", "--out", tmp_path / "pulled").succeeded().stderr
        given = ("--out", tmp_path / "again", *as_run(device), "--", *ADAPT)
        done = on.harness("run", bundle, pictures, *given).succeeded()
        assert "an earlier command left running" in done.stderr
        assert device.processes() == []
        on.harness("restore").succeeded()
    assert not device.work.exists()


def test_what_was_left_is_pulled(device: Device, bundle: Path, pictures: Path, tmp_path: Path) -> None:
    given = ("--out", tmp_path / "out", "--patience", 1, *as_run(device), "--", "--epochs", 100, "--batch", 8)
    with device.on() as on, on.started("run", bundle, pictures, *given) as process:
        said(process, "epoch 1:")
        on.stop()
        process.communicate(timeout=60)
    until(lambda: list(device.work.glob("own/jobs/*/state/exit")))
    with device.on() as on:
        folder = Path(on.harness("pull", "--out", tmp_path / "pulled").succeeded().stdout.strip())
    assert len(json.loads((folder / "report.json").read_text())["epochs"]) == 100
    assert device.left() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted(
    connected: Connected, bundle: Path, pictures: Path, tmp_path: Path, number: signal.Signals
) -> None:
    device = connected.device
    device.command("settings", SETTINGS)
    given = ("--out", tmp_path / "out", "--keep-awake", *as_run(device), "--", *FOREVER)
    with connected.started("run", bundle, pictures, *given) as process:
        said(process, "epoch 3")
        assert settings(device) == {"stay_on_while_plugged_in": "7"}
        process.send_signal(number)
        said(process, "stopping the run on the device")
        process.send_signal(number)
        said(process, "putting the device's settings back")
        process.send_signal(number)
        said(process, "interrupted")
        assert process.wait(60) == 130
    assert settings(device) == {}
    assert device.left() == []
    assert device.processes() == []


def test_settings_are_put_back(connected: Connected, bundle: Path, pictures: Path, tmp_path: Path) -> None:
    device = connected.device
    device.command("settings", SETTINGS)
    (device.home / "settings").mkdir(exist_ok=True)
    (device.home / "settings" / "stay_on_while_plugged_in").write_text("2\n")
    asked = ("--keep-awake", "--no-phantom-killer")
    given = ("--out", tmp_path / "out", *asked, *as_run(device), "--", *ADAPT)
    connected.harness("run", bundle, pictures, *given).succeeded()
    assert settings(device) == {"stay_on_while_plugged_in": "2"}
    changed = json.loads((tmp_path / "out" / "profile.json").read_text())["changed"]
    assert changed == ["stay_on_while_plugged_in: 2 → 7", "settings_enable_monitor_phantom_procs: null → false"]

    # A harness that had no chance: the next command does it.
    given = ("--out", tmp_path / "killed", *asked, *as_run(device), "--", *FOREVER)
    with connected.started("run", bundle, pictures, *given) as process:
        said(process, "epoch 2")
        process.kill()
    assert settings(device)["stay_on_while_plugged_in"] == "7"
    assert "2 settings put back" in connected.harness("restore").succeeded().stdout
    assert settings(device) == {"stay_on_while_plugged_in": "2"}
    assert device.processes() == []


def test_a_setting_that_cannot_be_changed(connected: Connected, bundle: Path, pictures: Path, tmp_path: Path) -> None:
    connected.device.command("settings", 'case $1 in get) echo 0 ;; *) echo "SecurityException"; exit 255 ;; esac')
    done = connected.harness(
        "run", bundle, pictures, "--out", tmp_path / "out", "--keep-awake", *as_run(connected.device)
    )
    assert done.code == 7
    assert "SecurityException" in done.stderr
    governor = connected.harness("run", bundle, pictures, "--out", tmp_path / "out", "--governor", "no-such-governor")
    assert governor.code == 7


def test_killed(connected: Connected, bundle: Path, pictures: Path, tmp_path: Path) -> None:
    device = connected.device
    log = "lowmemorykiller: Kill 'python' (%s), uid 2000, oom_score_adj 0 to free 90000kB"
    device.command("logcat", f'cd {device.work}/own/jobs/*/state && read -r pid _ <pid; printf "I {log}\\n" $pid 4711')
    given = ("--out", tmp_path / "out", *as_run(device), "--", *FOREVER)
    with connected.started("run", bundle, pictures, *given) as process:
        said(process, "epoch 2")
        (state,) = device.work.glob("own/jobs/*/state/pid")
        os.kill(int(state.read_text().split()[0]), signal.SIGKILL)
        _, words = process.communicate(timeout=60)
    assert process.returncode == 14
    assert words.count("lowmemorykiller: Kill 'python'") == 1
    assert "(4711)" not in words
    assert device.left() == []


def test_timed_out(connected: Connected, bundle: Path, pictures: Path, tmp_path: Path) -> None:
    given = ("--out", tmp_path / "out", "--timeout", 3, *as_run(connected.device), "--", *FOREVER)
    done = connected.harness("run", bundle, pictures, *given)
    assert done.code == 15
    assert "was stopped; see --timeout" in done.stderr
    assert connected.device.processes() == []


def test_throttled(connected: Connected, bundle: Path, pictures: Path, tmp_path: Path) -> None:
    """A phone's own answer, but for the status, which no public capture has above 0."""
    told = (
        (FIXTURES / "xiaomi_13t_pro" / "thermalservice.txt")
        .read_text()
        .replace("Thermal Status: 0", "Thermal Status: 3")
    )
    answer = connected.device.folder / "thermalservice"
    answer.write_text(told)
    connected.device.command("dumpsys", f'for last; do :; done; [ "$last" = thermalservice ] && cat {answer}')
    out = tmp_path / "out"
    given = ("--out", out, "--repeats", 2, "--cooldown", 0, *as_run(connected.device), "--", *ADAPT)
    done = connected.harness("run", bundle, pictures, *given)
    (connected.device.folder / "bin" / "dumpsys").unlink()
    assert done.code == 16
    assert "thermal status was 3 (severe)" in done.stdout
    profile = json.loads((out / "profile.json").read_text())
    assert profile["medians"]["repeats"] == 0
    assert profile["medians"]["seconds"] is None
    assert all(repeat["concerns"] and repeat["accuracy"] for repeat in profile["repeats"])


def test_wrong_abi(connected: Connected, tmp_path: Path) -> None:
    package = tmp_path / "ai_edge_litert"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "interpreter.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    python = connected.device.command("alien", f'PYTHONPATH={tmp_path} exec {sys.executable} "$@"')
    done = connected.harness("doctor", "--place", "adb", "--python", python)
    assert done.code == 17
    assert "does not load: ended by SIGILL" in done.stderr


def test_missing_packages(connected: Connected) -> None:
    python = connected.device.command("bare", f'exec {sys.executable} -S "$@"')
    done = connected.harness("doctor", "--place", "adb", "--python", python)
    assert done.code == 18
    for words in ("numpy is missing", "tflite is missing", "ai-edge-litert or tflite-runtime", "android_harness setup"):
        assert words in done.stderr
    assert connected.harness("doctor", "--place", "adb", "--python", "/nowhere/python").code == 18
