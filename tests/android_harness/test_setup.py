"""What sets devices up: python_facts.py under this Python, setup_termux.sh with Termux's commands played by scripts."""

from __future__ import annotations

import ast
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import android_harness
from android_harness import python_facts

FOLDER = Path(android_harness.__file__).parent
FACTS, SETUP = FOLDER / "python_facts.py", FOLDER / "setup_termux.sh"


def test_python_facts_of_this_python(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, FACTS, tmp_path], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert told["python"] == platform.python_version()
    assert told["machine"] == platform.machine()
    assert told["system"] == sys.platform
    assert told["pointer_bits"] == (64 if sys.maxsize > 1 << 32 else 32)
    assert told["packages"]["flatbuffers"] == python_facts.version("flatbuffers")
    installed = [name for name in python_facts.INTERPRETERS if told["packages"][name] is not None]
    assert [found["module"] for found in told["interpreters"]] == [
        python_facts.INTERPRETERS[name] for name in installed
    ]
    assert all(found["imports"] and found["problem"] is None for found in told["interpreters"])
    assert told["folder"] == str(tmp_path.resolve())
    assert told["free_bytes"] > 0


def test_python_facts_where_nothing_is(tmp_path: Path) -> None:
    nowhere = python_facts.facts(str(tmp_path / "nowhere"))
    assert nowhere["free_bytes"] is None
    assert python_facts.version("no-such-package-at-all") is None


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        ("import os; os.kill(os.getpid(), signal.SIGILL)", "ended by SIGILL"),
        ("import os; os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
        ("raise ImportError('built for another Python')", "ImportError: built for another Python"),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("", None),
    ],
)
def test_an_import_that_fails(
    module: str, problem: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_runtime.py").write_text(f"import signal\n{module}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert python_facts.import_problem("a_runtime") == problem


def test_python_facts_runs_on_python_3_8() -> None:
    tree = ast.parse(FACTS.read_text(), feature_version=(3, 8))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names


# ---- Termux ----------------------------------------------------------------------------------------------------------

PACKAGES = ("python", "python-pip", "python-numpy", "python-pillow", "python-tflite-runtime", "openssh")
# Termux's commands: what is installed is a file of its name under $STATE; what was called is a line of $STATE/calls.
DPKG = '[ "$1" = -s ] && [ -e "$STATE/packages/$2" ] && echo "Status: install ok installed"'
PKG = """echo "pkg $*" >>"$STATE/calls"
echo "Reading package lists..."
[ -e "$STATE/offline" ] && exit 100
[ "$1" = install ] || exit 0
for word in "$@"; do
  case $word in python* | openssh) : >"$STATE/packages/$word" ;; esac
done"""
PYTHON = """case $1 in
  -c) [ -e "$STATE/modules/$3" ] ;;
  -m)
    echo "python $*" >>"$STATE/calls"
    echo Collecting
    for word in "$@"; do
      case $word in flat* | tflite*) : >"$STATE/modules/${word%%[<>=]*}" ;; esac
    done
    ;;
  *) exec "$REAL_PYTHON" "$@" ;;
esac"""


class Termux:
    """A folder that looks like Termux."""

    def __init__(self, root: Path) -> None:
        self.state = root / "state"
        self.bin = root / "com.termux/files/usr/bin"
        for folder in (self.bin, self.state / "packages", self.state / "modules"):
            folder.mkdir(parents=True)
        for name, script in (("dpkg", DPKG), ("pkg", PKG), ("python", PYTHON)):
            (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
            (self.bin / name).chmod(0o755)

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run setup_termux.sh in it."""
        variables = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(self.state),
            "PREFIX": str(self.bin.parent),
            "STATE": str(self.state),
            "REAL_PYTHON": sys.executable,
            **environment,
        }
        return subprocess.run(
            ["/bin/sh", SETUP, *arguments], env=variables, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )

    def have(self, *packages: str) -> None:
        """Install packages without a word."""
        for package in packages:
            (self.state / "packages" / package).touch()

    def calls(self) -> list[str]:
        """What pkg and pip were asked."""
        file = self.state / "calls"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def termux(tmp_path: Path) -> Termux:
    return Termux(tmp_path)


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_everything_is_installed_without_a_question(termux: Termux) -> None:
    termux.have("openssh")
    done = termux.run()
    assert done.returncode == 0
    assert told(done)["python"] == platform.python_version()
    upgrade, install, pip = termux.calls()
    assert upgrade == "pkg upgrade -y -o Dpkg::Options::=--force-confold"
    assert install.split()[-5:] == list(PACKAGES[:5])
    assert pip == "python -m pip install --disable-pip-version-check flatbuffers>=23.5.26 tflite>=2.18.0,<3"
    assert "Reading package lists" in done.stderr
    again = termux.run()
    assert (again.returncode, again.stderr) == (0, "")
    assert len(termux.calls()) == 3


def test_checking_changes_nothing(termux: Termux) -> None:
    termux.have(*PACKAGES[:4])
    done = termux.run("--check")
    assert done.returncode == 7
    assert termux.calls() == []
    assert "missing: python-tflite-runtime openssh" in done.stderr
    assert "missing: flatbuffers" in done.stderr
    assert "packages" in told(done)


def test_without_a_network(termux: Termux) -> None:
    (termux.state / "offline").touch()
    done = termux.run()
    assert done.returncode == 7
    assert "error: pkg could not install" in done.stderr
    assert "packages" in told(done)


def test_termux_without_python(termux: Termux) -> None:
    (termux.bin / "python").unlink()
    for name in ("dirname", "grep", "cat"):
        (termux.bin / name).symlink_to(
            next(path for path in (Path("/usr/bin", name), Path("/bin", name)) if path.exists())
        )
    done = termux.run("--check", PATH=str(termux.bin))
    assert (done.returncode, told(done)) == (7, {})


def test_not_in_termux(termux: Termux) -> None:
    done = termux.run(PREFIX="/usr/local")
    assert (done.returncode, done.stdout) == (7, "")
    assert "this is not Termux" in done.stderr
    assert termux.run("--all").returncode == 2
    assert os.access(SETUP, os.R_OK)
