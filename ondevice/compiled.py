"""Compiled train files, kept in a cache."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from signatures.catalogue import MODEL, Bundle, file_sha256
from signatures.channels import Channels
from signatures.durable import remove_left_over, replacing
from signatures.errors import CapabilityError, InputError
from signatures.files import read_limited
from signatures.graph import Graph
from signatures.micro_batches import suffix_model
from signatures.subset import Subset
from signatures.tflite_io import write_model

COMPILER_VERSION = 5
"""Raise it when the compiler emits other graphs for the same request, or cuts elsewhere: cached files are then made
anew.
"""
_DIGEST_BYTES = 64
KEPT_FILES = 4
"""Compiled files that stay in the cache; each is as large as the network."""


@dataclass(frozen=True)
class TrainFile:
    """A train file to invoke, and where it came from: cache or compiled."""

    path: Path
    source: str


def default_cache() -> Path:
    """The user's cache folder, by the XDG rule."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "adabet"


def train_file(
    bundle: Bundle, suffix: Graph, subset: Subset, micro_batch: int, batch: int, channels: Channels, cache: Path
) -> TrainFile:
    """The file that trains exactly `subset` of `suffix`, which is what lies behind a cut of the bundle's network, of
    some of whose layers only `channels` train.
    """
    (model,) = (entry for entry in bundle.manifest.files if entry.name == MODEL)
    classes = suffix.outputs[0].shape[-1]
    request = (
        f"{COMPILER_VERSION} {model.sha256} {classes} {subset.id} {micro_batch} {batch} {sorted(channels.items())}"
    )
    path = cache / f"train-{hashlib.sha256(request.encode()).hexdigest()[:24]}.tflite"
    if _is_intact(path):
        with suppress(OSError):  # a cache that is not ours to write, or another process has just removed it
            os.utime(path)
        return TrainFile(path, "cache")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        write_model(suffix_model(suffix, subset, micro_batch, batch), path)
        with replacing(_digest_path(path)) as file:
            file.write(file_sha256(path).encode())
        _prune(cache, path)
    except OSError as error:
        raise CapabilityError(
            f"cannot write the compiled model {path}: {error.strerror}. Set XDG_CACHE_HOME to a folder with room."
        ) from None
    return TrainFile(path, "compiled")


def _digest_path(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _is_intact(path: Path) -> bool:
    """Whether the file is there and is what was written: a cache may outlive a power cut or a full disk."""
    try:
        return read_limited(_digest_path(path), _DIGEST_BYTES) == file_sha256(path).encode()
    except (OSError, InputError):
        return False


def _prune(cache: Path, made: Path) -> None:
    """`made` stays, whatever the clock says: on a board without one the others may be of the future."""
    remove_left_over(cache)
    others = sorted({*cache.glob("train-*.tflite")} - {made}, key=_used_at, reverse=True)
    for path in others[KEPT_FILES - 1 :]:
        path.unlink(missing_ok=True)
    for path in cache.glob("train-*.sha256"):
        if not path.with_suffix(".tflite").exists():
            path.unlink(missing_ok=True)


def _used_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process has just removed it
        return 0.0
