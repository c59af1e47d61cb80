"""weights.npz: what was written is read back by NumPy alone, and a write that fails leaves the old file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stnp

from ondevice.weights import write_weights

NAMES = st.from_regex(r"[a-z][a-z_0-9]{0,8}/(weight|bias)", fullmatch=True)
VALUES = stnp.arrays(np.float32, stnp.array_shapes(max_dims=4, max_side=5), elements=st.floats(width=32))


@given(weights=st.dictionaries(NAMES, VALUES, max_size=4))
def test_numpy_reads_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, weights: dict) -> None:
    path = tmp_path_factory.mktemp("checkpoint") / "weights.npz"
    write_weights(weights, path)
    with np.load(path, allow_pickle=False) as read:
        assert set(read) == set(weights)
        for name, value in weights.items():
            assert read[name].dtype == np.float32
            np.testing.assert_array_equal(read[name], value)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("fails", ["savez", "fsync"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path = tmp_path / "weights.npz"
    write_weights({"a/weight": np.ones(3, np.float32)}, path)
    before = path.read_bytes()

    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((np, "savez", full) if fails == "savez" else (os, "fsync", full)))
    with pytest.raises(OSError, match="No space left"):
        write_weights({"a/weight": np.zeros(3, np.float32)}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_older_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    path.write_text("something else")
    write_weights({"a/bias": np.arange(2, dtype=np.float32)}, path)
    with np.load(path) as read:
        assert read["a/bias"].tolist() == [0, 1]
