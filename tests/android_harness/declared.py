"""Whether a value is what its annotations say: parsers are typed, but what they read is any text."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints


def fits(value: Any, kind: Any) -> bool:
    """Whether it and all that it holds are; numbers are finite.

    kind: a class, T | None, tuple[T, ...] or dict[K, V]. A dataclass is asked field by field.
    """
    parts = get_args(kind)
    if get_origin(kind) is UnionType:
        return any(fits(value, part) for part in parts)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(fits(item, parts[0]) for item in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(fits(k, parts[0]) and fits(v, parts[1]) for k, v in value.items())
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return isinstance(value, kind) and all(fits(getattr(value, f.name), hints[f.name]) for f in fields(kind))
    return isinstance(value, kind) and not (isinstance(value, float) and not math.isfinite(value))
