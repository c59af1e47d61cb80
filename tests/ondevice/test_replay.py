"""Replay: rows that are kept are what the prefix gives, whatever the order in which they are asked for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given
from hypothesis import strategies as st

from ondevice import replay
from ondevice.dataset import to_input
from ondevice.packed import Split
from ondevice.replay import (
    SPARE_BYTES,
    Features,
    Keeping,
    KeptRows,
    Pixels,
    Prefix,
    keep_rows,
    pictures,
    room_bytes,
)
from ondevice.runtime import LoadedModel
from signatures import cut as cuts
from signatures.catalogue import Preprocessing
from signatures.cut import Cut, cut_before
from signatures.errors import InputError
from signatures.graph import Array
from signatures.layers import find_layers
from signatures.micro_batches import prefix_model, suffix_model
from signatures.subset import subset_of
from signatures.tflite_io import write_model
from tests.signatures.branching import network

PREPROCESSING = Preprocessing(scale=(1 / 128, 1 / 100, 1 / 120), offset=(-1.0, -0.9, -1.1))
IMAGES, BATCH = 11, 4


def split(count: int = IMAGES, side: int = 8) -> Split:
    images = np.random.default_rng(count).integers(0, 256, (count, side, side, 3), np.uint8)
    return Split(images, np.zeros(count, np.int32))


def cut_of(*blocks: str) -> Cut:
    """A network cut before its last block, as deep as it can be."""
    graph = network(blocks)
    before = len(find_layers(network(blocks[:-1]))) - 1
    with mock.patch.object(cuts, "MACS_PER_BYTE", 0):
        return cut_before(graph, {layer.name for layer in find_layers(graph)[before:]})


def prefix_of(cut: Cut, data: Split, folder: Path, batch: int = BATCH) -> Prefix:
    path = folder / "prefix.tflite"
    write_model(prefix_model(cut.prefix, batch), path)
    return Prefix(LoadedModel(path, 1), batch, tuple(t.shape for t in cut.suffix.inputs), data, PREPROCESSING)


def keeping(dtype: str = "float32", mirrored: bool = False, images: int = IMAGES) -> Keeping:
    return Keeping(images, dtype, mirrored, room_bytes=1 << 30)


def silent(done: int, total: int) -> None:
    pass


def asked(seed: int = 0, count: int = 20, mirrored: bool = True) -> tuple[Array, Array]:
    """Rows in any order, some twice, and which of them are mirrored."""
    random = np.random.default_rng(seed)
    return random.integers(0, IMAGES, count), (random.random(count) < 0.5) & mirrored


def assert_same(got: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].dtype == np.float32
        np.testing.assert_array_equal(got[name], value)


CUTS = {
    "one value": cut_of("strided", "plain"),
    "a residual beside a branch": cut_of("branches", "strided", "gate"),
    "several rows an image": cut_of("strided", "tokens"),
}


@pytest.fixture(params=CUTS)
def cut(request: pytest.FixtureRequest) -> Cut:
    return CUTS[request.param]


def test_the_cuts_are_of_several_kinds() -> None:
    """Of one value and of several, of one row an image and of several."""
    shapes = [[t.shape for t in cut.suffix.inputs] for cut in CUTS.values()]
    assert {len(each) for each in shapes} == {1, 2}
    assert {shape[0] for each in shapes for shape in each} == {1, 16}


# What a killed process leaves ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("spoil", ["nothing", "a row", "half a row", "checks that are missing"])
def test_rows_that_were_written_are_not_made_again(tmp_path: Path, mirrored: bool, spoil: str) -> None:
    """Killed without notice in the middle: only what is not whole, and the rest of its batch, runs again."""
    cut = CUTS["one value"]
    whole = keep_rows(prefix_of(cut, split(), tmp_path), tmp_path / "whole", keeping(mirrored=mirrored), silent)
    path, total = tmp_path / "rows", IMAGES * (2 if mirrored else 1)
    stop = total - BATCH

    def die(done: int, total: int) -> None:
        if done >= stop:
            os._exit(9)

    child = os.fork()
    if not child:
        keep_rows(prefix_of(cut, split(), tmp_path), path, keeping(mirrored=mirrored), die)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    row_bytes = whole.path.stat().st_size // total
    left = path.stat().st_size // row_bytes
    assert left >= stop
    if spoil == "a row":
        content = bytearray(path.read_bytes())
        content[5 * row_bytes] ^= 1
        path.write_bytes(content)
    elif spoil == "half a row":
        path.write_bytes(path.read_bytes()[: -row_bytes // 2])
    elif spoil == "checks that are missing":
        path.with_name("rows.crc32").unlink()
    told: list[int] = []
    keep_rows(prefix_of(cut, split(), tmp_path), path, keeping(mirrored=mirrored), lambda done, _: told.append(done))
    assert path.read_bytes() == whole.path.read_bytes()
    assert path.with_name("rows.crc32").read_bytes() == whole.path.with_name("whole.crc32").read_bytes()
    first = {"nothing": left, "a row": 5 - 5 % BATCH, "half a row": left - 1, "checks that are missing": 0}[spoil]
    assert len(told) <= -(-(total - first) // BATCH) + 1


# What is kept --------------------------------------------------------------------------------------------------------


def test_kept_rows_are_what_a_bare_interpreter_gives(cut: Cut, tmp_path: Path) -> None:
    """For the same batches, in stored order; the last one is not full."""
    data = split()
    kept = keep_rows(prefix_of(cut, data, tmp_path), tmp_path / "rows", keeping(), silent)
    runner = Interpreter(model_path=str(tmp_path / "prefix.tflite"), num_threads=1).get_signature_runner("prefix")
    assert IMAGES % BATCH
    for first in range(0, IMAGES, BATCH):
        rows = np.arange(first, min(first + BATCH, IMAGES))
        inputs = to_input(data.images[rows], PREPROCESSING)
        fillers = np.zeros((BATCH - len(rows), *inputs.shape[1:]), np.float32)
        expected = runner(x=np.concatenate([inputs, fillers]))
        found = kept.take(rows, np.zeros(len(rows), bool))
        for i, tensor in enumerate(cut.suffix.inputs):
            assert found[f"x{i}"].shape == (len(rows) * tensor.shape[0], *tensor.shape[1:])
            np.testing.assert_array_equal(found[f"x{i}"].reshape(len(rows), -1), expected[f"x{i}"][: len(rows)])


def test_rows_come_back_in_the_order_in_which_they_are_asked_for(cut: Cut, tmp_path: Path) -> None:
    """And are what the prefix gives when it runs again, exactly; the images of its batches are others."""
    prefix = prefix_of(cut, split(), tmp_path)
    kept = keep_rows(prefix, tmp_path / "rows", keeping(mirrored=True), silent)
    for seed in range(3):
        assert_same(kept.take(*asked(seed)), prefix.take(*asked(seed)))


def test_mirrored_rows_are_those_of_mirrored_images(cut: Cut, tmp_path: Path) -> None:
    data = split()
    mirrored = Split(np.ascontiguousarray(data.images[:, :, ::-1]), data.labels)
    (tmp_path / "other").mkdir()
    kept = keep_rows(prefix_of(cut, data, tmp_path), tmp_path / "rows", keeping(mirrored=True), silent)
    other = keep_rows(prefix_of(cut, mirrored, tmp_path / "other"), tmp_path / "other" / "rows", keeping(), silent)
    every = np.arange(IMAGES)
    assert_same(kept.take(every, np.ones(IMAGES, bool)), other.take(every, np.zeros(IMAGES, bool)))
    found, plain = (kept.take(every, np.full(IMAGES, flip)) for flip in (True, False))
    assert any(np.abs(found[name] - plain[name]).max() > 1e-2 for name in found), "mirroring changes nothing"


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_file_is_as_large_as_was_said(cut: Cut, tmp_path: Path, dtype: str, mirrored: bool) -> None:
    """A row an image, behind them one a mirrored image; and no more."""
    how = keeping(dtype, mirrored)
    kept = keep_rows(prefix_of(cut, split(), tmp_path), tmp_path / "rows", how, silent)
    elements = sum(tensor.size for tensor in cut.suffix.inputs)
    n_bytes = elements * {"float32": 4, "float16": 2}[dtype] * IMAGES * (1 + mirrored)
    assert kept.path.stat().st_size == n_bytes == how.kept_bytes(cut, 0)


@pytest.mark.parametrize("mirrored", [False, True])
def test_progress_counts_images_to_the_last(tmp_path: Path, mirrored: bool) -> None:
    told: list[tuple[int, int]] = []
    prefix = prefix_of(CUTS["one value"], split(), tmp_path)
    keep_rows(prefix, tmp_path / "rows", keeping(mirrored=mirrored), lambda *each: told.append(each))
    counts = [4, 8, 11, 15, 19, 22] if mirrored else [4, 8, 11]
    assert told == [(done, counts[-1]) for done in counts]


# Half precision ------------------------------------------------------------------------------------------------------


def test_float16_rows_are_within_half_precision(cut: Cut, tmp_path: Path) -> None:
    """11 binary digits: half of the last is 2⁻¹¹ of the value; below 2⁻¹⁴ steps no longer shrink."""
    prefix = prefix_of(cut, split(), tmp_path)
    kept = keep_rows(prefix, tmp_path / "rows", keeping("float16", mirrored=True), silent)
    found, exact = kept.take(*asked()), prefix.take(*asked())
    assert found.keys() == exact.keys()
    for name, value in exact.items():
        assert found[name].dtype == np.float32
        assert np.all(np.abs(found[name] - value) <= 2.0**-11 * np.maximum(np.abs(value), 2.0**-14))
        assert not np.array_equal(found[name], value)


class Prepared:
    """In place of a model: values by the first pixel of each image, from a table with a row an image."""

    def __init__(self, *tables: Array) -> None:
        self.tables = tables

    def call(self, name: str, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        assert name == "prefix"
        first = (inputs["x"][:, 0, 0, 0] - np.float32(PREPROCESSING.offset[0])) / np.float32(PREPROCESSING.scale[0])
        return {f"x{i}": table[np.rint(first).astype(int)] for i, table in enumerate(self.tables)}


def numbered(count: int) -> Split:
    """Images whose left pixels are their number, and whose right pixels are 100 more."""
    images = np.zeros((count, 1, 2, 3), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.arange(count)[:, None], 100 + np.arange(count)[:, None]
    return Split(images, np.zeros(count, np.int32))


@pytest.mark.parametrize(("value", "fits"), [(65504.0, True), (-65504.0, True), (65520.0, False), (-1e30, False)])
def test_a_value_that_float16_does_not_hold_is_refused(tmp_path: Path, value: float, fits: bool) -> None:
    table = np.ones((100, 3), np.float32)
    table[5, 1] = value
    prefix = Prefix(Prepared(table), 2, ((1, 3),), numbered(6), PREPROCESSING)
    if fits:
        kept = keep_rows(prefix, tmp_path / "rows", keeping("float16", images=6), silent)
        np.testing.assert_array_equal(kept.take(np.array([5]), np.array([False]))["x0"], table[5:6])
        return
    with pytest.raises(InputError, match="do not fit float16: keep float32"):
        keep_rows(prefix, tmp_path / "rows", keeping("float16", images=6), silent)
    kept = keep_rows(prefix, tmp_path / "rows", keeping(images=6), silent)
    np.testing.assert_array_equal(kept.take(np.array([5]), np.array([False]))["x0"], table[5:6])


# Any number of images, any batch, any request ------------------------------------------------------------------------


@given(count=st.integers(1, 12), batch=st.integers(1, 5), data=st.data())
def test_every_request_gets_its_rows(
    tmp_path_factory: pytest.TempPathFactory, count: int, batch: int, data: st.DataObject
) -> None:
    """From the file, and from the prefix where it runs again."""
    random = np.random.default_rng([count, batch])
    tables = [random.normal(size=(120, size)).astype(np.float32) for size in (3, 4)]
    crossing = ((1, 3), (2, 2))
    prefix = Prefix(Prepared(*tables), batch, crossing, numbered(count), PREPROCESSING)
    path = tmp_path_factory.mktemp("rows") / "rows"
    kept = keep_rows(prefix, path, keeping(mirrored=True, images=count), silent)
    rows = np.array(data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=9)))
    flipped = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))))
    expected = [table[rows + 100 * flipped] for table in tables]
    features: list[Features] = [kept, prefix]
    for found in (each.take(rows, flipped) for each in features):
        assert_same(found, {"x0": expected[0], "x1": expected[1].reshape(-1, 2)})


def test_the_images_of_the_split_stay_as_they_are() -> None:
    data = split()
    before = data.images.copy()
    rows, flipped = asked()
    found = pictures(data, rows, flipped)
    np.testing.assert_array_equal(data.images, before)
    for image, row, flip in zip(found, rows, flipped, strict=True):
        np.testing.assert_array_equal(image, before[row][:, ::-1] if flip else before[row])


def test_at_the_input_the_images_go_in() -> None:
    data = split()
    rows, flipped = asked()
    expected = to_input(pictures(data, rows, flipped), PREPROCESSING)
    assert_same(Pixels(data, PREPROCESSING).take(rows, flipped), {"x0": expected})


def test_what_is_taken_is_what_the_suffix_takes(cut: Cut, tmp_path: Path) -> None:
    """In an interpreter, which checks names, shapes and types."""
    kept = keep_rows(prefix_of(cut, split(), tmp_path), tmp_path / "rows", keeping(), silent)
    subset = subset_of(find_layers(cut.suffix), [find_layers(cut.suffix)[-1].name])
    path = tmp_path / "suffix.tflite"
    write_model(suffix_model(cut.suffix, subset, 2, 2), path)
    model = LoadedModel(path, 1)
    others = {n: np.zeros(s, np.float32) for n, s in model.inputs("gradients").items() if not n.startswith("x")}
    model.call("gradients", {**others, **kept.take(np.array([3, 1]), np.array([False, False]))})


# What goes wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", ["nothing", "some rows", "half of the last row"])
def test_a_file_that_was_cut_short_is_told(tmp_path: Path, left: str) -> None:
    kept = keep_rows(prefix_of(CUTS["one value"], split(), tmp_path), tmp_path / "rows", keeping(), silent)
    n_bytes = kept.path.stat().st_size
    row = n_bytes // IMAGES
    with kept.path.open("r+b") as file:
        file.truncate({"nothing": 0, "some rows": 3 * row, "half of the last row": n_bytes - row // 2}[left])
    with pytest.raises(InputError, match=r"rows has been cut short while training: start again"):
        kept.take(np.array([1, IMAGES - 1]), np.array([False, False]))


def test_a_row_beyond_the_file_is_never_made_up(tmp_path: Path) -> None:
    """Mirrored rows that were not kept."""
    kept = keep_rows(prefix_of(CUTS["one value"], split(), tmp_path), tmp_path / "rows", keeping(), silent)
    with pytest.raises(InputError, match="cut short"):
        kept.take(np.array([0]), np.array([True]))


# Room ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_are_kept_where_there_is_room_for_all(cut: Cut, dtype: str, mirrored: bool) -> None:
    n_bytes = keeping(dtype, mirrored).kept_bytes(cut, 7)
    assert n_bytes > 0
    for room, expected in ((n_bytes + 7, n_bytes), (n_bytes + 6, 0), (0, 0)):
        assert Keeping(IMAGES, dtype, mirrored, room).kept_bytes(cut, 7) == expected


def test_there_is_nothing_to_keep_of_images_themselves() -> None:
    graph = network(["plain"])
    cut = cut_before(graph, {find_layers(graph)[0].name})
    assert cut.at_input
    assert keeping().kept_bytes(cut, 7) == 0


def test_room_is_what_the_disk_has_but_for_a_reserve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = type(shutil.disk_usage(tmp_path))
    for free, expected in ((SPARE_BYTES + 5, 5), (SPARE_BYTES, 0), (7, 0)):
        monkeypatch.setattr(replay.shutil, "disk_usage", lambda folder, free=free: usage(1 << 40, 0, free))
        assert room_bytes(tmp_path) == expected


def test_a_kept_row_is_read_and_not_mapped(tmp_path: Path) -> None:
    """Mapped pages would count as memory of this process."""
    kept = KeptRows(tmp_path / "rows", "float32", 1, ((1, 2),))
    kept.path.write_bytes(np.array([1, 2], np.float32).tobytes())
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc to look for mappings in")
    values = kept.take(np.array([0]), np.array([False]))["x0"]
    assert str(kept.path) not in maps.read_text()
    np.testing.assert_array_equal(values, [[1, 2]])
