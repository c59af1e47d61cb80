"""The flatbuffer of a .tflite, verified: every table, vector and text lies where its offset says, inside the file.

Python's readers and the interpreters follow offsets without looking; this goes along all of them once, before either
does. The rules are those of the `Verifier` of the flatbuffers library, and stricter in three things: a field that our
schema does not know is refused, for a newer runtime would follow it unverified (weights in other files, say); the parts
of a file may be reached again and again only so often; and options have to be those of a known table.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from struct import Struct
from types import MappingProxyType
from typing import Any

import tflite

from signatures.errors import InputError

MOST_VISITS = 200_000
"""Tables and vectors that a model may be made of, each counted as often as it is referred to and by its length. That of
MobileNetV2 takes 5,000; a few kilobytes that refer to themselves a thousandfold take any number."""
_VISIT_BYTES = 16
"""Of a vector or a text: what counts as one visit."""


@dataclass(frozen=True)
class _Scalar:
    """A number inside its table."""

    n_bytes: int


@dataclass(frozen=True)
class _Vector:
    """Numbers, or a text, which ends in a zero byte."""

    item_bytes: int
    is_text: bool = False
    counts: bool = True
    """Whether its length counts among the visits: not for weights, which nothing walks."""


@dataclass(frozen=True)
class _Table:
    """A table, or a vector of tables."""

    name: str
    is_vector: bool = False


@dataclass(frozen=True)
class _OptionsOf:
    """A table whose name the field before it tells."""


_Field = _Scalar | _Vector | _Table | _OptionsOf | None
"""None: not to be there, for nothing that we read has it."""
_TEXT = _Vector(1, is_text=True)
_INT32S = _Vector(4)
_BYTE, _WORD, _LONG = _Scalar(1), _Scalar(4), _Scalar(8)
_UNREAD = _Scalar(4)
"""An offset that nobody follows: a model that has it is refused by who reads it, in words of its own."""

_TABLES: Mapping[str, tuple[_Field, ...]] = MappingProxyType(
    {
        "Model": (
            _WORD, _Table("OperatorCode", True), _Table("SubGraph", True), _TEXT, _Table("Buffer", True), _INT32S,
            _Table("Metadata", True), _Table("SignatureDef", True),
        ),
        "OperatorCode": (_BYTE, _TEXT, _WORD, _WORD),
        "SubGraph": (_Table("Tensor", True), _INT32S, _INT32S, _Table("Operator", True), _TEXT, _WORD),
        "Tensor": (
            _INT32S, _BYTE, _WORD, _TEXT, _Table("QuantizationParameters"), _BYTE, _UNREAD, _INT32S, _BYTE,
        ),
        "QuantizationParameters": (_Vector(4), _Vector(4), _Vector(4), _Vector(8), None, None, _WORD),
        "Operator": (
            _WORD, _INT32S, _INT32S, _BYTE, _OptionsOf(), _Vector(1), _BYTE, _Vector(1), None, None, None, _BYTE,
            _UNREAD, _WORD,
        ),
        "Buffer": (_Vector(1, counts=False), _LONG, _LONG),
        "Metadata": (_TEXT, _WORD),
        "SignatureDef": (_Table("TensorMap", True), _Table("TensorMap", True), _TEXT, None, _WORD),
        "TensorMap": (_TEXT, _WORD),
    }
)  # fmt: skip
"""Fields by their number."""

_OPTIONS = MappingProxyType({v: k for k, v in vars(tflite.BuiltinOptions).items() if isinstance(v, int) and v})
_UINT16, _INT32, _UINT32 = Struct("<H"), Struct("<i"), Struct("<I")


class _Recorder:
    """Stands in for a `flatbuffers.Builder`: notes into which slot a generated `Add` function would write what."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []
        self.item_bytes = 0

    def __getattr__(self, name: str) -> Any:
        kind = re.fullmatch(r"Prepend(\w+)Slot", name)
        if kind is None:
            raise AttributeError(name)
        return lambda slot, *_: self.found.append((slot, kind[1]))

    def StartVector(self, item_bytes: int, *_: int) -> None:  # noqa: N802
        self.item_bytes = item_bytes


_SCALAR_BYTES = {
    "Bool": 1, "Byte": 1, "Int8": 1, "Uint8": 1, "Int16": 2, "Uint16": 2, "Int32": 4, "Uint32": 4, "Float32": 4,
    "Int64": 8, "Uint64": 8, "Float64": 8,
}  # fmt: skip


@cache
def _options_fields(table: str) -> tuple[_Field, ...]:
    """Fields of an options table: the schema package has them in its functions that write them."""
    functions = vars(import_module(f"tflite.{table}"))
    fields: dict[int, _Field] = {}
    for name, function in functions.items():
        if name.startswith(f"{table}Add"):
            recorder = _Recorder()
            function(recorder, 0)
            ((slot, kind),) = recorder.found
            fields[slot] = _TEXT if kind == "UOffsetTRelative" else _Scalar(_SCALAR_BYTES[kind])
            start = functions.get(f"{table}Start{name.removeprefix(f'{table}Add')}Vector")
            if start is not None:
                start(recorder, 0)
                fields[slot] = _Vector(recorder.item_bytes)
    return tuple(fields.get(slot) for slot in range(max(fields, default=-1) + 1))


def verify(buffer: bytes | mmap.mmap, where: str) -> None:
    """Check the flatbuffer that `buffer` starts with. Raises InputError that begins with `where`."""
    _Verifier(buffer, where).model()


class _Verifier:
    """Goes through one flatbuffer. Positions are those of bytes from its start."""

    def __init__(self, buffer: bytes | mmap.mmap, where: str) -> None:
        self.buffer = buffer
        self.size = len(buffer)
        self.where = where
        self.visits = 0
        self.verified: dict[tuple[int, str], int] = {}
        """Tables, and how many visits one takes with all that it holds."""

    def fail(self, what: str, position: int) -> InputError:
        return InputError(f"{self.where} is damaged: {what} at byte {position} of {self.size}")

    def visit(self, count: int = 1) -> None:
        self.visits += count
        if self.visits > MOST_VISITS:
            raise InputError(f"{self.where} is damaged: its parts refer to each other more than {MOST_VISITS:,} times")

    def within(self, position: int, n_bytes: int, alignment: int, what: str) -> None:
        if position < 0 or position + n_bytes > self.size:
            raise self.fail(f"{what} that ends outside", position)
        if position % alignment:
            raise self.fail(f"{what} that is not aligned to {alignment} bytes", position)

    def target(self, position: int, what: str) -> int:
        """Where the offset at `position` leads."""
        self.within(position, 4, 4, f"the offset of {what}")
        (offset,) = _UINT32.unpack_from(self.buffer, position)
        if offset == 0 or position + offset > self.size - 4:
            raise self.fail(f"an offset to {what} that leads outside", position)
        return int(position + offset)

    def model(self) -> None:
        self.table(self.target(0, "the model"), "Model")

    def table(self, position: int, name: str) -> None:
        if (position, name) not in self.verified:
            before = self.visits
            self.fields(position, name)  # no circles: no table of the schema can hold one of its own kind
            self.verified[position, name] = self.visits - before
        else:
            self.visit(self.verified[position, name])

    def fields(self, position: int, name: str) -> None:
        self.visit()
        fields = _TABLES[name] if name in _TABLES else _options_fields(name)
        self.within(position, 4, 4, name)
        vtable = position - _INT32.unpack_from(self.buffer, position)[0]
        self.within(vtable, 4, 2, f"the vtable of {name}")
        (vtable_bytes,), (table_bytes,) = (_UINT16.unpack_from(self.buffer, vtable + i) for i in (0, 2))
        if vtable_bytes < 4 or vtable_bytes % 2 or table_bytes < 4:
            raise self.fail(f"{name} with a vtable of {vtable_bytes} and a body of {table_bytes} bytes", vtable)
        self.within(vtable, vtable_bytes, 2, f"the vtable of {name}")
        self.within(position, table_bytes, 4, name)
        kind_of_options = 0
        for slot in range((vtable_bytes - 4) // 2):
            (offset,) = _UINT16.unpack_from(self.buffer, vtable + 4 + 2 * slot)
            if offset == 0:
                continue
            field = fields[slot] if slot < len(fields) else None
            if field is None:
                raise InputError(f"{self.where} cannot be read: {name} has a field {slot}, which no plain model has")
            n_bytes = field.n_bytes if isinstance(field, _Scalar) else 4
            if offset < 4 or offset + n_bytes > table_bytes:
                raise self.fail(f"field {slot} of {name} outside of its table", position)
            place = position + offset
            self.within(place, n_bytes, n_bytes, f"field {slot} of {name}")
            if field == _BYTE and name == "Operator" and slot == 3:
                kind_of_options = self.buffer[place]
            elif isinstance(field, _OptionsOf):
                self.options(place, kind_of_options)
            elif isinstance(field, _Vector):
                self.vector(place, field, name)
            elif isinstance(field, _Table):
                self.tables(place, field)

    def options(self, place: int, kind: int) -> None:
        name = _OPTIONS.get(kind)
        if name is None:
            raise self.fail(f"options of an unknown kind {kind}", place)
        self.table(self.target(place, name), name)

    def vector(self, place: int, field: _Vector, owner: str) -> None:
        start = self.target(place, f"a vector of {owner}")
        self.within(start, 4, 4, f"a vector of {owner}")
        (length,) = _UINT32.unpack_from(self.buffer, start)
        n_bytes = length * field.item_bytes
        # TensorFlow aligns items of eight bytes to four; every reader copes.
        self.within(start + 4, n_bytes + field.is_text, min(4, field.item_bytes), f"a vector of {owner}")
        self.visit(1 + (n_bytes // _VISIT_BYTES if field.counts else 0))
        if field.is_text and self.buffer[start + 4 + n_bytes] != 0:
            raise self.fail(f"a text of {owner} without an end", start)

    def tables(self, place: int, field: _Table) -> None:
        start = self.target(place, field.name)
        if not field.is_vector:
            self.table(start, field.name)
            return
        self.within(start, 4, 4, f"the list of {field.name}")
        (length,) = _UINT32.unpack_from(self.buffer, start)
        self.within(start + 4, 4 * length, 4, f"the list of {field.name}")
        for i in range(length):
            entry = start + 4 + 4 * i
            self.table(self.target(entry, field.name), field.name)
