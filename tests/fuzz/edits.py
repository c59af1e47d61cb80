"""Edits of files as data: what a mutation does, drawn at random, kept as JSON, done again.

An edit of bytes is ["set", at, hex], ["copy", from, to, length], ["insert", at, hex], ["delete", at, length],
["spell", at, length, text in their place] or ["cut", length]; one of a JSON document is ["json", [key, …], value],
["drop", [key, …]] or ["twice", [key, …]]. In values {"@repeat": [text, n]} stands for a long text, and {"@nest": n}
for lists in lists.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

Edit = list[Any]
"""JSON types alone."""

_EDGES = (
    0,
    1,
    2,
    3,
    7,
    8,
    255,
    256,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 2,
    2**32 - 1,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
_SPELT = (
    "-1",
    "0",
    "00",
    "1",
    "2",
    "1.5",
    "1e999",
    "0x1p9999",
    "NaN",
    "2147483648",
    "18446744073709551616",
    "9" * 400,
    "9" * 5000,
)
_LONGEST_BLOCK = 64
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 0.5, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**30, "", "a", "a\0b",
    "../../x", "/dev/zero", "\ud800", "\x1b[31m", "é" * 300, [], {}, [[]], {"a": 1},
    {"@repeat": ["a", 10_000_000]}, {"@repeat": ["9", 5_000]}, {"@nest": 100_000},
)  # fmt: skip


def draw(random: np.random.Generator, content: bytes, is_json: bool) -> list[Edit]:
    """One to four edits of a file, most often one."""
    count = int(random.choice([1, 1, 1, 1, 2, 2, 3, 4]))
    if is_json and random.random() < 0.7:
        document = json.loads(content)
        return [_json_edit(random, document) for _ in range(count)]
    return [_byte_edit(random, content) for _ in range(count)]


def apply(content: bytes, edits: Sequence[Edit]) -> bytes:
    """The file after the edits; those of JSON come first, or alone."""
    if any(edit[0] in ("json", "drop", "twice") for edit in edits):
        document = json.loads(content)
        for edit in edits:
            document = _edited(document, edit[1], edit)
        return _dumped(document)
    data = bytearray(content)
    for name, *rest in edits:
        if name == "set":
            at, new = rest[0], bytes.fromhex(rest[1])
            data[at : at + len(new)] = new
        elif name == "copy":
            source, target, length = rest
            data[target : target + length] = data[source : source + length]
        elif name == "spell":
            at, length, text = rest
            data[at : at + length] = text.encode()
        elif name == "insert":
            data[rest[0] : rest[0]] = bytes.fromhex(rest[1])
        elif name == "delete":
            del data[rest[0] : rest[0] + rest[1]]
        else:
            assert name == "cut", name
            del data[rest[0] :]
    return bytes(data)


def _byte_edit(random: np.random.Generator, content: bytes) -> Edit:
    size = max(1, len(content))
    at = _place(random, content)
    kind = random.choice(["bit", "byte", "edge", "edge", "edge", "near", "digits", "copy", "insert", "delete", "cut"])
    if kind == "bit":
        return ["set", at, bytes([(content[at] if content else 0) ^ 1 << int(random.integers(8))]).hex()]
    if kind == "byte":
        return ["set", at, bytes([int(random.choice([0, 1, 2, 3, 4, 127, 128, 255, int(random.integers(256))]))]).hex()]
    if kind == "edge":
        width = int(random.choice([1, 2, 4, 4, 4, 8]))
        value = int(_EDGES[random.integers(len(_EDGES))]) % (1 << 8 * width)
        return ["set", at - at % width, value.to_bytes(width, "little").hex()]
    if kind == "near" and len(content) >= 4:  # an offset or a count that is a little off
        at = min(at - at % 4, len(content) - 4)
        (value,) = struct.unpack_from("<I", content, at)
        return ["set", at, ((value + int(random.integers(-64, 65))) % 2**32).to_bytes(4, "little").hex()]
    if kind == "digits":  # of a number that is spelt out, if there is one
        numbers = [match.span() for match in re.finditer(rb"[0-9][0-9.xe+-]*", content[:4096])]
        start, end = numbers[int(random.integers(len(numbers)))] if numbers else (at, at)
        return ["spell", start, end - start, _SPELT[int(random.integers(len(_SPELT)))]]
    length = int(random.integers(1, _LONGEST_BLOCK))
    if kind == "copy":
        return ["copy", int(random.integers(size)), at, length]
    if kind == "insert":
        return ["insert", at, random.bytes(length).hex()]
    if kind == "delete":
        return ["delete", at, length]
    return ["cut", at]


def _place(random: np.random.Generator, content: bytes) -> int:
    """Anywhere, or among the first bytes, where headers are."""
    return int(random.integers(max(1, min(len(content), 256) if random.random() < 0.1 else len(content))))


def _json_edit(random: np.random.Generator, document: Any) -> Edit:
    path: list[str | int] = []
    node = document
    while isinstance(node, dict | list) and len(node) and (not path or random.random() < 0.75):
        key = list(node)[int(random.integers(len(node)))] if isinstance(node, dict) else int(random.integers(len(node)))
        path.append(key)
        node = node[key]
    kind = random.choice(["json", "json", "json", "drop", "twice"])
    return [str(kind), path, _VALUES[int(random.integers(len(_VALUES)))]][: 3 if kind == "json" else 2]


def _edited(document: Any, path: Sequence[str | int], edit: Edit) -> Any:
    node = document
    try:
        for key in path[:-1]:
            node = node[key]
        key = path[-1]
        if edit[0] == "json":
            node[key] = edit[2]
        elif edit[0] == "drop":
            del node[key]
        elif isinstance(node, list):
            node.insert(key, node[key])
        else:
            node[f"{key}2"] = node[key]
    except (LookupError, TypeError, AttributeError):  # an edit before it took the place away
        return document
    return document


def _dumped(document: Any) -> bytes:
    """A document as text, with what stands for long texts and deep lists put in."""
    spelled: dict[str, str] = {}

    def spell(node: Any) -> Any:
        if isinstance(node, dict) and len(node) == 1 and next(iter(node)) in ("@repeat", "@nest"):
            ((kind, what),) = node.items()
            mark = f"@@{len(spelled)}@@"
            spelled[f'"{mark}"'] = f'"{what[0] * what[1]}"' if kind == "@repeat" else "[" * what + "]" * what
            return mark
        if isinstance(node, dict):
            return {key: spell(value) for key, value in node.items()}
        return [spell(value) for value in node] if isinstance(node, list) else node

    text = json.dumps(spell(document))
    for mark, what in spelled.items():
        text = text.replace(mark, what)
    return text.encode()
