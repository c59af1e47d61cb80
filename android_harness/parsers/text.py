"""What the parsers of text share: lines, numbers, sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

_DECIMAL = re.compile(r"[+-]?[0-9]{1,20}")


def pairs(text: str, separator: str = ":") -> Iterator[tuple[str, str]]:
    """Names and values of the lines `name: value`, stripped; other lines are passed over."""
    for line in text.splitlines():
        name, found, value = line.partition(separator)
        if found and name.strip():
            yield name.strip(), value.strip()


def first_values(text: str, separator: str = ":") -> dict[str, str]:
    """The same as a mapping; where a name comes twice its first value stands."""
    values: dict[str, str] = {}
    for name, value in pairs(text, separator):
        values.setdefault(name, value)
    return values


def integer(word: str | None, base: int = 10) -> int | None:
    """The number that a word is, None where it is none. Base 16 takes digits with or without 0x."""
    if word is None:
        return None
    word = word.strip()
    if base == 16:
        return int(word, 16) if re.fullmatch(r"(0[xX])?[0-9a-fA-F]{1,16}", word) else None
    return int(word) if _DECIMAL.fullmatch(word) else None


def real(word: str) -> float | None:
    """The finite number that a word is, None where it is none."""
    if not re.fullmatch(r"[+-]?[0-9]{1,20}(\.[0-9]{0,20})?([eE][+-]?[0-9]{1,3})?", word.strip()):
        return None
    value = float(word)
    return value if math.isfinite(value) else None


def kib(value: str | None) -> int | None:
    """Bytes of `1234 kB`, as the kernel writes sizes (KiB); None without the unit, which a cut line may lack."""
    found = re.fullmatch(r"([0-9]{1,15})\s*kB", value or "")
    return int(found[1]) * 1024 if found else None
