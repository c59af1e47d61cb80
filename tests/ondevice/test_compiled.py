"""The cache of compiled train files: what is taken from where, what is thrown away, what cannot be written."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ondevice.compiled import KEPT_FILES, default_cache, train_file
from signatures.catalogue import Bundle, read_bundle
from signatures.errors import CapabilityError
from signatures.head import with_new_head
from signatures.layers import find_layers
from signatures.optimizers import Optimizer
from signatures.subset import subset_of
from signatures.tflite_io import read_model
from tests.end_to_end import tiny

SGD = Optimizer()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(tiny.write_bundle(tmp_path_factory.mktemp("compiled") / "bundle", own_head=True))


def listed(bundle: Bundle, rho: float = tiny.RHOS[0]) -> tuple[str, ...]:
    return next(entry.layers for entry in bundle.manifest.train if entry.rho == rho)


def test_the_bundles_file_is_taken_where_all_of_it_fits(bundle: Bundle, tmp_path: Path) -> None:
    for rho in tiny.RHOS:
        subset = subset_of(bundle.layers, listed(bundle, rho))
        found = train_file(bundle, bundle.network, subset, tiny.BATCH, SGD, tmp_path / "cache")
        assert found.source == "bundle"
        assert read_model(found.path).signature("get_weights").outputs.keys() == {p.name for p in subset.parameters()}
    assert not (tmp_path / "cache").exists()


def test_every_other_request_is_compiled_and_then_found(bundle: Bundle, tmp_path: Path) -> None:
    subset = subset_of(bundle.layers, listed(bundle))
    wider = with_new_head(bundle.network, bundle.layers[-1], 4)
    requests = [
        (bundle.network, subset_of(bundle.layers, ["last", "head"]), tiny.BATCH, SGD),
        (bundle.network, subset, tiny.BATCH + 1, SGD),
        (bundle.network, subset, tiny.BATCH + 1, replace(SGD, weight_decay=0.01)),
        (wider, subset_of(find_layers(wider), subset.names), tiny.BATCH, SGD),
    ]
    assert len(requests) == KEPT_FILES
    paths = []
    for request in requests:
        compiled = train_file(bundle, *request, tmp_path)
        assert compiled.source == "compiled"
        assert read_model(compiled.path).signature("train").inputs["x"].shape[0] == request[2]
        paths.append(compiled.path)
    assert len(set(paths)) == len(requests)
    for request, path in zip(requests, paths, strict=True):
        found = train_file(bundle, *request, tmp_path)
        assert (found.source, found.path) == ("cache", path)


def test_a_file_without_its_digest_is_compiled_again(bundle: Bundle, tmp_path: Path) -> None:
    request = (bundle.network, subset_of(bundle.layers, ["head"]), tiny.BATCH, SGD)
    path = train_file(bundle, *request, tmp_path).path
    content = path.read_bytes()
    path.with_suffix(".sha256").unlink()
    assert train_file(bundle, *request, tmp_path).source == "compiled"
    path.unlink()
    assert train_file(bundle, *request, tmp_path).source == "compiled"
    assert path.read_bytes() == content
    assert not list(tmp_path.glob("*.partial"))


def test_the_cache_keeps_the_files_used_last(bundle: Bundle, tmp_path: Path) -> None:
    subset = subset_of(bundle.layers, ["head"])
    paths = []
    for number, batch in enumerate(range(2, 2 + KEPT_FILES)):
        path = train_file(bundle, bundle.network, subset, batch, SGD, tmp_path).path
        os.utime(path, (1000 + number, 1000 + number))
        paths.append(path)
    used_again = train_file(bundle, bundle.network, subset, 2, SGD, tmp_path)
    assert used_again.source == "cache"
    newest = train_file(bundle, bundle.network, subset, 99, SGD, tmp_path).path
    assert set(tmp_path.glob("*.tflite")) == {paths[0], *paths[2:], newest}
    assert {path.stem for path in tmp_path.glob("*.sha256")} == {path.stem for path in tmp_path.glob("*.tflite")}


def test_a_cache_that_cannot_be_written_is_told(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CapabilityError, match=r"cannot write the compiled model .* Set XDG_CACHE_HOME"):
        train_file(bundle, bundle.network, subset_of(bundle.layers, ["head"]), 5, SGD, tmp_path / "file" / "cache")


def test_the_cache_lies_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "adabet"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache() == tmp_path / "home" / ".cache" / "adabet"
