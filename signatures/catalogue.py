"""The manifest of a bundle: layers, files, ρ → subset. Written by the host, checked on the device.

The format is described in docs/formats.md. A bundle is a folder of three kinds of files: `manifest.json`,
`model.tflite` (infer, activations, gram) and `train_rho<ρ·100>.tflite`; `batchnorm_scale.npz` where it is known.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from signatures.errors import InputError
from signatures.files import open_regular, read_json
from signatures.graph import Graph
from signatures.layers import Layer, find_layers
from signatures.tflite_io import map_file, parse_model

FORMAT = "adabet-bundle"
VERSION = 1
_BLOCK_BYTES = 1 << 20
MANIFEST = "manifest.json"
MODEL = "model.tflite"
BATCHNORM_SCALE = "batchnorm_scale.npz"
MOST_TEXT = 4096
"""Characters of a text in a manifest."""
_LARGEST = 1e30
"""Of a manifest's numbers: what they are multiplied with stays far from where float32 ends."""
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, which a terminal would obey, and halves of characters, which nothing can write."""
TRAIN_FILE_NAME = re.compile(r"train_rho\d{3}\.tflite")


@dataclass(frozen=True)
class Preprocessing:
    """Per-channel affine map from pixels to network input: x = pixel · scale + offset.

    `pixel` is 0..255 in RGB order; `scale` and `offset` have one entry per channel.
    """

    scale: tuple[float, float, float]
    offset: tuple[float, float, float]


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle."""

    name: str
    sha256: str
    n_bytes: int


@dataclass(frozen=True)
class LayerEntry:
    """One row of the layer table."""

    name: str
    kind: str
    parameters: int
    activation_size: int
    macs: int


@dataclass(frozen=True)
class TrainEntry:
    """A train file and the subset it trains."""

    rho: float
    file: str
    subset: str
    """`Subset.id` of what it trains."""
    layers: tuple[str, ...]
    batch: int
    optimizer: str
    """`Optimizer.id` of what is compiled in."""


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds."""

    network: str
    weights: str
    """Where the weights come from, in words."""
    image: int
    """Height and width of the input in pixels."""
    classes: int
    own_head: bool
    """Whether the head was made for the owner's classes (CLASSES=…), so that the device keeps it."""
    preprocessing: Preprocessing
    ranking: str
    """How the layers of the train files were ranked."""
    layers: tuple[LayerEntry, ...]
    train: tuple[TrainEntry, ...]
    files: tuple[FileEntry, ...]


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read and checked."""

    folder: Path
    manifest: Manifest
    network: Graph
    """The inference graph of `model.tflite`, batch 1, logits; weights are views of the mapped file."""
    layers: tuple[Layer, ...]


def train_file_name(rho: float) -> str:
    """File name of the train signature for ρ: train_rho010.tflite for 0.1."""
    return f"train_rho{round(rho * 100):03d}.tflite"


def file_entry(path: Path) -> FileEntry:
    """Name, digest and size of a file."""
    return FileEntry(path.name, file_sha256(path), path.stat().st_size)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as hex digits, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _mapping_sha256(mapped: mmap.mmap) -> str:
    """As `file_sha256`, of a mapped file, whose pages leave memory again."""
    digest = hashlib.sha256()
    for begin in range(0, len(mapped), _BLOCK_BYTES):
        digest.update(mapped[begin : begin + _BLOCK_BYTES])
        if hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED, begin, min(_BLOCK_BYTES, len(mapped) - begin))
    return digest.hexdigest()


def layer_entries(layers: tuple[Layer, ...]) -> tuple[LayerEntry, ...]:
    """The layer table of a network."""
    return tuple(LayerEntry(x.name, x.kind, x.parameters, x.activation_size, x.macs) for x in layers)


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `manifest.json` into `folder`."""
    document = {"format": FORMAT, "version": VERSION, **asdict(manifest)}
    (folder / MANIFEST).write_text(json.dumps(document, indent=1) + "\n")


def read_bundle(folder: Path) -> Bundle:
    """Read and check a bundle: manifest, digest and size of every file, and the layer table against the model.

    The model is the very file that was checked, also if another takes its place meanwhile: it is opened once. Whoever
    can write into it, rather than replace it, can still change it under us.

    Raises InputError that names the file and what is wrong with it.
    """
    manifest = _read_manifest(folder / MANIFEST)
    listed = {entry.name for entry in manifest.files}
    if len(listed) < len(manifest.files):
        raise InputError(f"{folder / MANIFEST} lists a file twice")
    model = None
    for entry in manifest.files:
        mapped = _check_file(folder, entry)
        model = mapped or model
    for name in (MODEL, *(train.file for train in manifest.train)):
        if name not in listed:
            raise InputError(f"{folder / MANIFEST} uses {name} but does not list it under files")
    assert model is not None  # it is listed
    network = parse_model(model, str(folder / MODEL)).signature("infer").graph
    layers = find_layers(network)
    if layer_entries(layers) != manifest.layers:
        raise InputError(f"the layer table of {folder / MANIFEST} is not that of {MODEL}: export the bundle again")
    shape = (1, manifest.image, manifest.image, 3)
    if [(t.shape, t.dtype) for t in network.inputs] != [(shape, "float32")]:
        raise InputError(f"{folder / MODEL} does not take one float32 image of {list(shape)}")
    if [(t.shape, t.dtype) for t in network.outputs] != [((1, manifest.classes), "float32")]:
        raise InputError(f"{folder / MODEL} does not return float32 logits of {manifest.classes} classes")
    return Bundle(folder, manifest, network, layers)


def _check_file(folder: Path, entry: FileEntry) -> mmap.mmap | None:
    """The model, mapped, if it is this file."""
    if Path(entry.name).name != entry.name or entry.name in ("", ".", ".."):
        raise InputError(f"{folder / MANIFEST} lists {entry.name!r}, which is not a plain file name")
    path = folder / entry.name
    try:
        size = path.stat().st_size
        if size != entry.n_bytes:
            raise InputError(f"{path} has {size} bytes, the manifest says {entry.n_bytes}: copy the bundle again")
        mapped = map_file(path) if entry.name == MODEL else None
        if (file_sha256(path) if mapped is None else _mapping_sha256(mapped)) != entry.sha256:
            raise InputError(f"{path} does not have the sha256 of the manifest: copy the bundle again")
        return mapped
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        why = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {str(path)!r} of the bundle: {why}") from None


def _read_manifest(path: Path) -> Manifest:
    try:
        document = read_json(path)
    except OSError as error:
        raise InputError(
            f"{path.parent} is no bundle: cannot read {path.name} ({error.strerror}); `make export` writes bundles"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f"{path} is no manifest of format {FORMAT!r}")
    version = document.get("version")
    if version != VERSION or isinstance(version, bool):
        raise InputError(f"{path} has version {version!r}; this program reads version {VERSION}")
    try:
        return _manifest(document)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{path} is damaged: {type(error).__name__}: {error}"[:500]) from None


def _manifest(document: Mapping[str, Any]) -> Manifest:
    preprocessing = document["preprocessing"]
    return Manifest(
        network=_text(document["network"]),
        weights=_text(document["weights"]),
        image=_count(document["image"]),
        classes=_count(document["classes"]),
        own_head=_flag(document["own_head"]),
        preprocessing=Preprocessing(_channels(preprocessing["scale"]), _channels(preprocessing["offset"])),
        ranking=_text(document["ranking"]),
        layers=tuple(
            LayerEntry(
                _text(row["name"]),
                _text(row["kind"]),
                _count(row["parameters"]),
                _count(row["activation_size"]),
                _count(row["macs"]),
            )
            for row in document["layers"]
        ),
        train=tuple(
            TrainEntry(
                _number(row["rho"]),
                _text(row["file"]),
                _text(row["subset"]),
                tuple(_text(name) for name in row["layers"]),
                _count(row["batch"]),
                _text(row["optimizer"]),
            )
            for row in document["train"]
        ),
        files=tuple(
            FileEntry(_text(row["name"]), _text(row["sha256"]), _count(row["n_bytes"])) for row in document["files"]
        ),
    )


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MOST_TEXT or _UNPRINTABLE.search(value):
        raise TypeError(f"{str(value)[:40]!r} is not a text that can be shown")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**63:
        raise TypeError(f"{str(value)[:40]} is not a positive whole number")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= _LARGEST:
        raise TypeError(f"{str(value)[:40]} is not a finite number")
    return float(value)


def _channels(values: list[object]) -> tuple[float, float, float]:
    red, green, blue = (_number(value) for value in values)
    return red, green, blue
