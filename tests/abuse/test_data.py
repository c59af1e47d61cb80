"""Data that is missing, damaged or does not fit: exit code 3 and one line that names it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.abuse.conftest import Abused
from tests.end_to_end import tiny


def write_folder(folder: Path, classes: tuple[str, ...] = tiny.CLASSES, count: int = 20) -> Path:
    """A plain folder of JPEG files in place of the packed dataset."""
    shutil.rmtree(folder)
    random = np.random.default_rng(1)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (24, 24, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02}.jpg")
    return folder


def test_a_good_folder_works_before_it_is_spoilt(abused: Abused) -> None:
    write_folder(abused.data)
    abused.adapt().succeeded()


def test_missing_data(abused: Abused) -> None:
    shutil.rmtree(abused.data)
    abused.refused(3, "pictures: no such folder")


def test_data_that_are_a_file(abused: Abused) -> None:
    shutil.rmtree(abused.data)
    abused.data.write_bytes(b"PK\x03\x04")
    abused.refused(3, "a file, expected a folder")


@pytest.mark.parametrize("content", [b"", b"no JPEG", b"\xff\xd8\xff\xe0 cut off"])
def test_a_photograph_that_cannot_be_decoded_is_named(abused: Abused, content: bytes) -> None:
    (write_folder(abused.data) / "green" / "07.jpg").write_bytes(content)
    abused.refused(3, "green/07.jpg: cannot be decoded")


def test_a_truncated_photograph_is_named(abused: Abused) -> None:
    path = write_folder(abused.data) / "red" / "19.jpg"
    path.write_bytes(path.read_bytes()[:-100])
    abused.refused(3, "red/19.jpg: cannot be decoded")


def test_a_single_class(abused: Abused) -> None:
    write_folder(abused.data, ("red",))
    abused.refused(3, "only one class folder, red")


def test_an_empty_class(abused: Abused) -> None:
    (write_folder(abused.data) / "yellow").mkdir()
    abused.refused(3, "yellow: an empty class")


def test_fewer_images_than_a_batch(abused: Abused) -> None:
    write_folder(abused.data, count=3)
    abused.refused(3, "has 6 training images, fewer than one batch of 8", "smaller --batch")


def test_another_number_of_classes_than_the_bundles_head(abused: Abused) -> None:
    write_folder(abused.data, ("red", "green"))
    abused.refused(3, "was exported for 3 classes", "has 2")


@pytest.mark.parametrize("label", [3, -1])
def test_labels_out_of_range(abused: Abused, label: int) -> None:
    path = abused.data / "train" / "labels.npy"
    labels = np.load(path)
    labels[5] = label
    np.save(path, labels)
    abused.refused(3, "labels run from", "expected 0 to 2 for 3 classes")


@pytest.mark.parametrize("name", ["train/images.npy", "test/labels.npy", "classes.json"])
def test_a_truncated_packed_dataset(abused: Abused, name: str) -> None:
    path = abused.data / name
    path.write_bytes(path.read_bytes()[:40])
    abused.refused(3, name)


def test_pickled_labels_are_not_loaded(abused: Abused) -> None:
    np.save(abused.data / "train" / "labels.npy", np.array([{"a": 1}] * 48, object), allow_pickle=True)
    abused.refused(3, "train/labels.npy")


@pytest.mark.parametrize("what", ["are all the same picture", "are of one colour each"])
def test_images_in_which_there_is_nothing_to_see(abused: Abused, what: str) -> None:
    """A lens cap, or a loop that saved one frame again and again."""
    path = abused.data / "train" / "images.npy"
    images = np.load(path)
    if "same" in what:
        images[:] = images[0]
    else:
        images[:] = images[:, :1, :1]
    np.save(path, images)
    abused.refused(3, what, "nothing to learn")
