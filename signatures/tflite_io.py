""".tflite ⇄ Graphs. The only place that knows the flatbuffer schema.

Reading maps the file; weights stay views of the mapping. Writing makes a flatbuffer of a few kilobytes and appends
every large constant behind it (`Buffer.offset`/`Buffer.size`), so weights go from file to file and never through
Python objects. Constants that share memory are written once.
"""

from __future__ import annotations

import io
import mmap
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import flatbuffers
import numpy as np
import tflite

from signatures import flatbuffer
from signatures.durable import replacing
from signatures.errors import InputError
from signatures.files import open_regular
from signatures.graph import ITEM_BYTES, Array, Graph, Model, Op, Options, OptionValue, Signature, Tensor
from signatures.op_checks import SPLITS, STATE, check_op
from signatures.shapes import ComputedShapeError, can_infer, infer, infer_parts

FILE_IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
INLINE_BYTES = 1024
"""Constants below this size stay inside the flatbuffer, where every tool finds them."""
ALIGNMENT = 64
"""Alignment of appended constants: a cache line, more than the 16 bytes that the kernels need."""
COPY_BYTES = 4 << 20
"""Constants are copied in pieces of this size."""
NO_BUFFER = 0
"""By the schema's rule buffer 0 is empty and means: not a constant."""
MOST_AXES = 8
"""Of a tensor: what kernels have room for."""
MOST_TENSOR_BYTES = 2**31 - 1
"""Of a tensor: kernels count elements and bytes in 32 bits."""


def _names_by_value(enum: type) -> dict[int, str]:
    return {value: name for name, value in vars(enum).items() if isinstance(value, int)}


_OPERATOR_NAMES = _names_by_value(tflite.BuiltinOperator)
_OPTIONS_NAMES = _names_by_value(tflite.BuiltinOptions)
_TENSOR_TYPES = {name.lower(): value for value, name in _names_by_value(tflite.TensorType).items()}
_DTYPES = {value: name for name, value in _TENSOR_TYPES.items() if name in ITEM_BYTES}
_DEPRECATED_CODES_END = 127


@cache
def _option_fields(table: str) -> tuple[str, ...]:
    """Field names of an options table, from the schema package's `<table>Add<Field>` functions."""
    prefix = f"{table}Add"
    module = getattr(tflite, table).__module__
    functions = vars(__import__(module, fromlist=["_"]))
    return tuple(name[len(prefix) :] for name in functions if name.startswith(prefix))


# ---------------------------------------------------------------------------------------------------------------
# Reading


def read_model(path: Path) -> Model:
    """Read and check a float `.tflite`; constants are read-only views of the mapped file.

    Raises InputError if the file is missing, is no TFLite model, contradicts itself (offsets, indices, sizes, order,
    shapes), or holds what kernels cannot be trusted with (`op_checks`).
    """
    return parse_model(map_file(path), str(path))


def map_file(path: Path) -> mmap.mmap:
    """A model file, mapped to be read. Raises InputError."""
    try:
        with open_regular(path) as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the model {path}: {error}") from None


def parse_model(buffer: bytes | mmap.mmap, where: str) -> Model:
    """As `read_model`, from a buffer; `where` names it in messages."""
    if len(buffer) < 8 or bytes(buffer[4:8]) != FILE_IDENTIFIER:
        raise InputError(f"{where} is not a TFLite model (no {FILE_IDENTIFIER.decode()} identifier)")
    flatbuffer.verify(buffer, where)
    try:
        return _Reader(buffer, where).model()
    except (struct.error, LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise InputError(f"{where} is damaged: {type(error).__name__}: {error}") from error


class _Reader:
    """Walks one flatbuffer that was verified. What it says is checked before it is used."""

    def __init__(self, buffer: bytes | mmap.mmap, where: str) -> None:
        self.buffer = buffer
        self.where = where
        self.root = tflite.Model.GetRootAs(buffer, 0)
        self.uncertain: set[Tensor] = set()
        """Whose shapes are placeholders: the file leaves them open, or a value that is computed decides them."""

    def fail(self, what: str) -> InputError:
        return InputError(f"{self.where} is damaged: {what}")

    def indices(self, array: Any, bound: int, what: str, optional: bool = False) -> list[int]:
        if isinstance(array, int):  # flatbuffers' way to say: no such vector
            return []
        values = [int(i) for i in array]
        for i in values:
            if not (-1 if optional else 0) <= i < bound:
                raise self.fail(f"{what} {i} of {bound}")
        return values

    def model(self) -> Model:
        root = self.root
        if root.Version() != SCHEMA_VERSION:
            raise InputError(f"{self.where} has schema version {root.Version()}, expected {SCHEMA_VERSION}")
        self.check_buffers()
        codes = [self.operator_code(root.OperatorCodes(i)) for i in range(root.OperatorCodesLength())]
        tables = [
            [self.tensor(subgraph.Tensors(i)) for i in range(subgraph.TensorsLength())]
            for subgraph in (root.Subgraphs(i) for i in range(root.SubgraphsLength()))
        ]
        graphs = tuple(self.graph(root.Subgraphs(i), tensors, codes) for i, tensors in enumerate(tables))
        if not graphs:
            raise self.fail("it has no subgraph")
        self.check_state(graphs)
        signatures = tuple(
            self.signature(root.SignatureDefs(i), graphs, tables) for i in range(root.SignatureDefsLength())
        )
        names = [signature.name for signature in signatures]
        if len(set(names)) < len(names):
            raise self.fail(f"two signatures have one name, {max(names, key=names.count)!r}")
        return Model(graphs, signatures)

    def check_buffers(self) -> None:
        """Interpreters disagree with each other, and with us, about what these would mean."""
        root = self.root
        for i in range(root.BuffersLength()):
            buffer = root.Buffers(i)
            inside, behind = buffer.DataLength(), buffer.Offset() or buffer.Size()
            if (inside or behind) and i == NO_BUFFER:
                raise self.fail(f"buffer {NO_BUFFER} is not empty")
            if inside and behind:
                raise self.fail(f"buffer {i} is inside and behind the flatbuffer")
        for i in range(root.MetadataLength()):
            self.indices([root.Metadata(i).Buffer()], root.BuffersLength(), "buffer of metadata")

    def operator_code(self, code: Any) -> tuple[str, int]:
        value = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        kind = _OPERATOR_NAMES.get(value)
        if kind is None:
            raise InputError(f"{self.where} uses builtin operator {value}, which this schema does not know")
        if kind == "CUSTOM":
            custom = (code.CustomCode() or b"?").decode()
            raise InputError(f"{self.where} uses the custom op {custom!r}; only builtin ops can be trained")
        return kind, code.Version()

    def tensor(self, tensor: Any) -> Tensor:
        name = (tensor.Name() or b"").decode()
        dtype = _DTYPES.get(tensor.Type())
        if dtype is None:
            raise InputError(f"{self.where}: tensor {name!r} has an unsupported type {tensor.Type()}")
        shape, bytes_of_shape = self.shape(tensor, name, dtype)
        quantization = tensor.Quantization()
        if quantization is not None and quantization.ScaleLength():
            raise InputError(
                f"{self.where}: {self.quantised()}, {name!r} the first: the model is quantised; only float models can "
                f"be trained. Export the float model (no optimizations), adapt it, and quantise the adapted one"
            )
        if tensor.Sparsity() is not None:
            raise InputError(f"{self.where}: tensor {name!r} is stored sparse; export the model with dense weights")
        data = self.constant(tensor.Buffer(), name)
        if data is None and 0 in shape and tensor.Buffer() != NO_BUFFER:
            data = np.empty(0, np.uint8)  # the shape of a scalar, say: a constant without bytes
        if data is not None:
            if dtype == "resource" or data.nbytes != bytes_of_shape:
                raise self.fail(f"constant {name!r} {dtype}{list(shape)} has {data.nbytes} bytes")
            if tensor.IsVariable():
                raise self.fail(f"constant {name!r} is said to change")
            if dtype == "bool" and data.size and data.max() > 1:
                raise self.fail(f"constant {name!r} holds {data.max()}, which is no bool")
            data = data.view(dtype).reshape(shape)
            if not data.flags.aligned:  # TensorFlow aligns float32 weights to 4 bytes only, which is enough
                data = data.copy()
            data.flags.writeable = False
        result = Tensor(name, shape, dtype, data)
        # The side of the batch may be open: a file's shapes are those for one image.
        if data is None and any(side == -1 for side in self.open_shape(tensor, name, len(shape))[1:]):
            self.uncertain.add(result)
        return result

    def shape(self, tensor: Any, name: str, dtype: str) -> tuple[tuple[int, ...], int]:
        """The shape of a tensor, and how many bytes it takes."""
        if tensor.ShapeLength() > MOST_AXES:
            raise self.fail(f"tensor {name!r} has {tensor.ShapeLength()} axes")
        shape = tuple(self.indices(tensor.ShapeAsNumpy(), 2**31 - 1, f"dimension of {name!r}"))
        n_bytes = ITEM_BYTES[dtype]
        for side in shape:
            n_bytes *= side
        if n_bytes > MOST_TENSOR_BYTES:
            raise self.fail(f"tensor {name!r} of shape {shape} takes {n_bytes} bytes")
        return shape, n_bytes

    def open_shape(self, tensor: Any, name: str, rank: int) -> list[int]:
        """The shape in which sides that the file leaves open are -1; empty where it has none."""
        if tensor.ShapeSignatureLength() not in (0, rank):
            raise self.fail(f"tensor {name!r} has {rank} axes and a signature of {tensor.ShapeSignatureLength()}")
        return self.indices(tensor.ShapeSignatureAsNumpy(), 2**31 - 1, f"open dimension of {name!r}", optional=True)

    def quantised(self) -> str:
        """How many tensors are, in words."""
        subgraphs = [self.root.Subgraphs(i) for i in range(self.root.SubgraphsLength())]
        tensors = [s.Tensors(i) for s in subgraphs for i in range(s.TensorsLength())]
        count = sum((q := tensor.Quantization()) is not None and q.ScaleLength() > 0 for tensor in tensors)
        return f"{count} of {len(tensors)} tensors are integers with a scale"

    def constant(self, index: int, name: str) -> Array | None:
        """Bytes of buffer `index` as a read-only uint8 view, or None where it is empty."""
        if not 0 <= index < max(1, self.root.BuffersLength()):
            raise self.fail(f"tensor {name!r} names buffer {index} of {self.root.BuffersLength()}")
        if index == NO_BUFFER:
            return None
        buffer = self.root.Buffers(index)
        if buffer.Offset() > 1:  # the schema reserves 0 and 1 for "data is inside"
            start, size = buffer.Offset(), buffer.Size()
            if size == 0 or start % 4:
                raise self.fail(f"buffer {index} of {name!r} has {size} bytes from byte {start}")
        elif buffer.DataLength():
            vector = buffer._tab.Vector(buffer._tab.Offset(4))
            start, size = vector, buffer.DataLength()
        else:
            return None
        if start < 0 or start + size > len(self.buffer):
            raise self.fail(f"buffer {index} of {name!r} reaches to byte {start + size} of {len(self.buffer)}")
        return np.frombuffer(self.buffer, np.uint8, size, start)

    def graph(self, subgraph: Any, tensors: list[Tensor], codes: list[tuple[str, int]]) -> Graph:
        name = (subgraph.Name() or b"").decode()
        inputs = self.indices(subgraph.InputsAsNumpy(), len(tensors), "graph input")
        outputs = self.indices(subgraph.OutputsAsNumpy(), len(tensors), "graph output")
        constants = {i for i, tensor in enumerate(tensors) if tensor.data is not None}
        for k in inputs:
            # Who feeds a constant writes into the mapped file, which is not to be written.
            if k in constants or inputs.count(k) > 1 or 0 in tensors[k].shape:
                raise self.fail(f"graph input {tensors[k].name!r} {list(tensors[k].shape)} cannot be fed")
        known = constants | set(inputs)
        ops = []
        for i in range(subgraph.OperatorsLength()):
            operator = subgraph.Operators(i)
            (code,) = self.indices([operator.OpcodeIndex()], len(codes), "opcode")
            kind, version = codes[code]
            reads = self.indices(operator.InputsAsNumpy(), len(tensors), f"input of {kind}", optional=True)
            writes = self.indices(operator.OutputsAsNumpy(), len(tensors), f"output of {kind}")
            for k in reads:
                if k >= 0 and k not in known:
                    raise self.fail(f"{kind} number {i} reads {tensors[k].name!r} before anything wrote it")
            if known & set(writes) or len(set(writes)) < len(writes):
                raise self.fail(f"{kind} number {i} writes a tensor that already has a value")
            known |= set(writes)
            op = Op(
                kind,
                tuple(tensors[k] if k >= 0 else None for k in reads),
                tuple(tensors[k] for k in writes),
                self.options(operator),
                version,
            )
            self.check(op, i)
            ops.append(op)
        for k in outputs:
            if k not in known:
                raise self.fail(f"graph output {tensors[k].name!r} is never written")
        return Graph(name, tuple(ops), tuple(tensors[k] for k in inputs), tuple(tensors[k] for k in outputs))

    def check(self, op: Op, number: int) -> None:
        """Native kernels trust options and an output's stored shape in places: refuse what cannot be."""
        certain = self.uncertain.isdisjoint(op.inputs)
        try:
            check_op(op, certain)
            if op.kind in STATE:  # `check_state` knows their shapes
                return
            if not certain or not (can_infer(op.kind) or op.kind in SPLITS):
                raise ComputedShapeError("by what stands before it, or by a rule that we do not know")
            if op.kind in SPLITS:
                expected = infer_parts(op.kind, op.inputs, op.options)
            else:
                expected = (infer(op.kind, op.inputs, op.options),)
        except ComputedShapeError:
            self.uncertain.update(op.outputs)
            return
        except InputError as error:
            raise InputError(f"{self.where} cannot be run: op {number}: {error}") from None
        found = tuple((tensor.shape, tensor.dtype) for tensor in op.outputs)
        if found != expected:
            listed = [", ".join(f"{dtype}{list(shape)}" for shape, dtype in values) for values in (found, expected)]
            raise self.fail(
                f"{op.kind} that makes {op.outputs[0].name!r} says {listed[0]}, its inputs give {listed[1]}"
            )

    def check_state(self, graphs: tuple[Graph, ...]) -> None:
        """Variables have one shape wherever they are read or set; what is called once calls nothing itself."""
        shapes: dict[tuple[OptionValue, OptionValue], tuple[tuple[int, ...], str]] = {}
        for graph in graphs:
            handles = {}
            for op in graph.ops:
                if op.kind == "CALL_ONCE":
                    (index,) = self.indices([op.options.integer("InitSubgraphIndex")], len(graphs), "graph called once")
                    if graphs[index].inputs or any(other.kind == "CALL_ONCE" for other in graphs[index].ops):
                        raise self.fail(f"graph {index} is called once, but takes inputs or calls others")
                elif op.kind == "VAR_HANDLE":
                    fields = op.options.fields
                    handles[op.output] = fields.get("Container", ""), fields.get("SharedName", "")
                elif op.kind in ("READ_VARIABLE", "ASSIGN_VARIABLE"):
                    name = handles.get(op.input(0))
                    value = op.output if op.kind == "READ_VARIABLE" else op.input(1)
                    if name is None or shapes.setdefault(name, (value.shape, value.dtype)) != (
                        value.shape,
                        value.dtype,
                    ):
                        raise self.fail(
                            f"{op.kind} of {value.name!r} {value.dtype}{list(value.shape)}: no such variable"
                        )

    def options(self, operator: Any) -> Options:
        if operator.BuiltinOptions2Type():
            raise InputError(f"{self.where} uses StableHLO ops, which this reader does not know")
        table = _OPTIONS_NAMES.get(operator.BuiltinOptionsType(), "NONE")
        union = operator.BuiltinOptions()
        if table == "NONE" or union is None:
            return Options()
        reader = getattr(tflite, table)()
        reader.Init(union.Bytes, union.Pos)
        return Options(table, {field: self.option(reader, field) for field in _option_fields(table)})

    def option(self, reader: Any, field: str) -> OptionValue:
        if hasattr(reader, f"{field}AsNumpy"):
            array = getattr(reader, f"{field}AsNumpy")()
            return () if isinstance(array, int) else tuple(int(v) for v in array)
        value = getattr(reader, field)()
        if value is None or isinstance(value, bytes):
            return (value or b"").decode()
        if not isinstance(value, int | float):
            raise self.fail(f"option {field} has an unexpected type {type(value).__name__}")
        return value

    def signature(self, definition: Any, graphs: tuple[Graph, ...], tables: list[list[Tensor]]) -> Signature:
        (index,) = self.indices([definition.SubgraphIndex()], len(graphs), "subgraph of a signature")
        tensors, graph = tables[index], graphs[index]
        name = (definition.SignatureKey() or b"").decode()

        def names(count: int, entry: Callable[[int], Any], possible: tuple[Tensor, ...]) -> dict[str, Tensor]:
            maps = [entry(i) for i in range(count)]
            keys = [(m.Name() or b"").decode() for m in maps]
            where = self.indices([m.TensorIndex() for m in maps], len(tensors), "tensor of a signature")
            found = {key: tensors[k] for key, k in zip(keys, where, strict=True)}
            if len(found) < count or not set(possible).issuperset(found.values()):
                raise self.fail(f"signature {name!r} names what its graph does not take or give, or two by one name")
            return found

        inputs = names(definition.InputsLength(), definition.Inputs, graph.inputs)
        if len(set(inputs.values())) < len(graph.inputs):
            raise self.fail(f"signature {name!r} leaves out an input of its graph")
        return Signature(name, graph, inputs, names(definition.OutputsLength(), definition.Outputs, graph.outputs))


# ---------------------------------------------------------------------------------------------------------------
# Writing


def write_model(model: Model, path: Path) -> None:
    """Write `model` to `path` (replaced atomically; the folder must exist). Peak memory: the flatbuffer alone.

    A power cut may spoil it (`signatures.durable`): most are made for the moment, and an SD card takes a second each.
    """
    with replacing(path, durable=False) as file:
        _write(model, file)


def model_bytes(model: Model) -> bytes:
    """The file that `write_model` would write."""
    file = io.BytesIO()
    _write(model, file)
    return file.getvalue()


def _write(model: Model, file: BinaryIO) -> None:
    constants = _Constants()
    packed = bytearray(_Writer(model, constants).pack())
    end = len(packed)
    places = []
    for index in constants.appended:
        end += -end % ALIGNMENT
        places.append(end)
        end += constants.arrays[index].nbytes
    root = tflite.Model.GetRootAs(packed, 0)
    for index, place in zip(constants.appended, places, strict=True):
        table = root.Buffers(index)._tab
        struct.pack_into("<Q", packed, table.Pos + table.Offset(6), place)
    file.write(packed)
    position = len(packed)
    for index, place in zip(constants.appended, places, strict=True):
        file.write(b"\0" * (place - position))
        array = constants.arrays[index]
        _copy(array, file)
        position = place + array.nbytes


def _copy(array: Array, file: BinaryIO) -> None:
    """Write a constant, in pieces; pages of a mapped file leave memory again as soon as they are written."""
    content = array.reshape(-1).view(np.uint8)
    mapping = _mapping_of(array)
    first = 0 if mapping is None else content.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data
    for begin in range(0, content.nbytes, COPY_BYTES):
        piece = content[begin : begin + COPY_BYTES]
        file.write(piece.data)
        if mapping is not None:
            page = (first + begin) // mmap.PAGESIZE * mmap.PAGESIZE
            mapping.madvise(mmap.MADV_DONTNEED, page, first + begin + piece.nbytes - page)


def _mapping_of(array: Array) -> mmap.mmap | None:
    """The mapped file that an array is a view of."""
    base: object = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base if isinstance(base, mmap.mmap) else None


class _Constants:
    """The distinct constants of a model, numbered as schema buffers; tensors over the same memory share one."""

    def __init__(self) -> None:
        self.arrays: list[Array] = [np.empty(0, np.uint8)]  # buffer 0 is the empty one
        self._index: dict[tuple[int, int], int] = {}

    def add(self, array: Array) -> int:
        key = (array.ctypes.data if array.nbytes else 0, array.nbytes)
        if key not in self._index:
            self._index[key] = len(self.arrays)
            self.arrays.append(array)
        return self._index[key]

    @property
    def appended(self) -> list[int]:
        return [i for i, array in enumerate(self.arrays) if array.nbytes >= INLINE_BYTES]


class _Writer:
    """Packs one model into a flatbuffer, children before parents as the format demands."""

    def __init__(self, model: Model, constants: _Constants) -> None:
        self.model = model
        self.constants = constants
        self.builder = flatbuffers.Builder(1 << 16)
        self.codes: dict[tuple[str, int], int] = {}
        # Equal shapes and options are written once: a flatbuffer may refer to one place from many.
        self._vectors: dict[tuple[int, ...], int] = {}
        self._options: dict[tuple[str, frozenset[tuple[str, OptionValue]]], int] = {}

    def pack(self) -> bytes:
        b = self.builder
        numbers = [{tensor: i for i, tensor in enumerate(graph.tensors())} for graph in self.model.graphs]
        graphs = [self.graph(graph, n) for graph, n in zip(self.model.graphs, numbers, strict=True)]
        positions = {graph: i for i, graph in enumerate(self.model.graphs)}
        signatures = [self.signature(s, positions[s.graph], numbers) for s in self.model.signatures]
        buffers = [self.buffer(i) for i in range(len(self.constants.arrays))]
        codes = [self.operator_code(kind, version) for kind, version in self.codes]
        description = b.CreateString("adabet")
        vectors = [self.offsets(v) for v in (codes, graphs, buffers, signatures)]
        tflite.ModelStart(b)
        tflite.ModelAddVersion(b, SCHEMA_VERSION)
        tflite.ModelAddOperatorCodes(b, vectors[0])
        tflite.ModelAddSubgraphs(b, vectors[1])
        tflite.ModelAddDescription(b, description)
        tflite.ModelAddBuffers(b, vectors[2])
        tflite.ModelAddSignatureDefs(b, vectors[3])
        b.Finish(tflite.ModelEnd(b), FILE_IDENTIFIER)
        return bytes(b.Output())

    def offsets(self, entries: list[int]) -> int:
        self.builder.StartVector(4, len(entries), 4)
        for entry in reversed(entries):
            self.builder.PrependUOffsetTRelative(entry)
        return int(self.builder.EndVector())

    def int32s(self, values: Sequence[int]) -> int:
        key = tuple(values)
        if key not in self._vectors:
            self._vectors[key] = int(self.builder.CreateNumpyVector(np.asarray(key, np.int32)))
        return self._vectors[key]

    def graph(self, graph: Graph, number: Mapping[Tensor, int]) -> int:
        b = self.builder
        tensors = self.offsets([self.tensor(tensor) for tensor in number])
        operators = self.offsets([self.operator(op, number) for op in graph.ops])
        inputs = self.int32s([number[t] for t in graph.inputs])
        outputs = self.int32s([number[t] for t in graph.outputs])
        name = b.CreateString(graph.name)
        tflite.SubGraphStart(b)
        tflite.SubGraphAddTensors(b, tensors)
        tflite.SubGraphAddInputs(b, inputs)
        tflite.SubGraphAddOutputs(b, outputs)
        tflite.SubGraphAddOperators(b, operators)
        tflite.SubGraphAddName(b, name)
        return int(tflite.SubGraphEnd(b))

    def tensor(self, tensor: Tensor) -> int:
        b = self.builder
        buffer = NO_BUFFER if tensor.data is None else self.constants.add(tensor.data)
        name = b.CreateString(tensor.name)
        shape = self.int32s(tensor.shape)
        tflite.TensorStart(b)
        tflite.TensorAddShape(b, shape)
        tflite.TensorAddType(b, _TENSOR_TYPES[tensor.dtype])
        tflite.TensorAddBuffer(b, buffer)
        tflite.TensorAddName(b, name)
        tflite.TensorAddHasRank(b, True)
        return int(tflite.TensorEnd(b))

    def operator(self, op: Op, number: Mapping[Tensor, int]) -> int:
        b = self.builder
        code = self.codes.setdefault((op.kind, op.version), len(self.codes))
        inputs = self.int32s([-1 if t is None else number[t] for t in op.inputs])
        outputs = self.int32s([number[t] for t in op.outputs])
        options = self.options(op.options)
        tflite.OperatorStart(b)
        tflite.OperatorAddOpcodeIndex(b, code)
        tflite.OperatorAddInputs(b, inputs)
        tflite.OperatorAddOutputs(b, outputs)
        if options is not None:
            tflite.OperatorAddBuiltinOptionsType(b, getattr(tflite.BuiltinOptions, op.options.table))
            tflite.OperatorAddBuiltinOptions(b, options)
        return int(tflite.OperatorEnd(b))

    def options(self, options: Options) -> int | None:
        if options.table == "NONE":
            return None
        key = options.table, frozenset(options.fields.items())
        if key not in self._options:
            self._options[key] = self.options_table(options)
        return self._options[key]

    def options_table(self, options: Options) -> int:
        b, table = self.builder, options.table
        unknown = set(options.fields) - set(_option_fields(table))
        assert not unknown, f"{table} has no fields {sorted(unknown)}"
        values: dict[str, int | float | bool] = {}
        for field, value in options.fields.items():
            if isinstance(value, str):
                if value:
                    values[field] = b.CreateString(value)
            elif isinstance(value, tuple):
                if value:
                    values[field] = self.int32s(value)
            else:
                values[field] = value
        getattr(tflite, f"{table}Start")(b)
        for field, value in values.items():
            getattr(tflite, f"{table}Add{field}")(b, value)
        return int(getattr(tflite, f"{table}End")(b))

    def buffer(self, index: int) -> int:
        b, array = self.builder, self.constants.arrays[index]
        data = None
        if 0 < array.nbytes < INLINE_BYTES:
            b.StartVector(1, array.nbytes, 16)  # the schema's force_align: 16
            b.head -= array.nbytes
            b.Bytes[b.head : b.head + array.nbytes] = array.tobytes()
            data = b.EndVector()
        tflite.BufferStart(b)
        if data is not None:
            tflite.BufferAddData(b, data)
        elif array.nbytes:
            tflite.BufferAddOffset(b, 2**62)  # patched when the flatbuffer's length is known; any non-default value
            tflite.BufferAddSize(b, array.nbytes)
        return int(tflite.BufferEnd(b))

    def operator_code(self, kind: str, version: int) -> int:
        b = self.builder
        code = getattr(tflite.BuiltinOperator, kind)
        tflite.OperatorCodeStart(b)
        # Readers older than the 32-bit field look at the 8-bit one.
        tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(code, _DEPRECATED_CODES_END))
        tflite.OperatorCodeAddBuiltinCode(b, code)
        tflite.OperatorCodeAddVersion(b, version)
        return int(tflite.OperatorCodeEnd(b))

    def signature(self, signature: Signature, position: int, numbers: list[dict[Tensor, int]]) -> int:
        b = self.builder

        def entries(tensors: Mapping[str, Tensor]) -> int:
            maps = []
            for key, tensor in tensors.items():
                name = b.CreateString(key)
                tflite.TensorMapStart(b)
                tflite.TensorMapAddName(b, name)
                tflite.TensorMapAddTensorIndex(b, numbers[position][tensor])
                maps.append(int(tflite.TensorMapEnd(b)))
            return self.offsets(maps)

        inputs, outputs = entries(signature.inputs), entries(signature.outputs)
        key = b.CreateString(signature.name)
        tflite.SignatureDefStart(b)
        tflite.SignatureDefAddInputs(b, inputs)
        tflite.SignatureDefAddOutputs(b, outputs)
        tflite.SignatureDefAddSignatureKey(b, key)
        tflite.SignatureDefAddSubgraphIndex(b, position)
        return int(tflite.SignatureDefEnd(b))
