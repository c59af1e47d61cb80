"""What a study of rankings measured, draw by draw, and the file that holds it: everything that is shown of it.

FOLDER/ranking.json     {"format": "adabet-ranking", "version": 1, "studies": [a `Study` each]}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ondevice.ranking import CRITERIA, WITHOUT_RHO
from ondevice.selection import pick_count
from profiling.ranking.stability import Scores
from signatures.errors import CapabilityError, InputError

FORMAT, VERSION = "adabet-ranking", 1
RECORD = "ranking.json"
RANKING = tuple(name for name in CRITERIA if name not in WITHOUT_RHO)
"""Criteria that rank."""


@dataclass(frozen=True)
class LayerFacts:
    """A layer that competes: all but the head."""

    name: str
    kind: str
    activation_size: int
    obstacle: str | None
    """Why it cannot train, and so is not picked; None if it can."""


@dataclass(frozen=True)
class Draw:
    """One draw of the images, and how it ranks the layers."""

    seed: int
    b1: tuple[tuple[int, ...], ...] | None
    """[batches][layers]; None where no criterion asked for it."""
    scores: dict[str, tuple[float, ...]]
    """By criterion, of each layer, over all batches together."""
    single: dict[str, tuple[tuple[float, ...], ...]]
    """By criterion, of each layer, over each batch alone: [batches][layers]."""
    seconds: dict[str, float]
    """By what was measured: b1, fisher."""
    environment: dict[str, str]
    """Where and by what it was measured: a study may be interrupted, and go on with another version."""

    def of(self, criteria: Sequence[str]) -> Draw:
        """With these criteria alone."""
        kept = {name: self.scores[name] for name in criteria}
        return replace(self, scores=kept, single={name: self.single[name] for name in criteria})


@dataclass(frozen=True)
class Study:
    """One network on one dataset."""

    network: str
    weights: str
    model_sha256: str
    image: int
    data: str
    """The dataset's name."""
    description: str
    fingerprint: str
    batch: int
    batches: int
    layers: tuple[LayerFacts, ...]
    draws: tuple[Draw, ...]

    @property
    def able(self) -> tuple[bool, ...]:
        """Of each layer, whether it can train."""
        return tuple(layer.obstacle is None for layer in self.layers)

    @property
    def sizes(self) -> NDArray[np.float64]:
        """|a| of each layer."""
        return np.array([layer.activation_size for layer in self.layers], np.float64)

    @property
    def criteria(self) -> tuple[str, ...]:
        """That every draw has."""
        return tuple(name for name in RANKING if self.draws and all(name in draw.scores for draw in self.draws))

    def rankings(self, criterion: str) -> list[Scores]:
        """The scores of every draw."""
        return [np.array(draw.scores[criterion]) for draw in self.draws]

    def pick_count(self, rho: float) -> int:
        """How many are picked at ρ, which counts the head as well."""
        return pick_count(rho, len(self.layers) + 1)

    def same_as(self, other: Study) -> bool:
        """Whether both are of the same network, images and batches, so that their draws belong together."""
        return replace(self, draws=()) == replace(other, draws=())


@dataclass(frozen=True)
class Record:
    """What `ranking.json` holds."""

    studies: tuple[Study, ...]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    def with_study(self, study: Study) -> Record:
        """With `study` in place of an older state of it."""
        others = [other for other in self.studies if not other.same_as(study)]
        return replace(self, studies=(*others, study))


def read_record(folder: Path) -> Record:
    """What was measured before; nothing where there is no file. Raises InputError."""
    path = folder / RECORD
    if not path.exists():
        return Record(())
    try:
        document = json.loads(path.read_bytes())
        if (document["format"], document["version"]) != (FORMAT, VERSION):
            raise ValueError(f"it has format {document['format']!r}, version {document['version']!r}")
        return Record(tuple(_study(entry) for entry in document["studies"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no record of this program: {error!r}; choose another --out") from None


def _study(entry: dict[str, Any]) -> Study:
    layers = tuple(LayerFacts(**layer) for layer in entry["layers"])
    return Study(**{**entry, "layers": layers, "draws": tuple(map(_draw, entry["draws"]))})


def _draw(entry: dict[str, Any]) -> Draw:
    return Draw(
        seed=entry["seed"],
        b1=None if entry["b1"] is None else tuple(map(tuple, entry["b1"])),
        scores={name: tuple(values) for name, values in entry["scores"].items()},
        single={name: tuple(map(tuple, rows)) for name, rows in entry["single"].items()},
        seconds=entry["seconds"],
        environment=entry["environment"],
    )


def write_record(record: Record, folder: Path) -> None:
    """Replace the file as a whole, so that an interrupted run leaves the last state. Raises CapabilityError."""
    partial = folder / f".{RECORD}"
    try:
        partial.write_text(json.dumps(record.document(), ensure_ascii=False))
        partial.replace(folder / RECORD)
    except OSError as error:
        raise CapabilityError(f"cannot write {folder / RECORD}: {error.strerror}") from None
