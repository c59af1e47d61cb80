"""The pickles inside PyTorch files, read as data: an interpreter that imports nothing and calls nothing.

`pickletools.genops` decodes the opcodes; this module carries out the few that a saved state dict is made of
(strings, numbers, tuples, lists, dicts, storages, tensors) and refuses every other opcode and every other name.
Opcodes: pickletools in the standard library; what torch writes: torch/serialization.py and torch/_utils.py.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from signatures.errors import InputError

STORAGE_DTYPES: dict[str, np.dtype[Any]] = {
    "torch DoubleStorage": np.dtype("<f8"),
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
    "torch ShortStorage": np.dtype("<i2"),
    "torch CharStorage": np.dtype("i1"),
    "torch ByteStorage": np.dtype("u1"),
    "torch BoolStorage": np.dtype("?"),
}
ORDERED_DICT = "collections OrderedDict"
REBUILD_TENSOR = "torch._utils _rebuild_tensor_v2"
KNOWN_NAMES = frozenset({*STORAGE_DTYPES, ORDERED_DICT, REBUILD_TENSOR})

_PUSH_ARGUMENT = frozenset(
    ["BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"]
)
_PUSH_NEW: dict[str, Any] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_TUPLE_SIZES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NO_EFFECT = frozenset({"PROTO", "FRAME", "STOP"})


class ByteStream(Protocol):
    """What pickletools reads from: a file, a BytesIO or a mapping."""

    def read(self, n: int, /) -> bytes:
        """Return up to n bytes."""

    def readline(self) -> bytes:
        """Return the bytes up to and including the next newline."""


@dataclass(frozen=True)
class Storage:
    """A run of `numel` elements that the file keeps outside the pickle under the name `key`."""

    dtype: np.dtype[Any]
    key: str
    numel: int


@dataclass(frozen=True)
class StridedTensor:
    """A view of a storage; offset and strides count elements. Nothing is checked against the storage yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Name:
    """A global that the pickle names, as "module attribute"; never looked up."""

    text: str


def interpret(stream: ByteStream) -> object:
    """Carry out one pickle and return its value; the stream stands behind STOP afterwards.

    Values are None, bool, int, float, str, tuple, list, dict, `Storage` and `StridedTensor`. OrderedDicts become
    dicts; attributes set on them (torch's `_metadata`) are dropped.
    Raises InputError, naming the opcode or the global, for anything else and for damaged pickles.
    """
    machine = _Machine()
    try:
        for opcode, argument, position in pickletools.genops(stream):  # type: ignore[arg-type]
            machine.step(opcode.name, argument, position or 0)
        return machine.stack.pop()
    except (IndexError, KeyError, ValueError, OverflowError) as error:
        raise InputError(f"damaged pickle: {type(error).__name__}: {error}") from None


class _Machine:
    """Stack, marks (stack heights) and memo of the pickle machine."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any, position: int) -> None:
        """Carry out one opcode; `position` is only for messages."""
        stack = self.stack
        if opcode in _PUSH_ARGUMENT:
            stack.append(argument)
        elif opcode in _PUSH_NEW:
            stack.append(_PUSH_NEW[opcode]())
        elif opcode in _TUPLE_SIZES:
            stack.append(tuple(self._pop(_TUPLE_SIZES[opcode])))
        elif opcode == "MARK":
            self.marks.append(len(stack))
        elif opcode == "TUPLE":
            stack.append(tuple(self._pop_to_mark()))
        elif opcode in ("SETITEM", "SETITEMS"):
            items = self._pop(2) if opcode == "SETITEM" else self._pop_to_mark()
            _fill(stack[-1], zip(items[::2], items[1::2], strict=True))
        elif opcode in ("APPEND", "APPENDS"):
            items = self._pop(1) if opcode == "APPEND" else self._pop_to_mark()
            _expect(stack[-1], list, f"{opcode} onto").extend(items)
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif opcode == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif opcode == "GLOBAL":
            stack.append(_known_name(argument))
        elif opcode == "STACK_GLOBAL":
            stack.append(_known_name(" ".join(_expect(part, str, opcode) for part in self._pop(2))))
        elif opcode == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif opcode == "REDUCE":
            function, arguments = self._pop(2)
            stack.append(_reduce(function, _expect(arguments, tuple, "REDUCE with")))
        elif opcode == "BUILD":
            _expect(stack.pop(), dict, "BUILD with")
            _expect(stack[-1], dict, "BUILD on")
        elif opcode not in _NO_EFFECT:
            detail = "" if argument is None else f" {str(argument)[:80]!r}"
            raise InputError(f"refused: opcode {opcode}{detail} at byte {position} has no place in a state dict")

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("the stack is empty")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def _pop_to_mark(self) -> list[Any]:
        height = self.marks.pop()
        if height > len(self.stack):
            raise IndexError("the stack is lower than its mark")
        taken = self.stack[height:]
        del self.stack[height:]
        return taken


def _known_name(text: str) -> _Name:
    if text not in KNOWN_NAMES:
        raise InputError(
            f"refused: the pickle names {text.replace(' ', '.')[:120]!r}, which is neither a tensor nor a storage type"
        )
    return _Name(text)


def _storage(identifier: object) -> Storage:
    """("storage", type, key, device, numel), to which the legacy format adds the view (None for a whole storage)."""
    match identifier:
        case ("storage", _Name(text), str(key), str(), int(numel), *view) if (
            text in STORAGE_DTYPES and numel >= 0 and view in ([], [None])
        ):
            return Storage(STORAGE_DTYPES[text], key, numel)
    raise InputError("refused: BINPERSID with something other than the description of a whole storage")


def _reduce(function: object, arguments: tuple[Any, ...]) -> object:
    match function, arguments:
        case _Name(text), () if text == ORDERED_DICT:
            return {}
        case _Name(text), (list(pairs),) if text == ORDERED_DICT:
            return _fill({}, [_pair(item) for item in pairs])
        case _Name(text), (Storage() as storage, int(offset), tuple(shape), tuple(strides), *_) if (
            text == REBUILD_TENSOR
        ):
            return StridedTensor(storage, offset, _whole_numbers(shape), _whole_numbers(strides))
    called = function.text.replace(" ", ".") if isinstance(function, _Name) else type(function).__name__
    raise InputError(f"refused: REDUCE calls {called} with arguments that a state dict does not have")


def _fill(target: object, pairs: Any) -> dict[Any, Any]:
    """Set items; keys are str or int, because hashing a nested tuple from a hostile file may never end."""
    filled: dict[Any, Any] = _expect(target, dict, "SETITEM on")
    for key, value in pairs:
        if type(key) not in (str, int):
            raise InputError(f"refused: a dict key of type {type(key).__name__}")
        filled[key] = value
    return filled


def _pair(item: object) -> tuple[Any, Any]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise InputError(f"refused: {type(item).__name__} where a pair belongs")
    return item[0], item[1]


def _whole_numbers(values: tuple[Any, ...]) -> tuple[int, ...]:
    if not all(type(value) is int for value in values):
        raise InputError("refused: a tensor whose shape or strides are not whole numbers")
    return values


def _expect(value: Any, kind: type, action: str) -> Any:
    if not isinstance(value, kind):
        raise InputError(f"refused: {action} {type(value).__name__}")
    return value
