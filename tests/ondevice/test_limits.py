"""What the system lets a process take is read where it is set, and a run that does not fit says so before it trains."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ondevice.limits import group_limit, parse_mapped
from tests.end_to_end import tiny
from tests.end_to_end.commands import Commands

MIB = 1 << 20


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "groups", "expected"),
    [
        ({"a/b/memory.max": "300\n", "a/memory.max": "200\n", "memory.max": "max\n"}, "0::/a/b\n", 200),
        ({"a/memory.max": "max\n"}, "0::/a\n", None),
        ({"memory.max": "77\n"}, "0::/\n", 77),
        ({"memory/x/memory.limit_in_bytes": "500\n"}, "4:memory:/x\n0::/\n", 500),
        ({"memory/x/memory.limit_in_bytes": "9223372036854771712\n"}, "5:cpu,memory:/x\n", None),
        ({"memory/x/memory.limit_in_bytes": "500\n"}, "5:cpu:/x\n", None),
        ({"a/memory.max": "12 cats"}, "0::/a\nnonsense\n\n", None),
        ({"memory.max": "5"}, "0::/../..\n", 5),
        ({}, "", None),
    ],
)
def test_limits_of_control_groups(tmp_path: Path, files: dict[str, str], groups: str, expected: int | None) -> None:
    assert group_limit(write(tmp_path / "cgroup", files), groups) == expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [("Name:\tx\nVmSize:\t  12 kB\n", 12 << 10), ("Name:\tx\n", None), ("VmSize:\n", None), ("VmSize: x kB", None)],
)
def test_what_is_mapped(status: str, expected: int | None) -> None:
    assert parse_mapped(status) == expected


LIMITED = """
import resource, sys
from ondevice.adapt import main
import ondevice.pipeline
limit = int(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
code = main(sys.argv[2:])
print([line for line in open("/proc/self/status") if line.startswith("VmPeak")][0].split()[1], file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    folder = tmp_path_factory.mktemp("limits")
    pictures = tiny.write_pictures(folder / "pictures")
    tiny.write_bundle(folder / "bundle", own_head=True, probe=pictures)
    return Commands(folder)


def arguments(out: str) -> tuple[str, ...]:
    return ("bundle", "--data", "pictures", "--batch", "8", "--epochs", "1", "--threads", "1", "--out", out)


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
def test_a_limit_of_the_address_space(commands: Commands) -> None:
    """With 5 % more than a run maps it completes; with too little it says so before it trains."""
    free = commands.run("-c", LIMITED, 0, *arguments("free")).succeeded()
    mapped = int(free.stderr.splitlines()[-1]) << 10
    commands.run("-c", LIMITED, int(1.05 * mapped), *arguments("enough")).succeeded()
    for number, limit in enumerate((mapped - MIB, mapped, int(1.02 * mapped), int(1.03 * mapped))):
        limited = commands.run("-c", LIMITED, limit, *arguments(f"little{number}"))
        if number and limited.code == 0:
            continue
        assert limited.code == 4, limited.stderr
        assert "limit of the address space" in limited.stderr
        assert "train …" not in limited.stderr


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of our own."""
    root = Path("/sys/fs/cgroup/memory" if Path("/sys/fs/cgroup/memory").is_dir() else "/sys/fs/cgroup")
    folder = root / f"adabet-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("control groups cannot be made here")
    try:
        if not any((folder / name).exists() for name in ("memory.max", "memory.limit_in_bytes")):
            pytest.skip("control groups do not limit memory here")
        yield folder
    finally:
        folder.rmdir()


def in_group(group: Path, limit: int, commands: Commands, *arguments: str) -> subprocess.CompletedProcess[str]:
    name = "memory.max" if (group / "memory.max").exists() else "memory.limit_in_bytes"
    (group / name).write_text(str(limit))
    return subprocess.run(
        ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group), sys.executable, *arguments],
        cwd=commands.folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "XDG_CACHE_HOME": str(commands.cache.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="no control groups")
def test_a_limit_of_the_control_group(commands: Commands, group: Path) -> None:
    """With 5 % more than was predicted a run completes; with less it says so before it trains, and what it takes."""
    commands.adapt(*arguments("measured")).succeeded()
    plan = json.loads((commands.folder / "measured" / "report.json").read_bytes())["plan"]
    predicted = max(plan["prefix_bytes"], plan["train_bytes"], plan["evaluate_bytes"])
    refused = in_group(group, int(0.8 * predicted), commands, "-m", "ondevice.adapt", *arguments("in-small-group"))
    assert refused.returncode == 4, refused.stderr
    assert "memory limit of the control group" in refused.stderr
    assert "train …" not in refused.stderr
    to_probe = re.search(r"it would take (\d+) MiB", refused.stderr)  # for a network of nothing, more than to train
    assert to_probe is not None
    needed = max(predicted, int(to_probe[1]) * MIB)
    enough = in_group(group, int(1.05 * needed), commands, "-m", "ondevice.adapt", *arguments("in-group"))
    assert enough.returncode == 0, enough.stderr
