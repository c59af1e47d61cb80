"""Manifests: what is written reads back, and whatever else stands there is refused with an InputError."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signatures.catalogue import read_bundle, train_file_name, write_manifest
from signatures.errors import InputError
from tests.end_to_end import tiny

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["..", "/etc/passwd", "a\0b", "model.tflite", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_bundle(tmp_path_factory.mktemp("manifests") / "bundle", own_head=True)


@pytest.fixture(scope="module")
def damaged(folder: Path) -> Callable[[bytes], object]:
    """Reads the bundle with other bytes as its manifest: None if that is refused as it should be, else the bundle."""
    copy = Path(shutil.copytree(folder, folder.with_name("damaged")))

    def read(manifest: bytes) -> object:
        (copy / "manifest.json").write_bytes(manifest)
        try:
            return read_bundle(copy)
        except InputError:
            return None

    return read


def places(node: Any, path: tuple = ()) -> list[tuple]:
    """The path of every value in a JSON document."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


def replaced(node: Any, path: tuple, value: Any) -> Any:
    if not path:
        return value
    copy = node.copy()
    copy[path[0]] = replaced(node[path[0]], path[1:], value)
    return copy


def test_what_is_written_reads_back(folder: Path, tmp_path: Path) -> None:
    bundle = read_bundle(folder)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "manifest.json").unlink()
    write_manifest(bundle.manifest, copy)
    assert (copy / "manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()
    again = read_bundle(copy)
    assert again.manifest == bundle.manifest
    assert again.layers == bundle.layers
    assert again.folder == copy


@pytest.mark.parametrize("rho", [0.01, 0.05, 0.1, 0.29, 1.0])
def test_train_files_are_named_by_hundredths(rho: float) -> None:
    assert train_file_name(rho) == f"train_rho{int(100 * rho + 0.5):03}.tflite"


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_value_that_was_replaced_is_refused_or_makes_no_difference_to_what_is_used(
    folder: Path, damaged: Callable[[bytes], object], data: st.DataObject
) -> None:
    """Never another exception; and what is accepted still is a bundle of this network."""
    document = json.loads((folder / "manifest.json").read_text())
    place = data.draw(st.sampled_from(places(document)))
    bundle = damaged(json.dumps(replaced(document, place, data.draw(JUNK))).encode("utf-8", "surrogatepass"))
    if bundle is not None:
        assert bundle.layers == read_bundle(folder).layers
        assert place[0] in ("network", "weights", "ranking", "own_head", "preprocessing", "train", "files")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_key_that_is_missing_is_refused(
    folder: Path, damaged: Callable[[bytes], object], data: st.DataObject
) -> None:
    document = json.loads((folder / "manifest.json").read_text())
    inside = [place for place in places(document) if place and isinstance(place[-1], str)]
    *parent, key = data.draw(st.sampled_from(inside))
    node = document
    for step in parent:
        node = node[step]
    del node[key]
    assert damaged(json.dumps(document).encode()) is None


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_bytes_that_were_changed_are_refused_or_leave_the_same_network(
    folder: Path, damaged: Callable[[bytes], object], data: st.DataObject
) -> None:
    text = bytearray((folder / "manifest.json").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    bundle = damaged(bytes(text))
    assert bundle is None or bundle.layers == read_bundle(folder).layers


@given(end=st.floats(0, 1, exclude_max=True))
def test_a_truncated_manifest_is_refused(folder: Path, damaged: Callable[[bytes], object], end: float) -> None:
    text = (folder / "manifest.json").read_bytes().rstrip()
    assert damaged(text[: int(end * len(text))]) is None


@given(st.binary(max_size=200))
def test_anything_else_is_refused(damaged: Callable[[bytes], object], junk: bytes) -> None:
    assert damaged(junk) is None


@given(JUNK)
def test_any_other_json_is_refused(damaged: Callable[[bytes], object], junk: Any) -> None:
    assert damaged(json.dumps(junk).encode("utf-8", "surrogatepass")) is None
