"""Our JSON documents: frozen dataclasses written as they are, and read back with every field checked."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from signatures.durable import replacing
from signatures.errors import InputError
from signatures.files import read_json

_T = TypeVar("_T")
_LARGEST = 2**63


def write_document(value: object, path: Path, name: str, version: int) -> None:
    """Write a dataclass as {"format": name, "version": version, and its fields}, replaced atomically."""
    with replacing(path) as file:
        file.write(document_text(value, name, version).encode())


def document_text(value: object, name: str, version: int) -> str:
    """What `write_document` writes."""
    fields = dataclasses.asdict(cast(Any, value))
    return json.dumps({"format": name, "version": version, **fields}, indent=1, default=_path_text) + "\n"


def _path_text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} is no JSON type")


def read_document(kind: type[_T], path: Path, name: str, version: int) -> _T:
    """Read what `write_document` wrote of a `kind`. InputError where the file is anything else."""
    fields = read_fields(path, name, version)
    try:
        return cast(_T, _decoded(kind, {key: fields[key] for key in fields.keys() - {"format", "version"}}, ""))
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}") from None


def read_fields(path: Path, name: str, version: int) -> dict[str, Any]:
    """What the document holds, of our format and version, its fields unchecked. Raises InputError."""
    try:
        document = read_json(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}") from None
    if not isinstance(document, dict) or document.get("format") != name:
        raise InputError(f"{path} is no document of format {name!r}")
    if document.get("version") != version:
        raise InputError(f"{path} has version {document.get('version')!r}; this program reads version {version}")
    return document


def _decoded(kind: Any, value: Any, where: str) -> Any:
    """`value`, JSON types, as a `kind`. ValueError says which field is none."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is UnionType:
        (other,) = (argument for argument in arguments if argument is not NoneType)
        return None if value is None else _decoded(other, value, where)
    if dataclasses.is_dataclass(kind):
        return _record(cast(Any, kind), value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_decoded(arguments[0], entry, f"{where}[{i}]") for i, entry in enumerate(value))
    if origin is Mapping and isinstance(value, dict):
        return {key: _decoded(arguments[1], entry, f"{where}.{key}") for key, entry in value.items()}
    if kind is float and type(value) in (int, float) and abs(value) < 2**1023 and math.isfinite(value):
        return float(value)
    if kind is int and type(value) is int and abs(value) < _LARGEST:
        return value
    if kind is Path and isinstance(value, str) and "\0" not in value:
        return Path(value)
    if kind in (str, bool) and type(value) is kind:
        return value
    raise ValueError(f"{where.lstrip('.') or 'it'} is {str(value)[:40]!r}, no {getattr(kind, '__name__', kind)}")


def _record(kind: Any, value: Any, where: str) -> Any:
    names = [field.name for field in dataclasses.fields(kind)]
    if not isinstance(value, dict) or value.keys() != set(names):
        raise ValueError(f"{where.lstrip('.') or 'it'} does not hold exactly {', '.join(names)}")
    kinds = get_type_hints(kind)
    return kind(**{name: _decoded(kinds[name], value[name], f"{where}.{name}") for name in names})
