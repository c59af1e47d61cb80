"""Which engine computes b1, what memory decides, and what happens to a run whose library or child process fails."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from betti_engines import Built
from persistence_oracles import clouds, distances

from ondevice.betti_numba import child, engine, library, numpy_path
from ondevice.meter import read_resident
from signatures.errors import InputError

D2 = distances(clouds("sparse", 16))
EXPECTED = numpy_path.betti_numbers(D2)
MIB = 1 << 20


@pytest.fixture
def any_stack_is_worth_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_WORTH_A_CHILD", 0)


@pytest.fixture
def no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        pytest.fail("a child process was started")

    monkeypatch.setattr(child, "compute", fail)


@pytest.fixture
def cache(built: Built, tmp_path: Path) -> Path:
    """A copy of the cache with the library, to be damaged."""
    shutil.copytree(built.cache, tmp_path / "cache")
    return tmp_path / "cache"


def library_in(cache: Path) -> Path:
    return library.library_path(library.cache_folder(cache), library.build_id())


def assert_numpy_did_it(topology: engine.Topology, why: str) -> None:
    assert topology.engine == "numpy"
    assert topology.worker_peak_bytes is None
    assert why in topology.note
    np.testing.assert_array_equal(topology.b1, EXPECTED)


def broken_numba(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Put a module named numba, which this process does not import, where the child will import it."""
    (folder / "numba.py").write_text(source)
    monkeypatch.syspath_prepend(folder)


@pytest.mark.usefixtures("no_child")
def test_few_small_clouds_are_not_worth_a_child(tmp_path: Path) -> None:
    topology = engine.first_betti(D2, tmp_path / "cache", budget_bytes=10**12)
    assert_numpy_did_it(topology, ".so; 6 matrices of 16 points take less than starting Numba")
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("no_child", "any_stack_is_worth_a_child")
def test_a_library_computes_in_this_process_within_any_budget(built: Built) -> None:
    topology = engine.first_betti(D2, built.cache, budget_bytes=1)
    assert (topology.engine, topology.note, topology.worker_peak_bytes) == ("aot", "", None)
    assert topology.b1.dtype == np.int64
    np.testing.assert_array_equal(topology.b1, EXPECTED)


@pytest.mark.parametrize("damage", ["truncated", "empty", "one bit", "no checksum", "checksum of another"])
@pytest.mark.usefixtures("no_child")
def test_a_damaged_library_is_never_loaded(cache: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = library_in(cache)
    content = bytearray(path.read_bytes())
    match damage:
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "empty":
            path.write_bytes(b"")
        case "one bit":
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        case "no checksum":
            library.checksum_path(path).unlink()
        case _:
            library.checksum_path(path).write_bytes(b"\xff" * 64)

    def fail(*_: object) -> None:
        pytest.fail("it was loaded")

    monkeypatch.setattr(ctypes, "CDLL", fail)
    assert_numpy_did_it(engine.first_betti(D2, cache), f"there is no intact {path}; 6 matrices")


@pytest.mark.parametrize("content", [b"no library at all", b"\x7fELF" + bytes(200)])
def test_a_library_that_the_system_refuses(cache: Path, content: bytes) -> None:
    path = library_in(cache)
    path.write_bytes(content)
    library.checksum_path(path).write_text(hashlib.sha256(content).hexdigest())
    assert_numpy_did_it(engine.first_betti(D2, cache), "cannot be loaded")


def test_a_library_of_another_version_is_not_taken(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_SOURCES", library._SOURCES[1:])
    assert_numpy_did_it(engine.first_betti(D2, cache), "there is no intact")


@pytest.mark.usefixtures("any_stack_is_worth_a_child")
def test_a_child_replaces_a_damaged_library_and_computes(cache: Path) -> None:
    path = library_in(cache)
    path.write_bytes(path.read_bytes()[:5000])
    for record in path.parent.glob("child-*"):
        record.unlink()
    topology = engine.first_betti(D2, cache, budget_bytes=10**12)
    assert (topology.engine, topology.note) == ("aot", "")
    np.testing.assert_array_equal(topology.b1, EXPECTED)
    assert topology.worker_peak_bytes is not None
    assert topology.worker_peak_bytes > 50 * MIB
    assert library.is_intact(path)
    (record,) = path.parent.glob("child-*.json")
    assert abs(json.loads(record.read_text())["peak_bytes"] - topology.worker_peak_bytes) < 5 * MIB
    assert engine.first_betti(D2, cache).worker_peak_bytes is None


@pytest.fixture(scope="module")
def jit_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests of this file, so that Numba compiles the kernels once."""
    return tmp_path_factory.mktemp("jit")


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")


@pytest.mark.usefixtures("any_stack_is_worth_a_child", "no_compiler")
def test_without_a_compiler_numba_computes_in_the_child(jit_cache: Path) -> None:
    source = Path(engine.__file__).parent
    before = sorted(source.rglob("*.nb*"))
    topology = engine.first_betti(D2, jit_cache)
    assert (topology.engine, topology.note) == ("numba", "no library was built: there is no C compiler")
    np.testing.assert_array_equal(topology.b1, EXPECTED)
    assert topology.worker_peak_bytes is not None
    assert topology.worker_peak_bytes > 50 * MIB
    assert list(jit_cache.rglob("*.nbi"))
    assert not list(jit_cache.rglob("*.so"))
    assert sorted(source.rglob("*.nb*")) == before


@pytest.mark.usefixtures("any_stack_is_worth_a_child", "no_compiler")
def test_a_child_starts_from_any_directory_with_relative_paths(
    jit_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(engine.__file__).parents[2]
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "path", ["", *(entry for entry in sys.path if Path(entry).resolve() != root)])
    (tmp_path / "json.py").write_text("raise RuntimeError('a stranger')")
    assert engine.first_betti(D2, Path(os.path.relpath(jit_cache))).engine == "numba"
    monkeypatch.setattr(sys, "path", [str(root), *sys.path[1:]])
    monkeypatch.chdir(tmp_path)  # a json.py lies in the working directory; it must not reach the child
    assert engine.first_betti(D2, jit_cache).engine == "numba"


@pytest.mark.usefixtures("no_child", "any_stack_is_worth_a_child")
def test_numpy_without_numba(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert_numpy_did_it(engine.first_betti(D2, tmp_path), "Numba is not installed")
    assert engine.first_betti(D2, built.cache).engine == "aot", "what is built needs no Numba"


@pytest.mark.parametrize("part", ["library", "folder"])
def test_a_library_that_others_could_have_written_is_not_loaded(
    cache: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = library_in(cache)
    assert engine.first_betti(D2, cache).engine == "aot"
    (path if part == "library" else path.parent).chmod(0o777)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: pytest.fail("it was loaded"))
    assert_numpy_did_it(engine.first_betti(D2, cache), "could have been written by others")


@pytest.mark.usefixtures("no_child", "any_stack_is_worth_a_child")
def test_a_budget_that_a_child_does_not_fit_forbids_it(tmp_path: Path) -> None:
    topology = engine.first_betti(D2, tmp_path, budget_bytes=160 * MIB)
    assert_numpy_did_it(topology, "of this process; the budget is 160")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("record", "child_mib"),
    [
        ('{"peak_bytes": 104857600}', 100),
        ('{"peak_bytes": 900}', None),
        ('{"peak_bytes": -5}', None),
        ('{"peak_bytes": true}', None),
        ('{"peak_bytes": "1"}', None),
        ('{"peak_bytes": 1e400}', None),
        ("[]", None),
        ("{", None),
        ("", None),
        (None, None),
    ],
)
@pytest.mark.usefixtures("any_stack_is_worth_a_child")
def test_what_an_earlier_child_took_decides(
    record: str | None, child_mib: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, build = library.cache_folder(tmp_path), library.build_id()
    folder.mkdir()
    if record is not None:
        (folder / f"child-{build}.json").write_text(record)
    answer = child.Answer(EXPECTED, "numba", 0.0, None, "stand-in")
    monkeypatch.setattr(child, "compute", lambda *_: answer)
    child_bytes = (child_mib * MIB if child_mib else child._EXPECTED_PEAK_BYTES) + child._LINKER_BYTES
    own_bytes = read_resident().resident_bytes
    assert engine.first_betti(D2, tmp_path, own_bytes + child_bytes + 20 * MIB).engine == "numba"
    assert engine.first_betti(D2, tmp_path, own_bytes + child_bytes - 20 * MIB).engine == "numpy"


def test_the_largest_peak_is_kept(tmp_path: Path) -> None:
    for peak_mib, kept_mib in ((100, 100), (90, 100), (120, 120)):
        child.record_peak(tmp_path, "build", peak_mib * MIB)
        assert child.expected_bytes(tmp_path, "build", 7) == kept_mib * MIB + child._LINKER_BYTES + 14
    child.record_peak(tmp_path / "missing", "build", MIB)  # a cache that cannot be written costs nothing but the record
    assert [path.name for path in tmp_path.iterdir()] == ["child-build.json"]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("raise ImportError('wrong NumPy')", "exit code 7 (error: Numba does not run here: wrong NumPy"),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
        ("import os; os._exit(0)", "answer cannot be read"),
        ("raise MemoryError", "exit code 4 (error: there was not enough memory"),
    ],
)
@pytest.mark.usefixtures("any_stack_is_worth_a_child")
def test_numpy_when_the_child_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, why: str) -> None:
    broken_numba(tmp_path, monkeypatch, source)
    assert_numpy_did_it(engine.first_betti(D2, tmp_path / "cache"), why)


@pytest.mark.parametrize(
    "source", ["raise KeyboardInterrupt", "import os; os.kill(os.getpid(), 2)", "import os; os.kill(os.getpid(), 15)"]
)
@pytest.mark.usefixtures("any_stack_is_worth_a_child")
def test_an_interrupt_of_the_child_is_one_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    broken_numba(tmp_path, monkeypatch, source)
    with pytest.raises(KeyboardInterrupt):
        engine.first_betti(D2, tmp_path / "cache")


@pytest.mark.usefixtures("any_stack_is_worth_a_child")
def test_numpy_when_the_child_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_numba(tmp_path, monkeypatch, "import time; time.sleep(60)")
    monkeypatch.setattr(child, "_TIMEOUT_S", 0.5)
    assert_numpy_did_it(engine.first_betti(D2, tmp_path / "cache"), "timed out")


@pytest.mark.parametrize(
    ("said", "b1", "why"),
    [
        ('{"engine": "aot", "seconds": 1, "peak_bytes": 1, "note": ""}', [0], "returned int64 (1,), expected int64"),
        ('{"engine": "gpu", "seconds": 1, "peak_bytes": 1, "note": ""}', [0] * 6, "answer cannot be read"),
        ('{"engine": "aot", "seconds": 1, "peak_bytes": []}', [0] * 6, "answer cannot be read"),
        ("[1]", [0] * 6, "answer cannot be read"),
    ],
)
@pytest.mark.usefixtures("any_stack_is_worth_a_child")
def test_numpy_when_the_child_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, b1: list[int], why: str
) -> None:
    np.save(tmp_path / "lie.npy", np.array(b1, dtype=np.int64))
    lie = f"""
import os, shutil, sys
shutil.copy({str(tmp_path / "lie.npy")!r}, sys.argv[3])
print({said!r}, flush=True)
os._exit(0)
"""
    broken_numba(tmp_path, monkeypatch, lie)
    assert_numpy_did_it(engine.first_betti(D2, tmp_path / "cache"), why)


@pytest.mark.usefixtures("any_stack_is_worth_a_child")
def test_numpy_without_a_cache_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_numpy_did_it(engine.first_betti(D2, tmp_path / "file"), "did not run")


@pytest.mark.usefixtures("any_stack_is_worth_a_child")
def test_numpy_without_a_python_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    assert_numpy_did_it(engine.first_betti(D2, tmp_path), "did not run")


def test_bad_input_is_an_error_not_a_fallback(tmp_path: Path) -> None:
    bad = D2.copy()
    bad[4, 1, 2] = np.nan
    with pytest.raises(InputError, match=r"Matrices \[4\] of 6, counted from 0, hold NaN"):
        engine.first_betti(bad, tmp_path)


def test_this_process_never_loads_numba(built: Built, jit_cache: Path) -> None:
    program = """
import sys
from pathlib import Path
import numpy as np
import ondevice.betti_numba
from ondevice.betti_numba import engine
engine._WORTH_A_CHILD = 0
for cache in sys.argv[1:]:
    print(engine.first_betti(1 - np.eye(4)[None], Path(cache)).engine)
engine.betti_curves(1 - np.eye(4)[None], Path(sys.argv[1]))
print("numba" in sys.modules, "llvmlite" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(built.cache), str(jit_cache)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PATH": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == ["aot", "numba", "False", "False"]
