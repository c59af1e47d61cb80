"""Checkpoints: weights, optimizer state and losses of a training, after a step, in the safetensors format.

The format (huggingface.co/docs/safetensors) is eight bytes of a length, a JSON header of that length, and the tensors.
We write and read it ourselves, a tensor at a time: the library would hold all of them twice (docs/decisions.md). Names
are `weight:<name>`, `momentum:<name>` and so on, and `losses`; `__metadata__` says which run and step it is of, and
holds a SHA-256 of everything else in the file. Only the header that this very training would write is accepted, so
nothing in a file decides how much memory it takes or what is looked for where.
"""

from __future__ import annotations

import hashlib
import json
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ondevice.optimizer import Trainee
from ondevice.training import Progress
from signatures.durable import overwriting, replacing, sync_file, sync_folder
from signatures.errors import InputError
from signatures.files import open_regular

FORMAT, VERSION = "adabet-checkpoint", 1
DURABLE, *LATEST = NAMES = ("checkpoint.safetensors", "latest-0.safetensors", "latest-1.safetensors")
"""On the disk for sure, now and then; and after every step, in turn, where a process that is killed leaves at least one
of them whole, but not a power cut."""
_SHARE = 0.05
"""Of the time of training, what durable checkpoints may take: on an SD card each waits for the card."""
_MOST_HEADER_BYTES = 16 << 20
_PIECE_BYTES = 1 << 20


def write_checkpoint(path: Path, run: str, trainee: Trainee, progress: Progress, durable: bool = True) -> None:
    """Write a checkpoint to `path`; `run` is the identity of the training.

    `durable`: it replaces an older one in one step, and is on the disk; otherwise the older one is written over.
    """
    tensors = _tensors(trainee, np.array(progress.losses, np.float64))
    metadata = _metadata(run, trainee, progress)
    digest = hashlib.sha256(_header(tensors, metadata))
    for tensor in tensors.values():
        digest.update(_bytes(tensor))
    with replacing(path) if durable else overwriting(path) as file:
        file.write(_header(tensors, {**metadata, "sha256": digest.hexdigest()}))
        for tensor in tensors.values():
            file.write(_bytes(tensor))


def read_checkpoint(path: Path, run: str, trainee: Trainee) -> Progress:
    """Read a checkpoint of the training `run` into `trainee`, whose tensors say what it has to hold.

    InputError where it is anything but a whole checkpoint of that training; `trainee` is then as it was, unless the
    file changes while it is read.
    """
    with _opened(path) as file:
        found = _checked(path, file, run, trainee)
        tensors = _tensors(trainee, np.zeros(found.steps))
        file.seek(found.data_begin)
        for tensor in tensors.values():
            if file.readinto(_bytes(tensor)) != tensor.nbytes:
                raise _damaged(path, "it was cut short while it was read")
    trainee.powers.update(found.powers)
    return Progress(tuple(tensors["losses"].tolist()), found.seconds)


@dataclass
class Checkpoints:
    """The checkpoints of one training in the work folder of its run."""

    folder: Path
    run: str
    """Identity of the training: of its data, its network, its plan."""
    _cost_s: float = field(default=0.0, init=False)
    """Of the last durable checkpoint."""
    _written_at: float = field(default_factory=lambda: time.monotonic(), init=False)

    def write(self, trainee: Trainee, progress: Progress) -> None:
        """After each step: what a killed process leaves is at most a step behind."""
        started = time.monotonic()
        if self._cost_s > _SHARE * (started - self._written_at):
            path = self.folder / LATEST[progress.steps % len(LATEST)]
            write_checkpoint(path, self.run, trainee, progress, durable=False)
            return
        write_checkpoint(self.folder / DURABLE, self.run, trainee, progress)
        self._written_at = time.monotonic()
        self._cost_s = self._written_at - started

    def read(self, trainee: Trainee) -> Progress:
        """Read the newest into `trainee`; where none is there or whole, no step is done, and `trainee` is as it was."""
        steps = {}
        for name in NAMES:
            try:
                with _opened(self.folder / name) as file:
                    found = _checked(self.folder / name, file, self.run, trainee)
            except InputError:  # a kill or a power cut may have spoilt one of them
                continue
            steps[name] = found.steps
        if not steps:
            return Progress()
        return read_checkpoint(self.folder / max(steps, key=lambda name: steps[name]), self.run, trainee)


def is_kept(folder: Path) -> bool:
    """Whether there is a checkpoint in `folder`."""
    return any((folder / name).exists() for name in NAMES)


def settle(folder: Path) -> None:
    """Have on the disk, before the process ends, what checkpoints there are in `folder`."""
    for name in NAMES:
        with suppress(OSError):
            sync_file(folder / name)
    with suppress(OSError):
        sync_folder(folder)


def _tensors(trainee: Trainee, losses: NDArray[np.float64]) -> dict[str, NDArray[np.generic]]:
    """The arrays of `trainee` themselves, and `losses`, by their names in the file, in its order."""
    named: dict[str, NDArray[np.generic]] = {f"weight:{name}": value for name, value in trainee.weights.items()}
    for slot, values in trainee.state.items():
        named |= {f"{slot}:{name}": value for name, value in values.items()}
    return {"losses": losses, **named}  # float64 first: eight bytes each, which keeps all aligned


def _metadata(run: str, trainee: Trainee, progress: Progress) -> dict[str, str]:
    return {
        "format": FORMAT,
        "version": str(VERSION),
        "run": run,
        "steps": str(progress.steps),
        "epoch_seconds": json.dumps(progress.seconds),
        "powers": json.dumps({name: value.hex() for name, value in trainee.powers.items()}),
    }


def _header(tensors: Mapping[str, NDArray[np.generic]], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        kind = "F64" if tensor.dtype == np.float64 else "F32"
        entries[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _bytes(tensor: NDArray[np.generic]) -> memoryview:
    return tensor.reshape(-1).data.cast("B") if tensor.size else memoryview(b"")


@dataclass(frozen=True)
class _Found:
    steps: int
    seconds: tuple[float, ...]
    powers: Mapping[str, float]
    data_begin: int


def _opened(path: Path) -> BufferedReader:
    try:
        return open_regular(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _checked(path: Path, file: BufferedReader, run: str, trainee: Trainee) -> _Found:
    """What the header says, if it and every byte behind it are what `trainee` would have written. Raises InputError."""
    try:
        metadata = _read_metadata(file)
        if (metadata["format"], metadata["version"]) != (FORMAT, str(VERSION)):
            raise ValueError(f"no {FORMAT!r} of version {VERSION}")
        if metadata["run"] != run:
            raise ValueError("it is of another run")
        steps = int(metadata["steps"])
        if not 0 <= steps <= path.stat().st_size // 8:
            raise ValueError(f"it cannot hold the losses of {steps} steps")
        seconds = _seconds(metadata)
        powers = _powers(metadata, trainee)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, OSError) as error:
        raise _damaged(path, str(error)) from None
    given = metadata.pop("sha256", "")
    tensors = _tensors(trainee, np.zeros(steps))
    header = _header(tensors, {**metadata, "sha256": given})
    digest = hashlib.sha256(_header(tensors, metadata))
    try:
        file.seek(0)
        if file.read(len(header)) != header:
            raise _damaged(path, "its header is not one of this run")
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    except OSError as error:  # a block that a power cut spoilt
        raise _damaged(path, str(error)) from None
    if digest.hexdigest() != given:
        raise _damaged(path, "what it holds does not have the SHA-256 that it names")
    return _Found(steps, seconds, powers, len(header))


def _read_metadata(file: BufferedReader) -> dict[str, str]:
    (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))
    if length > _MOST_HEADER_BYTES:
        raise ValueError(f"its header would have {length} bytes")
    metadata = json.loads(file.read(length))["__metadata__"]
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("metadata that is no text")
    return dict(metadata)


def _seconds(metadata: Mapping[str, str]) -> tuple[float, ...]:
    seconds = tuple(map(float, json.loads(metadata["epoch_seconds"])))
    if not np.isfinite(seconds).all():
        raise ValueError(f"epochs that took {seconds} s")
    return seconds


def _powers(metadata: Mapping[str, str], trainee: Trainee) -> dict[str, float]:
    powers = {name: float.fromhex(value) for name, value in json.loads(metadata["powers"]).items()}
    if powers.keys() != trainee.powers.keys() or not all(0.0 <= value <= 1.0 for value in powers.values()):
        raise ValueError(f"powers {powers}")
    return powers


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path} is no whole checkpoint of this run: {why}")
