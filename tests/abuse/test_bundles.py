"""Bundles that are missing, damaged or lie: exit code 3 and one line, in a fresh process."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import numpy as np
import pytest

from signatures.build import train_model
from signatures.catalogue import read_bundle
from signatures.optimizers import Optimizer
from signatures.subset import subset_of
from signatures.tflite_io import model_bytes
from tests.abuse.conftest import Abused, edit_manifest, replace_file
from tests.end_to_end import tiny
from tests.end_to_end.commands import Finished

Spoil = Callable[[Abused], object]
Edit = Callable[[dict], object]


def test_the_bundle_works_before_it_is_spoilt(abused: Abused) -> None:
    abused.adapt().succeeded()


MISSING: dict[str, tuple[Spoil, str]] = {
    "no such folder": (lambda a: shutil.rmtree(a.bundle), "is no bundle"),
    "a file": (lambda a: (shutil.rmtree(a.bundle), a.bundle.write_text("bundle")), "is no bundle"),
    "an empty folder": (lambda a: [path.unlink() for path in a.bundle.iterdir()], "is no bundle"),
    "no model": (lambda a: (a.bundle / "model.tflite").unlink(), "model.tflite"),
    "no train file": (lambda a: (a.bundle / "train_rho060.tflite").unlink(), "train_rho060.tflite"),
    "the manifest a folder": (
        lambda a: ((a.bundle / "manifest.json").unlink(), (a.bundle / "manifest.json").mkdir()),
        "is no bundle",
    ),
}


@pytest.mark.parametrize("case", MISSING)
def test_a_bundle_with_something_missing_is_refused(abused: Abused, case: str) -> None:
    spoil, said = MISSING[case]
    spoil(abused)
    abused.refused(3, said)


MANIFESTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda text: text[: len(text) // 2], "is damaged"),
    "empty": (lambda text: b"", "is damaged"),
    "no JSON": (lambda text: b"once upon a time", "is damaged"),
    "no text": (lambda text: b"\xff\xfe\x00\x81" * 50, "is damaged"),
    "a list": (lambda text: b"[1, 2]", "is no manifest"),
    "nested without end": (lambda text: b"[" * 200_000, "is damaged"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_that_is_none_is_refused(abused: Abused, case: str) -> None:
    spoil, said = MANIFESTS[case]
    path = abused.bundle / "manifest.json"
    path.write_bytes(spoil(path.read_bytes()))
    abused.refused(3, "manifest.json", said)


EDITS: dict[str, tuple[Edit, str]] = {
    "another format": (lambda m: m.update(format="zip"), "is no manifest of format 'adabet-bundle'"),
    "a later version": (lambda m: m.update(version=2), "has version 2; this program reads version 1"),
    "a path that leaves the bundle": (
        lambda m: m["files"][0].update(name="../pictures/classes.json"),
        "'../pictures/classes.json', which is not a plain file name",
    ),
    "an absolute path": (lambda m: m["files"][0].update(name="/etc/passwd"), "not a plain file name"),
    "the folder above": (lambda m: m["files"][0].update(name=".."), "not a plain file name"),
    "a name that no file can have": (lambda m: m["files"][0].update(name="a\0b"), "a\\x00b"),
    "a train file that leaves the bundle": (
        lambda m: m["train"][0].update(file="../train.tflite"),
        "uses ../train.tflite but does not list it",
    ),
    "another digest": (lambda m: m["files"][-1].update(sha256="0" * 64), "does not have the sha256"),
    "another size": (lambda m: m["files"][-1].update(n_bytes=7), "the manifest says 7"),
    "a model that is not listed": (lambda m: m.update(files=[]), "uses model.tflite but does not list it"),
    "no layer table": (lambda m: m.pop("layers"), "KeyError: 'layers'"),
    "other sizes of layers": (lambda m: m["layers"][2].update(parameters=1), "the layer table"),
    "one layer fewer": (lambda m: m["layers"].pop(), "the layer table"),
    "another image size": (lambda m: m.update(image=32), "does not take one float32 image of [1, 32, 32, 3]"),
    "another number of classes": (lambda m: m.update(classes=4), "does not return float32 logits of 4 classes"),
    "a scale that is no number": (lambda m: m["preprocessing"].update(scale=[1, 1, float("nan")]), "is damaged"),
    "two channels": (lambda m: m["preprocessing"].update(offset=[1, 1]), "is damaged"),
    "a size of 400 digits": (lambda m: m["train"][0].update(rho=10**400), "is damaged"),
    "a head that is perhaps the owner's": (lambda m: m.update(own_head="no"), "is damaged"),
}


@pytest.mark.parametrize("case", EDITS)
def test_a_manifest_that_lies_is_refused(abused: Abused, case: str) -> None:
    edit, said = EDITS[case]
    edit_manifest(abused.bundle, edit)
    abused.refused(3, said)


FILES: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "truncated model": ("model.tflite", lambda data: data[: len(data) // 3], "bytes, the manifest says"),
    "model with one bit turned": ("model.tflite", lambda data: data[:-9] + bytes([data[-9] ^ 4]) + data[-8:], "sha256"),
    "truncated train file": ("train_rho030.tflite", lambda data: data[:-1], "bytes, the manifest says"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_not_what_the_manifest_says_is_refused(abused: Abused, case: str) -> None:
    name, spoil, said = FILES[case]
    path = abused.bundle / name
    path.write_bytes(spoil(path.read_bytes()))
    abused.refused(3, name, said)


def noise(data: bytes, start: int, stop: int) -> bytes:
    return data[:start] + np.random.default_rng(start).bytes(stop - start) + data[stop:]


MODELS: dict[str, Callable[[bytes], bytes]] = {
    "text": lambda data: b"This is not a model." * 20,
    "one byte": lambda data: b"\x00",
    "an identifier and nothing else": lambda data: data[:8],
    "cut in the graph": lambda data: data[:2000],
    "cut in the weights": lambda data: data[:-1000],
    "noise in the root": lambda data: noise(data, 8, 64),
    "noise in the graph": lambda data: noise(data, 1000, 3000),
    "noise at the end of the graph": lambda data: noise(data, 6000, 8000),
    "a root that points outside": lambda data: b"\xf0\xff\xff\x7f" + data[4:],
}


@pytest.mark.parametrize("case", MODELS)
def test_a_damaged_model_that_the_manifest_vouches_for_is_refused(abused: Abused, case: str) -> None:
    data = (abused.bundle / "model.tflite").read_bytes()
    replace_file(abused.bundle, "model.tflite", MODELS[case](data))
    abused.refused(3)


def verify(abused: Abused) -> Finished:
    """What opens the train files: `adapt` compiles its own, and checks no more of them than their digests."""
    return abused.commands.converter("verify", abused.bundle)


@pytest.mark.parametrize("case", ["text", "cut in the weights", "noise in the graph"])
def test_a_damaged_train_file_that_the_manifest_vouches_for_is_refused(abused: Abused, case: str) -> None:
    data = (abused.bundle / "train_rho030.tflite").read_bytes()
    replace_file(abused.bundle, "train_rho030.tflite", MODELS[case](data))
    abused.refused(3, "train_rho030.tflite", by=lambda: verify(abused))


def test_a_train_file_that_cannot_train_is_refused(abused: Abused) -> None:
    replace_file(abused.bundle, "train_rho030.tflite", (abused.bundle / "model.tflite").read_bytes())
    abused.refused(3, "train_rho030.tflite", "has no signature", by=lambda: verify(abused))


@pytest.mark.parametrize(("name", "other"), [("030", "060"), ("060", "030")])
def test_a_train_file_that_trains_other_layers_is_refused(abused: Abused, name: str, other: str) -> None:
    """More than the manifest says, and fewer."""
    content = (abused.bundle / f"train_rho{other}.tflite").read_bytes()
    replace_file(abused.bundle, f"train_rho{name}.tflite", content)
    abused.refused(3, f"train_rho{name}.tflite", "as its manifest says", by=lambda: verify(abused))


def test_a_train_file_of_another_batch_is_refused(abused: Abused) -> None:
    bundle = read_bundle(abused.bundle)
    subset = subset_of(bundle.layers, bundle.manifest.train[0].layers)
    other = train_model(bundle.network, subset, tiny.BATCH + 1, Optimizer())
    replace_file(abused.bundle, "train_rho030.tflite", model_bytes(other))
    said = "takes 'x' as float32[9, 16, 16, 3], got float32[8, 16, 16, 3]"
    abused.refused(3, said, by=lambda: verify(abused))


def test_adapting_needs_no_train_file_that_works(abused: Abused) -> None:
    """They are for apps."""
    replace_file(abused.bundle, "train_rho030.tflite", b"This is not a model.")
    abused.adapt().succeeded()


def test_a_model_of_other_layers_is_refused(abused: Abused) -> None:
    other = tiny.write_bundle(abused.commands.folder / "other")
    replace_file(abused.bundle, "model.tflite", (other / "model.tflite").read_bytes())
    abused.refused(3, "the layer table")


@pytest.mark.parametrize("command", ["verify", "adapt"])
def test_both_commands_check_bundles_alike(abused: Abused, command: str) -> None:
    (abused.bundle / "model.tflite").write_bytes(b"")
    abused.refused(3, "model.tflite has 0 bytes", by=(lambda: verify(abused)) if command == "verify" else None)
