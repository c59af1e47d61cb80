"""Records of measurements: one process each, one JSON object a line, appended as they come in; see docs/formats.md."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from profiling.environment import Commit, Environment
from profiling.measure.metrics import metric_of
from signatures.errors import CapabilityError, InputError

FORMAT, VERSION = "adabet-measurement", 1
_NAME = re.compile(r"[a-z0-9_-]+")
Tell = Callable[[str], None]


def tell(line: str) -> None:
    """For people: on stderr, at once."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Failure:
    """How a process failed."""

    exit_code: int
    """Negative: the signal that ended it."""
    said: tuple[str, ...]
    """The last lines of its stderr."""


@dataclass(frozen=True)
class Settings:
    """What the scenario was given; None and empty where it takes no such thing."""

    bundle: str | None
    data: str | None
    model: str | None
    threads: int
    arguments: tuple[str, ...]
    """For `ondevice.adapt`."""


@dataclass(frozen=True)
class Record:
    """One process."""

    run: str
    """The same for everything that one command measured: repeats of the same number ran side by side."""
    scenario: str
    repeat: int
    """From 1, warm-ups apart."""
    warm_up: bool
    """Whether it came before all that counts."""
    started: str
    """UTC, ISO 8601."""
    seconds: float
    """From its start to its end, as seen from outside."""
    metrics: dict[str, float]
    """By name, as in `profiling.measure.metrics`; empty if it failed."""
    outcome: dict[str, str]
    """What the process did, in words: which layers trained, what computed b1 …"""
    failure: Failure | None
    settings: Settings
    inputs: dict[str, str]
    """Digests by setting: SHA-256 of the bundle's manifest and of the model, the data's fingerprint."""
    environment: Environment
    versions: dict[str, str]
    git: Commit | None

    def line(self) -> bytes:
        """As the file has it."""
        document = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps(document, allow_nan=False).encode() + b"\n"


def append_record(record: Record, path: Path) -> None:
    """Write a line, in one piece. CapabilityError if the system does not let us."""
    try:
        with path.open("ab") as file:
            file.write(record.line())
    except OSError as error:
        raise CapabilityError(f"cannot write {path}: {error.strerror}") from None


def prepare_file(path: Path, tell: Tell) -> None:
    """Make sure that lines can be appended: the file holds records, if anything; a cut last line is removed.

    InputError if it holds something else, CapabilityError if it cannot be written.
    """
    try:
        with path.open("a+b") as file:
            file.seek(0)
            content = file.read()
            _parse(content, path, tell)
            whole = content.rfind(b"\n") + 1
            if _is_json(content[whole:]):
                file.write(b"\n")
            else:
                file.truncate(whole)
    except OSError as error:
        raise CapabilityError(f"cannot write {path}: {error.strerror}; choose another --out") from None


def read_records(path: Path, tell: Tell) -> list[Record]:
    """All records of a file, in order; a cut last line is told and passed over.

    InputError, with file and line, if the file cannot be read, has no record, or holds something else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    records = _parse(content, path, tell)
    if not records:
        raise InputError(f"{path} holds no records; `python -m profiling run` writes them")
    return records


def _parse(content: bytes, path: Path, tell: Tell) -> list[Record]:
    records = []
    *lines, rest = content.split(b"\n")
    cut = bool(rest) and not _is_json(rest)
    for number, line in enumerate(lines if cut or not rest else [*lines, rest], 1):
        try:
            records.append(_record(json.loads(line)))
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(f"{path}, line {number} is no record of a measurement: {what}") from None
    if cut:
        tell(f"{path}, line {len(lines) + 1}: cut short, left out")
    return records


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _record(document: object) -> Record:
    fields = _object(document)
    if (fields.get("format"), fields.get("version")) != (FORMAT, VERSION):
        got = f"format {fields.get('format')!r}, version {fields.get('version')!r}"
        raise ValueError(f"it has {got}; expected {FORMAT!r}, {VERSION}")
    failure, git = fields["failure"], fields["git"]
    metrics = {name: _number(value) for name, value in _object(fields["metrics"]).items()}
    for name in metrics:
        metric_of(name)  # refuses what it does not know
    return Record(
        run=_name(fields["run"]),
        scenario=_name(fields["scenario"]),
        repeat=_count(fields["repeat"]),
        warm_up=_flag(fields["warm_up"]),
        started=_text(fields["started"]),
        seconds=_number(fields["seconds"]),
        metrics=metrics,
        outcome=_texts(fields["outcome"]),
        failure=None if failure is None else _failure(_object(failure)),
        settings=_settings(_object(fields["settings"])),
        inputs=_texts(fields["inputs"]),
        environment=_environment(_object(fields["environment"])),
        versions=_texts(fields["versions"]),
        git=None if git is None else Commit(_text(_object(git)["sha1"]), _flag(git["dirty"])),
    )


def _failure(fields: dict[str, Any]) -> Failure:
    return Failure(_whole(fields["exit_code"]), _list(fields["said"]))


def _settings(fields: dict[str, Any]) -> Settings:
    bundle, data, model = (_optional(fields[name]) for name in ("bundle", "data", "model"))
    return Settings(bundle, data, model, _count(fields["threads"]), _list(fields["arguments"]))


def _environment(fields: dict[str, Any]) -> Environment:
    return Environment(
        machine=_text(fields["machine"]),
        cpu=_text(fields["cpu"]),
        cores=_count(fields["cores"]),
        memory_bytes=_count(fields["memory_bytes"]),
        system=_text(fields["system"]),
        governor=_optional(fields["governor"]),
        load=_number(fields["load"]),
    )


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{_short(value)} is no object")
    return value


def _text(value: object) -> str:
    """Without what would change the terminal that shows it."""
    if not isinstance(value, str):
        raise TypeError(f"{_short(value)} is no text")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in value)


def _optional(value: object) -> str | None:
    return None if value is None else _text(value)


def _texts(value: object) -> dict[str, str]:
    return {_text(name): _text(text) for name, text in _object(value).items()}


def _list(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{_short(value)} is no list")
    return tuple(map(_text, value))


def _name(value: object) -> str:
    if not _NAME.fullmatch(_text(value)):
        raise ValueError(f"{_short(value)} is no name")
    return str(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{_short(value)} is neither true nor false")
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{_short(value)} is no whole number")
    return value


def _count(value: object) -> int:
    if _whole(value) < 1:
        raise ValueError(f"{_short(value)} is not positive")
    return _whole(value)


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise TypeError(f"{_short(value)} is no finite number from 0 on")
    return value


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "…"
