"""Graph, Op, Tensor: one TFLite subgraph as plain immutable objects that refer to each other by identity.

Nothing here knows the flatbuffer schema; `tflite_io` turns files into these objects and back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from signatures.errors import InputError

Array = NDArray[Any]
OptionValue = int | float | bool | str | tuple[int, ...]

ITEM_BYTES: Mapping[str, int] = MappingProxyType(
    {
        "float32": 4, "float16": 2, "float64": 8, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2,
        "int32": 4, "uint32": 4, "int64": 8, "uint64": 8, "bool": 1, "resource": 0,
    }
)  # fmt: skip
"""Bytes of one element, by dtype name; a resource is a handle and holds no elements."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """A value in a graph. `data` is set for constants and is a read-only array, often a view of a mapped file."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: Array | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Bytes of the value."""
        return self.size * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Options:
    """Builtin options of an op: the schema's table name and its fields, spelled as in the schema's accessors.

    Example: Options("Conv2DOptions", {"Padding": 0, "StrideW": 2, "StrideH": 2}). Absent fields have the
    schema's default.
    """

    table: str = "NONE"
    fields: Mapping[str, OptionValue] = field(default_factory=dict)

    def integer(self, name: str, default: int = 0) -> int:
        """Field `name` as an int."""
        value = self.fields.get(name, default)
        if not isinstance(value, int):
            raise InputError(f"{self.table}.{name} is {value!r}, expected an integer")
        return int(value)

    def number(self, name: str, default: float = 0.0) -> float:
        """Field `name` as a float."""
        value = self.fields.get(name, default)
        if not isinstance(value, int | float):
            raise InputError(f"{self.table}.{name} is {value!r}, expected a number")
        return float(value)

    def flag(self, name: str) -> bool:
        """Field `name` as a bool; absent means False."""
        return bool(self.fields.get(name, False))

    def integers(self, name: str) -> tuple[int, ...]:
        """Vector field `name` as ints; absent means empty."""
        value = self.fields.get(name, ())
        if not isinstance(value, tuple):
            raise InputError(f"{self.table}.{name} is {value!r}, expected a vector of integers")
        return value

    def replace(self, **changes: OptionValue) -> Options:
        """A copy with some fields changed."""
        return Options(self.table, {**self.fields, **changes})


@dataclass(frozen=True, eq=False)
class Op:
    """One operation. `kind` is the schema's BuiltinOperator name, `None` inputs are omitted optional ones."""

    kind: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Options = Options()
    version: int = 1

    @property
    def output(self) -> Tensor:
        """The only output."""
        (tensor,) = self.outputs
        return tensor

    def input(self, index: int) -> Tensor:
        """Input `index`, which must be present."""
        tensor = self.inputs[index] if index < len(self.inputs) else None
        if tensor is None:
            raise InputError(f"{self.kind} that makes {self.outputs[0].name!r} has no input {index}")
        return tensor

    def optional(self, index: int) -> Tensor | None:
        """Input `index`, or None where it is omitted."""
        return self.inputs[index] if index < len(self.inputs) else None


@dataclass(frozen=True, eq=False)
class Graph:
    """One subgraph: ops in execution order, each reading constants, graph inputs and earlier outputs."""

    name: str
    ops: tuple[Op, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor once: inputs, then in the order in which ops first touch them, then outputs."""
        seen: set[Tensor] = set()
        for group in (self.inputs, *(op.inputs + op.outputs for op in self.ops), self.outputs):
            for tensor in group:
                if tensor is not None and tensor not in seen:
                    seen.add(tensor)
                    yield tensor

    def producers(self) -> dict[Tensor, Op]:
        """The op that makes each tensor."""
        return {tensor: op for op in self.ops for tensor in op.outputs}

    def consumers(self) -> dict[Tensor, list[Op]]:
        """The ops that read each tensor, in order."""
        readers: dict[Tensor, list[Op]] = {}
        for op in self.ops:
            for tensor in dict.fromkeys(op.inputs):
                if tensor is not None:
                    readers.setdefault(tensor, []).append(op)
        return readers


@dataclass(frozen=True, eq=False)
class Signature:
    """A callable entry of a model: argument and result names and the tensors of `graph` behind them."""

    name: str
    graph: Graph
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Model:
    """A .tflite file: graphs (the first is what `Interpreter()` runs without a signature) and signatures."""

    graphs: tuple[Graph, ...]
    signatures: tuple[Signature, ...]

    def signature(self, name: str) -> Signature:
        """The signature called `name`; InputError if there is none."""
        for signature in self.signatures:
            if signature.name == name:
                return signature
        have = ", ".join(s.name for s in self.signatures) or "none"
        raise InputError(f"the model has no signature {name!r} (it has: {have})")


def constant(name: str, value: Array) -> Tensor:
    """A constant tensor over `value`, which is not copied if it is contiguous already."""
    data = np.ascontiguousarray(value)
    return Tensor(name, tuple(value.shape), data.dtype.name, data)
