"""The worker process: ``python -m ondevice.betti_numba``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from persistence_oracles import clouds, distances

import ondevice.betti_numba.__main__ as worker
from ondevice.betti_numba import numpy_path

ROOT = Path(worker.__file__).parents[2]


def run_worker(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ondevice.betti_numba", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_fresh_process_computes_and_keeps_its_cache_outside_the_source(tmp_path: Path) -> None:
    d2 = distances(clouds("grid", 32))
    np.save(tmp_path / "d2.npy", d2)
    done = run_worker(tmp_path / "d2.npy", tmp_path / "b1.npy", NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert set(said) == {"peak_bytes", "seconds"}
    assert 50 * 2**20 < said["peak_bytes"] < 500 * 2**20
    assert 0 < said["seconds"] < 1
    b1 = np.load(tmp_path / "b1.npy")
    assert b1.dtype == np.int64
    np.testing.assert_array_equal(b1, numpy_path.betti_numbers(d2))
    assert list((tmp_path / "cache").rglob("*.nbi"))
    assert not list((ROOT / "ondevice").rglob("*.nbi"))


def test_bad_file_ends_with_3(tmp_path: Path) -> None:
    (tmp_path / "d2.npy").write_bytes(b"not an array")
    done = run_worker(tmp_path / "d2.npy", tmp_path / "b1.npy")
    assert done.returncode == 3
    assert "d2.npy" in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "b1.npy").exists()


def test_numba_that_cannot_be_imported_ends_with_7(tmp_path: Path) -> None:
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 2.4 or less')")
    np.save(tmp_path / "d2.npy", np.zeros((1, 3, 3)))
    done = run_worker(tmp_path / "d2.npy", tmp_path / "b1.npy", PYTHONPATH=str(tmp_path))
    assert done.returncode == 7
    assert "NumPy 2.4 or less" in done.stderr


def test_missing_arguments_end_with_2() -> None:
    assert run_worker().returncode == 2


def save(path: Path, content: object) -> None:
    np.save(path, content, allow_pickle=True)


@pytest.mark.parametrize(
    "content",
    [
        np.full((2, 3, 3), np.nan),
        np.ones((2, 3, 4)),
        np.ones((3, 3)),
        np.zeros((1, 3, 3), dtype=np.int64),
        np.empty((0, 3, 3)),
        np.array([[[{}]]], dtype=object),
    ],
    ids=["nan", "not square", "no stack", "integers", "empty", "pickle"],
)
def test_wrong_contents_end_with_3(tmp_path: Path, content: object) -> None:
    save(tmp_path / "d2.npy", content)
    assert worker.main([str(tmp_path / "d2.npy"), str(tmp_path / "b1.npy")]) == 3


def test_missing_file_archive_and_lying_header_end_with_3(tmp_path: Path) -> None:
    np.savez(tmp_path / "archive.npz", a=np.ones((1, 3, 3)))
    save(tmp_path / "honest.npy", np.zeros((1, 9, 9)))
    lie = (tmp_path / "honest.npy").read_bytes().replace(b"(1, 9, 9), }      ", b"(99999, 99999, 99999), }")
    (tmp_path / "lying.npy").write_bytes(lie)
    for name in ("missing.npy", "archive.npz", "lying.npy", "."):
        assert worker.main([str(tmp_path / name), str(tmp_path / "b1.npy")]) == 3, name


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_headers_never_crash(tmp_path: Path, data: st.DataObject) -> None:
    save(tmp_path / "good.npy", np.zeros((1, 2, 2)))
    damaged = bytearray((tmp_path / "good.npy").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, 79))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.npy"
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    assert worker.main([str(path), str(tmp_path / "b1.npy")]) in (0, 3)


def test_output_that_cannot_be_written_ends_with_7(tmp_path: Path) -> None:
    np.save(tmp_path / "d2.npy", np.zeros((1, 3, 3)))
    assert worker.main([str(tmp_path / "d2.npy"), str(tmp_path)]) == 7
