"""Files that are there whole or not at all, and what killed processes leave beside them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from signatures.durable import overwriting, remove_left_over, replacing


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_at_the_end(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with replacing(path, durable) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_fails_leaves_the_old_file_and_no_other(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("old", [None, b"o", b"old and longer"])
def test_a_file_is_written_over(tmp_path: Path, old: bytes | None) -> None:
    """The same file: another name of it sees it too."""
    path, alias = tmp_path / "a", tmp_path / "b"
    if old is not None:
        path.write_bytes(old)
        alias.hardlink_to(path)
    with overwriting(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert old is None or alias.read_bytes() == b"new"


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left = tmp_path / f"a.tflite.{int(ended.stdout)}.partial"
    others = [tmp_path / f"a.tflite.{os.getpid()}.partial", tmp_path / "b.partial", tmp_path / f"c.{10**30}.partial"]
    for path in (left, *others):
        path.write_bytes(b"half")
    remove_left_over(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(others)
