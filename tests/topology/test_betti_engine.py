"""Which engine computes b1, and what happens to a run whose worker fails."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from persistence_oracles import clouds, distances

from ondevice.betti_numba import engine, numpy_path
from signatures.errors import InputError

D2 = distances(clouds("sparse", 16))
EXPECTED = numpy_path.betti_numbers(D2)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests of this file, so that the kernels are compiled once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _any_cloud_is_worth_a_worker(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "as_shipped" not in request.keywords:
        monkeypatch.setattr(engine, "_WORTH_A_WORKER", 0)


def assert_numpy_did_it(topology: engine.Topology, why: str) -> None:
    assert topology.engine == "numpy"
    assert topology.worker_peak_bytes is None
    assert why in topology.note
    np.testing.assert_array_equal(topology.b1, EXPECTED)


def broken_numba(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Put a module named numba, which this process finds but does not import, where the worker will import it."""
    (folder / "numba.py").write_text(source)
    monkeypatch.syspath_prepend(folder)


@pytest.mark.as_shipped
def test_few_small_clouds_are_not_worth_a_worker(cache_dir: Path) -> None:
    assert_numpy_did_it(engine.first_betti(D2, cache_dir), "less than a worker's start")


def test_worker_computes(cache_dir: Path) -> None:
    topology = engine.first_betti(D2, cache_dir)
    assert (topology.engine, topology.note) == ("numba", "")
    assert topology.b1.dtype == np.int64
    np.testing.assert_array_equal(topology.b1, EXPECTED)
    assert topology.worker_peak_bytes is not None
    assert topology.worker_peak_bytes > 50 * 2**20
    assert list((cache_dir / "numba").rglob("*.nbi"))


def test_works_from_any_directory_with_relative_paths(
    cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(engine.__file__).parents[2]
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "path", ["", *(entry for entry in sys.path if Path(entry).resolve() != root)])
    (tmp_path / "json.py").write_text("raise RuntimeError('a stranger')")
    assert engine.first_betti(D2, Path(os.path.relpath(cache_dir))).engine == "numba"
    monkeypatch.setattr(sys, "path", [str(root), *sys.path[1:]])
    monkeypatch.chdir(tmp_path)  # a json.py lies in the working directory; it must not reach the worker
    assert engine.first_betti(D2, cache_dir).engine == "numba"


def test_numpy_without_numba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "numba" else found(name, *rest)
    )
    assert_numpy_did_it(engine.first_betti(D2, tmp_path), "not installed")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("raise ImportError('wrong NumPy')", "exit code 7 (Numba does not run here: wrong NumPy"),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
        ("import os; os._exit(0)", "answer cannot be read"),
        ("raise MemoryError", "exit code 1 (MemoryError)"),
    ],
)
def test_numpy_when_the_worker_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, why: str) -> None:
    broken_numba(tmp_path, monkeypatch, source)
    assert_numpy_did_it(engine.first_betti(D2, tmp_path), why)


def test_numpy_when_the_worker_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_numba(tmp_path, monkeypatch, "import time; time.sleep(60)")
    monkeypatch.setattr(engine, "_WORKER_TIMEOUT_S", 0.5)
    assert_numpy_did_it(engine.first_betti(D2, tmp_path), "timed out")


def test_numpy_when_the_worker_returns_the_wrong_number_of_matrices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "short.npy", np.zeros(1, dtype=np.int64))
    lie = f"""
import os, shutil, sys
shutil.copy({str(tmp_path / "short.npy")!r}, sys.argv[2])
print('{{"seconds": 1, "peak_bytes": 1}}', flush=True)
os._exit(0)
"""
    broken_numba(tmp_path, monkeypatch, lie)
    assert_numpy_did_it(engine.first_betti(D2, tmp_path), "returned int64 (1,), expected int64 (6,)")


def test_numpy_without_a_cache_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_numpy_did_it(engine.first_betti(D2, tmp_path / "file"), "did not run")


def test_numpy_without_a_python_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    assert_numpy_did_it(engine.first_betti(D2, tmp_path), "did not run")


def test_bad_input_is_an_error_not_a_fallback(tmp_path: Path) -> None:
    bad = D2.copy()
    bad[4, 1, 2] = np.nan
    with pytest.raises(InputError, match=r"Matrices \[4\] of 6, counted from 0, hold NaN"):
        engine.first_betti(bad, tmp_path)


def test_this_process_never_loads_numba(cache_dir: Path) -> None:
    program = """
import sys
from pathlib import Path
import numpy as np
import ondevice.betti_numba
from ondevice.betti_numba import engine
engine._WORTH_A_WORKER = 0
topology = engine.first_betti(1 - np.eye(4)[None], Path(sys.argv[1]))
print(topology.engine, "numba" in sys.modules, "llvmlite" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(cache_dir)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == ["numba", "False", "False"]
