"""The repository itself: what is installed, what imports pull in, what git holds, and that the documents are true."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import android_harness.command_line
import android_harness.errors
import converter.__main__
import ondevice.adapt
import ondevice.betti_numba.__main__
import ondevice.inspect
import profiling.__main__
import signatures.errors
from signatures.errors import AdabetError

ROOT = Path(__file__).parents[2]
DISTRIBUTION = "adabet-ondevice"
PACKAGES = {"signatures", "converter", "ondevice", "android_harness"}
PARSERS = {
    "ondevice.adapt": ondevice.adapt.parser,
    "ondevice.inspect": ondevice.inspect.parser,
    "ondevice.betti_numba": ondevice.betti_numba.__main__.parser,
    "converter": converter.__main__.parser,
    "android_harness": android_harness.command_line.parser,
    "profiling": profiling.__main__.parser,
}
DOCUMENTS = ("README.md", "docs/foreign.md", "docs/formats.md", "docs/devices.md")
IMPORT_LIMIT_MIB = 60


# ---- what is installed -----------------------------------------------------------------------------------------------


def test_installed_packages() -> None:
    owners = importlib.metadata.packages_distributions()
    assert {name for name, owner in owners.items() if DISTRIBUTION in owner and "__editable__" not in name} == PACKAGES


def test_no_package_takes_a_name_of_the_standard_library() -> None:
    reserved = {*sys.stdlib_module_names, "profiling"}  # PEP 799 brings `profiling` in Python 3.15
    assert PACKAGES.isdisjoint(reserved)


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_packages_import_from_anywhere(package: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", f"import {package}"], cwd=tmp_path, check=True)


def test_python_versions() -> None:
    required = importlib.metadata.metadata(DISTRIBUTION)["Requires-Python"]
    assert required is not None
    lowest = re.search(r">=\s*3\.(\d+)", required)
    highest = re.search(r"<\s*3\.(\d+)", required)
    assert lowest is not None
    assert highest is not None
    assert int(lowest[1]) <= sys.version_info.minor < int(highest[1])
    assert f'target-version = "py3{lowest[1]}"' in (ROOT / "pyproject.toml").read_text()
    assert f"Python 3.{lowest[1]} to 3.{int(highest[1]) - 1}" in (ROOT / "README.md").read_text()


# ---- what imports pull in --------------------------------------------------------------------------------------------


def loaded_by(statement: str, tmp_path: Path) -> tuple[set[str], float | None]:
    """Top-level modules that a statement loads in a fresh process, and the process's VmRSS in MiB where /proc tells."""
    program = f"""
import sys
before = set(sys.modules)
{statement}
print(*sorted({{name.partition(".")[0] for name in set(sys.modules) - before}}))
try:
    with open("/proc/self/status") as status:
        print(*(line.split()[1] for line in status if line.startswith("VmRSS:")))
except OSError:
    print()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    modules, resident = done.stdout.splitlines()
    return set(modules.split()), int(resident) / 1024 if resident else None


def test_the_device_command_is_light(tmp_path: Path) -> None:
    modules, resident = loaded_by("import ondevice.adapt", tmp_path)
    heavy = {"tensorflow", "keras", "numba", "llvmlite", "PIL", "sklearn", "scipy", "torch", "converter"}
    assert modules.isdisjoint(heavy), modules & heavy
    assert "numpy" in modules, "the program that lists modules is broken"
    assert resident is None or resident < IMPORT_LIMIT_MIB, f"{resident:.1f} MiB"


def test_the_compiler_needs_little(tmp_path: Path) -> None:
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "signatures").rglob("*.py"))
    modules, _ = loaded_by(f"import {', '.join(sorted(name.removesuffix('.__init__') for name in names))}", tmp_path)
    foreign = modules - sys.stdlib_module_names - {"signatures"}
    assert foreign <= {"numpy", "flatbuffers", "tflite"}


def test_the_host_loads_tensorflow_only_to_export(tmp_path: Path) -> None:
    modules, _ = loaded_by("import converter.__main__, converter.verify, converter.pack, converter.export", tmp_path)
    assert modules.isdisjoint({"tensorflow", "keras", "numba", "sklearn"})


# ---- what git holds --------------------------------------------------------------------------------------------------

GENERATED = (".tflite", ".npz", ".npy", ".pyc", ".pth", ".pt", ".h5", ".keras", ".so", ".whl")
LARGEST_BYTES = 500_000
# Written in pieces, so that this file does not hold what it looks for.
REGISTRIES = ("pypi" + ".org", "python" + "hosted.org", "npm" + "js.", "deb." + "debian.org", "conda" + ".anaconda")
OWN_PATHS = re.compile(r"""(?:^|[\s"'`=(:,])/(?:home|root|Users|work)/""", re.MULTILINE)


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Every file that git tracks."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        if os.environ.get("CI"):
            pytest.fail(f"git ls-files: {listed.stderr}")
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_generated_or_large_files(tracked: list[Path]) -> None:
    assert not [path for path in tracked if path.suffix in GENERATED or path.stat().st_size > LARGEST_BYTES]


def test_no_machine_of_our_own_shows(tracked: list[Path]) -> None:
    found = []
    for path in tracked:
        text = path.read_text(errors="replace")
        found += [f"{path}: {host}" for host in REGISTRIES if host in text]
        found += [f"{path}: {match[0].strip()}" for match in OWN_PATHS.finditer(text)]
    assert not found


# ---- the documents are true ------------------------------------------------------------------------------------------


def command_lines(document: str) -> Iterator[str]:
    """Lines of the code blocks of a document, without comments."""
    text = (ROOT / document).read_text()
    for block in re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield from (re.sub(r"\s+# .*", "", line) for line in block.splitlines())


def mentions(document: str) -> Iterator[str]:
    """Inline code of a document."""
    text = re.sub(r"^```.*?^```", "", (ROOT / document).read_text(), flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"`([^`\n]+)`", text)


def help_texts() -> str:
    """What the commands say of their options, those of subcommands included."""
    texts = []
    for parser in (make() for make in PARSERS.values()):
        texts.append(parser.format_help())
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                texts += [subcommand.format_help() for subcommand in action.choices.values()]
    return "\n".join(texts)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_make_lists_its_targets() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make ([a-z-]+)", listed, re.MULTILINE)) == make_targets()
    assert {"setup", "demo", "export", "pack", "verify", "adapt", "test", "lint", "clean"} <= make_targets()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documented_make_commands_exist(document: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    code = [*command_lines(document), *mentions(document)]
    commands = [line for line in code if line.startswith("make ")]
    assert {line.split()[1] for line in commands} <= make_targets()
    for line in commands:
        for name in re.findall(r"\b([A-Z0-9]+)=", line):
            assert re.search(rf"\$\({name}\)|,{name}\)", makefile), line
    assert commands or document != "README.md"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documented_commands_parse(document: str) -> None:
    for line in command_lines(document):
        if command := re.match(r"(?:env/bin/)?python -m (.+)", line):
            module, *arguments = shlex.split(command[1])
            try:
                for_adapt: list[str] = []
                if module == "android_harness":
                    arguments, for_adapt = android_harness.command_line.split(arguments)
                PARSERS[module]().parse_args(arguments)
                ondevice.adapt.parser().parse_args(["bundle", "--data", "data", *for_adapt])
            except SystemExit:
                pytest.fail(f"{document}: {line}")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_mentioned_modules_and_options_exist(document: str) -> None:
    for code in mentions(document):
        if named := re.match(r"python -m ([\w.]+)(?: ([a-z]+))?", code):
            assert importlib.util.find_spec(named[1]), code
            if named[2]:
                assert re.search(rf"[{{,]{named[2]}[,}}]|^ +{named[2]}\b", PARSERS[named[1]]().format_help(), re.M), (
                    code
                )
        for option in re.findall(r"(?<![\w-])--[a-z-]+", code):
            if option not in ("--help", "--no-build-isolation"):
                assert option in help_texts(), f"{document}: {code}"


def anchors(document: Path) -> set[str]:
    """What headings are linked by."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", (ROOT / document).read_text()):
        linked = (ROOT / document).parent / target if target else ROOT / document
        assert target.startswith("https://") or linked.exists(), target
        assert not anchor or anchor in anchors(linked), f"{target}#{anchor}"


def exit_codes(module: ModuleType = signatures.errors) -> dict[str, int]:
    """Error class → exit code."""
    errors = (value for _, value in inspect.getmembers(module, inspect.isclass))
    return {error.__name__: error.exit_code for error in errors if issubclass(error, AdabetError)}


def exit_code_table(document: str) -> list[list[str]]:
    """Cells of the rows of the table under a heading that names exit codes."""
    text = (ROOT / document).read_text()
    _, heading, section = text.partition("## Exit codes")
    assert heading, f"{document} has no section on exit codes"
    rows = re.findall(r"^\|\s*\d+\s*\|.*$", re.split(r"^## ", section, flags=re.MULTILINE)[0], re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_exit_codes_of_the_readme() -> None:
    assert [int(row[0]) for row in exit_code_table("README.md")] == sorted({0, *exit_codes().values()})


def test_exit_codes_of_the_formats() -> None:
    rows = [(row[1].strip("`"), int(row[0])) for row in exit_code_table("docs/formats.md")]
    assert [code for name, code in rows if name == "–"] == [0, signatures.errors.INTERRUPTED]
    of_devices = {name: code for name, code in exit_codes(android_harness.errors).items() if code >= 10 and code != 70}
    assert {name: code for name, code in rows if name != "–"} == exit_codes() | of_devices
