"""What is fed with spoilt files: every reader of what comes from outside, and what is done with what it takes.

A new reader is one more entry of `TARGETS`: the files of the seeds that it reads, and a function of the folder that
holds them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import ondevice.adapt
import ondevice.show
from converter.foreign import read_foreign
from converter.pack import pack_npz
from converter.torch_file import read_torch
from converter.weights import WeightSources, read_weights
from ondevice.checkpoint import read_checkpoint
from ondevice.dataset import open_dataset
from ondevice.opening import open_together
from ondevice.runtime import LoadedModel
from signatures.build import inference_model
from signatures.catalogue import MANIFEST, MODEL, layer_entries, read_bundle
from signatures.cut import cut_before
from signatures.errors import AdabetError, InputError
from signatures.graph import Graph, Model, Signature, Tensor
from signatures.layers import find_layers
from signatures.micro_batches import prefix_model, suffix_model
from signatures.subset import subset_of
from signatures.tflite_io import read_model, write_model
from tests.converter.test_weights import CONTAINERS
from tests.fuzz.seeds import CHECKPOINT, IMAGE, RUN, SUFFIXES, trainee

TRAIN = "train_rho030.tflite"
_LARGEST_FEED = 1 << 22


@dataclass(frozen=True)
class Target:
    """One reader."""

    files: tuple[str, ...]
    """Of the seeds' folder; one of them is spoilt."""
    run: Callable[[Path], object]
    """Reads what is in the folder. Raises AdabetError; anything else is a finding."""
    share: float
    """Of all mutations, before shares are made to add up to 1."""
    vouch: Callable[[Path], None] = lambda folder: None
    """Has other files agree with the spoilt one, so that it is looked at."""


class DocumentedExitError(AdabetError):
    """A command ended by itself with an exit code other than 0 and 70."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit code {code}")
        self.exit_code = code


def _fed(inputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    if sum(tensor.n_bytes for tensor in inputs.values()) > _LARGEST_FEED:
        raise InputError("too large to be fed here")
    return {name: random.uniform(0, 1, t.shape).astype(t.dtype) for name, t in inputs.items()}


def _call(signatures: Sequence[Signature], path: Path) -> None:
    """Run all signatures of a model file, in its order."""
    model = LoadedModel(path, 1)
    for signature in signatures:
        model.call(signature.name, _fed(signature.inputs))


def _run(model: Model, folder: Path) -> None:
    """Run what the compiler made, as the device would."""
    path = folder / "work" / "compiled.tflite"
    write_model(model, path)
    _call(model.signatures, path)


def _infer(network: Graph, folder: Path) -> None:
    _run(inference_model(network), folder)


def _train(network: Graph, folder: Path) -> None:
    """Training of all layers."""
    names = [layer.name for layer in find_layers(network)]
    cut = cut_before(network, names)
    if not cut.at_input:
        _run(prefix_model(cut.prefix, 2), folder)
    _run(suffix_model(cut.suffix, subset_of(find_layers(cut.suffix), names), 2, 4), folder)


def _as_it_is(path: Path) -> None:
    _call(read_model(path).signatures, path)


def _together(folder: Path) -> None:
    opened = open_together(folder / "bundle", folder / "pictures", 4, folder / "work", 0)
    _infer(opened.network, folder)


def _opened_data(folder: Path, name: str, image: int) -> None:
    dataset = open_dataset(folder / name, image, folder / "work", 0)
    for split in (dataset.train, dataset.test):
        split.take(np.arange(len(split))[:4])


def _weights(folder: Path) -> None:
    tensors = read_weights(str(folder / "weights.npz"), WeightSources(lambda name, image: {}), 16).tensors
    for value in tensors.values():
        np.array(value).sum()


def _pickled(folder: Path) -> None:
    for suffix in CONTAINERS:
        for value in read_torch(folder / f"{suffix}.pth").values():
            np.array(value).sum()


def _vouch_checkpoint(folder: Path) -> None:
    """The SHA-256 in a checkpoint is that of the rest."""
    path = folder / CHECKPOINT
    with suppress(ValueError, TypeError, KeyError, RecursionError, AttributeError, struct.error):
        content = path.read_bytes()
        length = struct.unpack_from("<Q", content)[0]
        entries, rest = json.loads(content[8 : 8 + length]), content[8 + length :]
        metadata = {key: value for key, value in entries["__metadata__"].items() if key != "sha256"}
        digest = hashlib.sha256(_header({**entries, "__metadata__": metadata}) + rest).hexdigest()
        path.write_bytes(_header({**entries, "__metadata__": {**metadata, "sha256": digest}}) + rest)


def _header(entries: object) -> bytes:
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _show(folder: Path) -> None:
    ended(ondevice.show.main([str(folder / "run")]))


def _dry_run(folder: Path) -> None:
    settings = ("--batch", "4", "--rho", "0.3", "--threads", "1", "--dry-run", "--seed", "1")
    data = "photographs" if (folder / "photographs.chosen").exists() else "pictures"
    ended(ondevice.adapt.main([str(folder / "bundle"), "--data", str(folder / data), *settings]))


def ended(code: int) -> None:
    """Raise what stands for the exit code of a command."""
    if code == AdabetError.exit_code:
        raise AssertionError("exit code 70")
    if code:
        raise DocumentedExitError(code)


def _vouch(folder: Path) -> None:
    """The manifest says of every file what is true of it, its layer table included where one can be made."""
    bundle = folder / "bundle"
    with suppress(ValueError, TypeError, KeyError, RecursionError, AttributeError, OSError):
        manifest = json.loads((bundle / MANIFEST).read_bytes())
        for entry in manifest["files"]:
            if Path(entry["name"]).name != entry["name"]:  # not /dev/zero
                continue
            content = (bundle / entry["name"]).read_bytes()
            entry.update(sha256=hashlib.sha256(content).hexdigest(), n_bytes=len(content))
        with suppress(InputError):
            layers = layer_entries(find_layers(read_model(bundle / MODEL).signature("infer").graph))
            manifest["layers"] = [vars(layer) for layer in layers]
        (bundle / MANIFEST).write_text(json.dumps(manifest))


_BUNDLE, _FOREIGN = (f"bundle/{MODEL}",), ("foreign.tflite",)
_PACKED = tuple(f"pictures/{name}" for name in ("classes.json", "train/images.npy", "train/labels.npy"))
_PACKED += ("pictures/test/images.npy", "pictures/test/labels.npy")
_PHOTOGRAPHS = tuple(f"photographs/train/left/0.{suffix}" for suffix in SUFFIXES)

TARGETS: dict[str, Target] = {
    "manifest": Target((f"bundle/{MANIFEST}",), lambda f: read_bundle(f / "bundle"), 1.0),
    "model": Target(_BUNDLE, lambda f: _infer(read_bundle(f / "bundle").network, f), 3.0, _vouch),
    "model, trained": Target(_BUNDLE, lambda f: _train(read_bundle(f / "bundle").network, f), 0.3, _vouch),
    "train file": Target((f"bundle/{TRAIN}",), lambda f: _as_it_is(f / "bundle" / TRAIN), 1.0),
    "model, as it is": Target(_BUNDLE, lambda f: _as_it_is(f / "bundle" / MODEL), 1.5),
    "foreign model": Target(_FOREIGN, lambda f: _infer(read_foreign(f / "foreign.tflite"), f), 3.0),
    "foreign model, trained": Target(_FOREIGN, lambda f: _train(read_foreign(f / "foreign.tflite"), f), 0.3),
    "packed dataset": Target(_PACKED, lambda f: _opened_data(f, "pictures", IMAGE), 1.5),
    "dataset, resized": Target(_PACKED, lambda f: _opened_data(f, "pictures", 6), 0.3),
    "image folder": Target(_PHOTOGRAPHS, lambda f: _opened_data(f, "photographs", IMAGE), 1.5),
    "bundle and data": Target((*_BUNDLE, *_PACKED), _together, 0.5, _vouch),
    "weights": Target(("weights.npz",), _weights, 0.7),
    "arrays to pack": Target(("packed.npz",), lambda f: _packed(f), 0.5),
    "pickles": Target(tuple(f"{name}.pth" for name in CONTAINERS), _pickled, 0.5),
    "checkpoint": Target(
        (CHECKPOINT,), lambda f: read_checkpoint(f / CHECKPOINT, RUN, trainee()), 1.0, _vouch_checkpoint
    ),
    "report": Target(("run/report.json",), _show, 0.7),
    "adapt --dry-run": Target((*_BUNDLE, f"bundle/{MANIFEST}", *_PACKED), _dry_run, 0.4, _vouch),
}


def _packed(folder: Path) -> None:
    out = folder / "work" / "packed"
    try:
        pack_npz(folder / "packed.npz", out, 8)
    finally:
        shutil.rmtree(out, ignore_errors=True)
