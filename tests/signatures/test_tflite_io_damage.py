"""Damaged and foreign files end in an InputError that says what is wrong; nothing else ever comes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from signatures.build import train_model
from signatures.builder import GraphBuilder
from signatures.errors import InputError
from signatures.graph import Model
from signatures.layers import find_layers
from signatures.optimizers import Optimizer
from signatures.subset import Subset
from signatures.tflite_io import model_bytes, parse_model, read_model
from tests.oracles.schema_view import appended_buffers, edited
from tests.signatures.example_model import network, training_model

MUTATIONS = 4000


@pytest.fixture(scope="module")
def inline() -> bytes:
    """A train file of 50 KB with every constant inside the flatbuffer."""
    return model_bytes(training_model())


@pytest.fixture(scope="module")
def tiny() -> bytes:
    """A train file that is read in milliseconds."""
    graph = network(classes=2)
    return model_bytes(train_model(graph, Subset(find_layers(graph)[-1:]), 1, Optimizer(momentum=0.0)))


@pytest.fixture(scope="module")
def appended() -> bytes:
    """A file whose weights lie behind the flatbuffer."""
    graph = network(units=64)
    return model_bytes(Model((graph,), ()))


def operator(model: Any, kind: str, graph: int = 0) -> Any:
    """The first operator of a kind."""
    code = getattr(schema.BuiltinOperator, kind)
    return next(
        op for op in model.subgraphs[graph].operators if model.operatorCodes[op.opcodeIndex].builtinCode == code
    )


def constant(model: Any) -> Any:
    """The initial value of the first convolution's weights, which the graph of initial values holds."""
    return model.subgraphs[4].tensors[operator(model, "ASSIGN_VARIABLE", 4).inputs[1]]


def custom(model: Any) -> None:
    model.operatorCodes[0].builtinCode = schema.BuiltinOperator.CUSTOM
    model.operatorCodes[0].deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    model.operatorCodes[0].customCode = b"FlexConv2DBackpropFilter"


def swap_last_ops(model: Any) -> None:
    operators = model.subgraphs[1].operators
    operators[-1], operators[-2] = operators[-2], operators[-1]


def quantise(model: Any) -> None:
    tensor = model.subgraphs[0].tensors[0]
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale = np.array([0.1], np.float32)
    tensor.quantization.zeroPoint = np.array([3], np.int64)


def stable_hlo(model: Any) -> None:
    op = operator(model, "CONV_2D")
    op.builtinOptions2 = schema.StablehloConcatenateOptionsT()
    op.builtinOptions2Type = schema.BuiltinOptions2.StablehloConcatenateOptions


def assign(where: Callable[[Any], Any], name: str, value: Any) -> Callable[[Any], None]:
    """An edit: set an attribute."""
    return lambda model: setattr(where(model), name, value)


def put(where: Callable[[Any], Any], name: str, index: int, value: int) -> Callable[[Any], None]:
    """An edit: set an entry of a vector."""

    def edit(model: Any) -> None:
        owner = where(model)
        entries = np.array(getattr(owner, name))
        entries[index] = value
        setattr(owner, name, entries)

    return edit


CONTRADICTIONS = {
    "custom op": (custom, "custom op 'FlexConv2DBackpropFilter'"),
    "unknown op": (assign(lambda m: m.operatorCodes[0], "builtinCode", 5000), "builtin operator 5000"),
    "schema version": (assign(lambda m: m, "version", 2), "schema version 2"),
    "no graphs": (lambda m: (m.subgraphs.clear(), m.signatureDefs.clear()), "no subgraph"),
    "string tensor": (
        assign(lambda m: m.subgraphs[0].tensors[0], "type", schema.TensorType.STRING),
        "unsupported type",
    ),
    "quantised": (quantise, "quantised; only float models"),
    "negative side": (put(lambda m: m.subgraphs[0].tensors[0], "shape", 0, -2), "dimension of 'x' -2"),
    "huge tensor": (
        assign(lambda m: m.subgraphs[0].tensors[0], "shape", np.array([2**31 - 2] * 4, np.int32)),
        "takes .* bytes",
    ),
    "constant of another size": (put(constant, "shape", 1, 4), "has 432 bytes"),
    "buffer number": (assign(constant, "buffer", 9999), "names buffer 9999 of"),
    "negative buffer number": (assign(constant, "buffer", 2**32 - 1), "names buffer"),
    "input number": (put(lambda m: operator(m, "CONV_2D"), "inputs", 0, 12345), "input of CONV_2D 12345 of"),
    "negative input": (put(lambda m: operator(m, "CONV_2D"), "inputs", 0, -2), "input of CONV_2D -2 of"),
    "output number": (put(lambda m: operator(m, "CONV_2D"), "outputs", 0, 12345), "output of CONV_2D 12345 of"),
    "omitted output": (put(lambda m: operator(m, "CONV_2D"), "outputs", 0, -1), "output of CONV_2D -1 of"),
    "graph input number": (put(lambda m: m.subgraphs[0], "inputs", 0, 12345), "graph input 12345 of"),
    "graph output number": (put(lambda m: m.subgraphs[0], "outputs", 0, 12345), "graph output 12345 of"),
    "signature's graph": (assign(lambda m: m.signatureDefs[0], "subgraphIndex", 77), "subgraph of a signature 77 of 5"),
    "signature's tensor": (
        assign(lambda m: m.signatureDefs[0].inputs[0], "tensorIndex", 4444),
        "tensor of a signature 4444 of",
    ),
    "opcode number": (assign(lambda m: operator(m, "CONV_2D"), "opcodeIndex", 99), "opcode 99 of"),
    "order": (swap_last_ops, "before anything wrote it"),
    "two writers": (
        lambda m: setattr(m.subgraphs[1].operators[-1], "outputs", m.subgraphs[1].operators[-2].outputs),
        "writes a tensor that already has a value",
    ),
    "StableHLO": (stable_hlo, "StableHLO"),
    "output never written": (lambda m: m.subgraphs[1].operators.pop(), "is never written"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions(name: str, inline: bytes) -> None:
    edit, message = CONTRADICTIONS[name]
    with pytest.raises(InputError, match=message):
        parse_model(edited(inline, edit), "the file")


def test_the_undamaged_file_is_fine(inline: bytes) -> None:
    """Else the tests above would prove nothing."""
    assert len(parse_model(edited(inline, lambda model: None), "the file").signatures) == 4


@pytest.mark.parametrize(("offset", "size"), [(2**40, 2304), (10**6, 2304), (64, 2**40), (2**63, 16), (2**64 - 8, 16)])
def test_buffer_past_the_end(offset: int, size: int, appended: bytes) -> None:
    def edit(model: Any) -> None:
        buffer = next(b for b in model.buffers if b.offset > 1)
        buffer.offset, buffer.size = offset, size

    with pytest.raises(InputError, match=r"reaches to byte|has \d+ bytes"):
        parse_model(edited(appended, edit), "the file")


def test_every_truncation_of_a_file_with_appended_weights(appended: bytes) -> None:
    """The last weight ends the file, so whatever is cut off is missed."""
    random = np.random.default_rng(0)
    lengths = {*range(64), *random.integers(0, len(appended), 500).tolist(), len(appended) - 1}
    for length in lengths:
        with pytest.raises(InputError):
            parse_model(appended[:length], "the file")


def test_truncations_of_a_flatbuffer(tiny: bytes) -> None:
    """Only padding and unread vectors may be missing without notice."""
    lengths = range(0, len(tiny), 7)
    assert sum(not survives(tiny[:length]) for length in lengths) > 0.99 * len(lengths)


def survives(content: bytes) -> bool:
    """Whether the reader takes it; anything but a Model or an InputError fails the test."""
    try:
        model = parse_model(content, "the file")
    except InputError:
        return False
    assert isinstance(model, Model)
    return True


@pytest.mark.parametrize("source", ["tiny", "appended"])
@pytest.mark.parametrize("kind", ["bit", "byte", "word", "block"])
def test_random_damage(kind: str, source: str, tiny: bytes, appended: bytes) -> None:
    """Thousands of files with something overwritten in the flatbuffer."""
    content = {"tiny": tiny, "appended": appended}[source]
    end = min((offset for offset, _ in appended_buffers(content)), default=len(content))
    original, weights = content[:end], content[end:]
    random = np.random.default_rng(len(kind) + len(source))
    outcomes = set()
    for _ in range(MUTATIONS // 8):
        damaged = bytearray(original)
        place = int(random.integers(0, len(original) - 16))
        if kind == "bit":
            damaged[place] ^= 1 << int(random.integers(8))
        elif kind == "byte":
            damaged[place] = int(random.choice([0, 1, 127, 128, 255]))
        elif kind == "word":
            place -= place % 4
            value = int(random.choice([0, 1, -1, 2**31 - 1, -(2**31), len(original), int(random.integers(2**31))]))
            damaged[place : place + 4] = value.to_bytes(4, "little", signed=True)
        else:
            damaged[place : place + 16] = random.bytes(16)
        outcomes.add(survives(bytes(damaged) + weights))
    assert outcomes == {True, False}


def test_a_file_of_noise() -> None:
    random = np.random.default_rng(0)
    for size in (8, 9, 64, 1024, 65536):
        content = bytearray(random.bytes(size))
        content[4:8] = b"TFL3"
        assert not survives(bytes(content))


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\0\0\0\0TFL2" + bytes(100), b"PK\3\4" + bytes(100)])
def test_other_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.tflite"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"other\.tflite"):
        read_model(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.tflite", tmp_path):
        with pytest.raises(InputError, match="cannot read the model"):
            read_model(path)


def test_computed_shape_is_refused_with_its_name() -> None:
    """A RESHAPE whose target another op computes cannot be batched anew."""
    b = GraphBuilder("g")
    x, target = b.input("x", (1, 4)), b.input("target", (2,), "int32")
    with pytest.raises(InputError, match="'target' must be a constant"):
        b.emit("RESHAPE", (x, target))
