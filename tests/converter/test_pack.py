"""Packing on the host: folders, .npz files, arrays, and the digits of the demo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from converter.demo_data import stratified_split, write_digits
from converter.pack import pack, pack_arrays, pack_folder, pack_npz
from ondevice.packed import read_packed
from signatures.errors import InputError, UsageError

RNG = np.random.default_rng(0)
ARRAYS = {
    "train_images": RNG.integers(0, 256, (6, 8, 8, 3), np.uint8),
    "train_labels": np.array([0, 1, 2, 0, 1, 2]),
    "test_images": RNG.integers(0, 256, (3, 8, 8, 3), np.uint8),
    "test_labels": np.array([2, 1, 0], np.uint8),
    "classes": np.array(["cat", "dog", "eel"]),
}


def test_an_npz_is_packed(tmp_path: Path) -> None:
    np.savez(tmp_path / "pets.npz", **ARRAYS)
    dataset = pack(tmp_path / "pets.npz", tmp_path / "out", 8, 0)
    np.testing.assert_array_equal(dataset.train.images, ARRAYS["train_images"])
    np.testing.assert_array_equal(dataset.test.labels, ARRAYS["test_labels"])
    assert dataset.test.labels.dtype == np.int32
    assert dataset.classes == ("cat", "dog", "eel")
    assert sorted(str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.*")) == [
        "classes.json", "test/images.npy", "test/labels.npy", "train/images.npy", "train/labels.npy",
    ]  # fmt: skip
    assert pack(tmp_path / "pets.npz", tmp_path / "large", 20, 0).image_shape == (20, 20)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("test_images", None, "lacks test_images"),
        ("train_labels", np.array([0, 1, 2, 0, 1, 3]), "labels run from 0 to 3"),
        ("train_labels", np.array([0.0, 1, 2, 0, 1, 2]), "float64"),
        ("train_labels", np.array([0, 1, 2, 0, 1, 2**32]), "integers from 0"),
        ("train_labels", np.array([0, 1]), "6 images but 2 labels"),
        ("train_images", ARRAYS["train_images"] / 255, "float64"),
        ("classes", np.array(["cat", "dog", None], object), "pickle"),
    ],
)
def test_an_npz_that_is_no_dataset(tmp_path: Path, name: str, value: np.ndarray | None, says: str) -> None:
    arrays = {key: array for key, array in {**ARRAYS, name: value}.items() if array is not None}
    np.savez(tmp_path / "pets.npz", **arrays)
    with pytest.raises(InputError, match=says) as caught:
        pack_npz(tmp_path / "pets.npz", tmp_path / "out", 8)
    assert "pets.npz" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("keep", [0, 10, 700, -30])
def test_a_damaged_npz(tmp_path: Path, keep: int) -> None:
    np.savez_compressed(tmp_path / "pets.npz", **ARRAYS)
    (tmp_path / "pets.npz").write_bytes((tmp_path / "pets.npz").read_bytes()[:keep])
    with pytest.raises(InputError, match=r"pets\.npz"):
        pack(tmp_path / "pets.npz", tmp_path / "out", 8, 0)


def test_a_missing_source(tmp_path: Path) -> None:
    for name in ("missing.npz", "missing"):
        with pytest.raises(InputError, match=name):
            pack(tmp_path / name, tmp_path / "out", 8, 0)


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 8, 8, 1)])
def test_grey_images_become_rgb(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = RNG.integers(0, 256, shape, np.uint8)
    split = (images, np.array([0, 1, 0, 1]))
    dataset = pack_arrays(split, split, ("cat", "dog"), tmp_path / "out", 8)
    for channel in range(3):
        np.testing.assert_array_equal(dataset.train.images[..., channel], images.reshape(4, 8, 8))


def make_folder(root: Path) -> Path:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for row in range(5):
            Image.fromarray(RNG.integers(0, 256, (40, 50, 3), np.uint8)).save(root / name / f"{row}.png")
    return root


def test_a_folder_is_packed_and_a_packed_one_packed_again(tmp_path: Path) -> None:
    large = pack(make_folder(tmp_path / "pets"), tmp_path / "large", 40, 7)
    assert (len(large.train), len(large.test)) == (8, 2)
    small = pack_folder(tmp_path / "large", tmp_path / "small", 20, 0)
    assert small.image_shape == (20, 20)
    np.testing.assert_array_equal(small.train.labels, large.train.labels)
    assert pack(tmp_path / "pets", tmp_path / "again", 40, 7).fingerprint == large.fingerprint


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    make_folder(tmp_path / "pets")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(UsageError, match="exists already"):
        pack(tmp_path / "pets", tmp_path / "out", 16, 0)
    assert (tmp_path / "out" / "mine").read_text() == "precious"
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["mine"]


def test_an_interrupted_pack_leaves_nothing(tmp_path: Path) -> None:
    make_folder(tmp_path / "pets")

    def interrupt(done: int, total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(tmp_path / "pets", tmp_path / "out", 16, 0, interrupt)
    assert [entry.name for entry in tmp_path.iterdir()] == ["pets"]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.data(), st.integers(0, 9))
def test_a_stratified_split_keeps_proportions(labels: list[int], data: st.DataObject, seed: int) -> None:
    first = data.draw(st.integers(0, len(labels)))
    ids = np.array(labels, np.int32)
    train, test = stratified_split(ids, first, seed)
    assert len(train) == first
    assert sorted([*train, *test]) == list(range(len(labels)))
    counts, drawn = np.bincount(ids), np.bincount(ids[train], minlength=max(labels) + 1)
    assert np.all(np.abs(drawn - counts * first / len(labels)) <= 1 + 1e-9)


def test_the_digits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    dataset = write_digits(tmp_path / "digits", 32)
    assert (len(dataset.train), len(dataset.test)) == (1000, 797)
    assert dataset.classes == tuple("0123456789")
    assert np.bincount(dataset.train.labels).min() >= 96
    images = np.asarray(dataset.train.images)
    assert images.min() == 0
    assert images.max() == 255
    assert np.array_equal(images[..., 0], images[..., 2])
    assert read_packed(tmp_path / "digits").fingerprint == dataset.fingerprint
    with pytest.raises(UsageError):
        write_digits(tmp_path / "digits", 32)
