"""What a study measured: one JSON object a line, appended as it happens; everything that is shown comes from it.

Formats: docs/formats.md, "Records of a study".
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from profiling.study.policies import Choice
from signatures.errors import InputError

FORMAT, VERSION = "adabet-study", 1


@dataclass(frozen=True)
class Pick:
    """What a policy picked."""

    network: str
    data: str
    seed: int
    policy: str
    rho: float | None
    """None where ρ means nothing."""
    layers: tuple[str, ...]
    bias_only: bool

    @property
    def choice(self) -> Choice:
        """What trains."""
        return Choice(self.layers, self.bias_only)


@dataclass(frozen=True)
class Training:
    """One training, and what the network then answered."""

    network: str
    data: str
    layers: tuple[str, ...]
    bias_only: bool
    rate: float
    seed: int
    diverged: str
    """Why training stopped; empty if it did not. The accuracies are then 0."""
    validation_accuracy: float
    test_accuracy: float
    test_loss: float | None
    predicted: tuple[int, ...]
    """The answers to the test images."""
    first_loss: float | None
    """Mean over the first and the last quarter of the steps."""
    last_loss: float | None
    parameters: int
    seconds: float
    engine: str
    """What computed the gradients, with its version."""

    @property
    def choice(self) -> Choice:
        """What trained."""
        return Choice(self.layers, self.bias_only)


@dataclass(frozen=True)
class Cost:
    """What training a choice takes on the device's own path: one epoch of `ondevice.adapt` in a fresh process."""

    network: str
    data: str
    layers: tuple[str, ...]
    bias_only: bool
    images: int
    threads: int
    peak_bytes: int
    """VmHWM of the process, all phases."""
    predicted_bytes: int
    epoch_s: float
    prefix_s: float
    """Once, before the first epoch."""
    parameters: int
    train_macs: int
    """Multiply-adds for one image in every epoch."""
    runtime: str

    @property
    def choice(self) -> Choice:
        """What trained."""
        return Choice(self.layers, self.bias_only)


@dataclass(frozen=True)
class Check:
    """The same training on the device's own path and by the engine of the study."""

    network: str
    data: str
    policy: str
    rho: float | None
    rate: float
    seed: int
    device_accuracy: float
    engine_accuracy: float
    same_answers: float
    """Fraction of the test images that both answer alike."""
    loss_difference: float
    """Largest between the losses of the first quarter of the steps."""
    runtime: str


@dataclass(frozen=True)
class Images:
    """What the test images of a dataset show."""

    network: str
    data: str
    classes: tuple[str, ...]
    labels: tuple[int, ...]
    """The class of each, in stored order."""


@dataclass(frozen=True)
class Session:
    """Where and by what the records that follow were made."""

    started: str
    machine: str
    system: str
    packages: dict[str, str]
    commit: str
    design: dict[str, Any]
    inputs: dict[str, str]
    """SHA-256 of the networks, fingerprints of the data."""


Record = Pick | Training | Cost | Check | Images | Session
KINDS: dict[str, type] = {kind.__name__.lower(): kind for kind in (Pick, Training, Cost, Check, Images, Session)}
R = TypeVar("R", Pick, Training, Cost, Check, Images, Session)


class Records:
    """The records of one study, in memory and in the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.all: list[Record] = list(_read(path))

    def add(self, record: Record) -> None:
        """Append, whole and on the disk."""
        line = json.dumps({"kind": type(record).__name__.lower(), **asdict(record)}, allow_nan=False)
        new = not self.path.exists()
        with self.path.open("a", encoding="utf-8") as file:
            if new:
                file.write(json.dumps({"format": FORMAT, "version": VERSION}) + "\n")
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.all.append(record)

    def of(self, kind: type[R]) -> list[R]:
        """Those of one kind, in order."""
        return [record for record in self.all if isinstance(record, kind)]


def _read(path: Path) -> Iterator[Record]:
    """InputError where a line is damaged; a last line that was cut short is dropped from the file."""
    if not path.exists():
        return
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        with path.open("rb+") as file:
            file.truncate(len(whole))
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            document = json.loads(line)
            if number == 1:
                if document != {"format": FORMAT, "version": VERSION}:
                    raise ValueError(f"expected format {FORMAT!r}, version {VERSION}")
                continue
            kind = KINDS[document.pop("kind")]
            yield kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in document.items()})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InputError(f"{path}, line {number}, is no record of a study: {error}") from None
