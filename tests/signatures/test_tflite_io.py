"""Files: nothing is lost or changed on the way through, and weights stay where they are."""

from __future__ import annotations

import itertools
import mmap
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from signatures.build import inference_model
from signatures.builder import GraphBuilder
from signatures.errors import InputError
from signatures.graph import Array, Model, Signature, Tensor, constant
from signatures.tflite_io import ALIGNMENT, INLINE_BYTES, model_bytes, parse_model, read_model, write_model
from tests.oracles.keras_mobilenet import KerasNetwork
from tests.oracles.schema_view import appended_buffers, view
from tests.signatures.example_model import network, training_model


def run_main_graph(content: bytes, x: Array) -> Array:
    """What `Interpreter()` returns without a signature."""
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    result: Array = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return result


def with_signature(graph_builder: GraphBuilder, x: Tensor, y: Tensor) -> Model:
    graph = graph_builder.graph([y])
    return Model((graph,), (Signature("f", graph, {"x": x}, {"y": y}),))


def test_converted_network_survives(mobilenet: KerasNetwork) -> None:
    """Ops, options, versions, tensors, bytes of constants: read with LiteRT's own schema before and after."""
    original = mobilenet.path.read_bytes()
    rewritten = model_bytes(read_model(mobilenet.path))
    assert view(rewritten) == view(original)
    x = mobilenet.images[:1]
    np.testing.assert_array_equal(run_main_graph(rewritten, x), run_main_graph(original, x))


def test_train_file_survives(tmp_path: Path) -> None:
    """Several graphs and signatures, variables by name, CALL_ONCE, omitted inputs, vectors among the options."""
    path = tmp_path / "train.tflite"
    write_model(training_model(), path)
    first = path.read_bytes()
    assert len(view(first).graphs) == 5
    assert [s[0] for s in view(first).signatures] == [b"train", b"infer", b"get_weights", b"set_weights"]
    again = model_bytes(read_model(path))
    assert view(again) == view(first)
    assert again == first, "writing what was read is not the same file"


def test_what_the_reader_sees_is_what_was_written() -> None:
    model = training_model()
    back = parse_model(model_bytes(model), "here")
    for graph, other in zip(model.graphs, back.graphs, strict=True):
        assert graph.name == other.name
        for op, same in zip(graph.ops, other.ops, strict=True):
            assert (op.kind, op.version, op.options.table) == (same.kind, same.version, same.options.table)
            assert op.options.fields.items() <= same.options.fields.items()
            for tensor, copy in zip((*op.inputs, *op.outputs), (*same.inputs, *same.outputs), strict=True):
                assert tensor is not None
                assert copy is not None
                assert (tensor.name, tensor.shape, tensor.dtype) == (copy.name, copy.shape, copy.dtype)
                if tensor.data is None:
                    assert copy.data is None
                else:
                    np.testing.assert_array_equal(copy.data, tensor.data)


def test_same_bytes_in_memory_and_on_disk(tmp_path: Path) -> None:
    model = training_model()
    write_model(model, tmp_path / "model.tflite")
    assert (tmp_path / "model.tflite").read_bytes() == model_bytes(model)


def test_omitted_input_survives() -> None:
    b = GraphBuilder("g")
    x = b.input("x", (1, 4))
    y = b.emit("FULLY_CONNECTED", (x, b.const(np.ones((2, 4), np.float32)), None))
    back = parse_model(model_bytes(with_signature(b, x, y)), "here")
    assert back.graphs[0].ops[0].inputs[2] is None


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint8", "int32", "int64", "bool"])
def test_constants_of_every_type(dtype: str) -> None:
    value = np.arange(6).reshape(2, 3).astype(dtype)
    b = GraphBuilder("g")
    x = b.input("x", (2, 3), dtype)
    y = b.add(x, constant("c", value))
    back = parse_model(model_bytes(with_signature(b, x, y)), "here").graphs[0].ops[0].input(1)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back.data, value)


def test_empty_constant_survives() -> None:
    """The shape of a scalar has no bytes and is a constant all the same."""
    b = GraphBuilder("g")
    x = b.input("x", (1, 1))
    y = b.reshape(x, ())
    content = model_bytes(with_signature(b, x, y))
    again = parse_model(model_bytes(parse_model(content, "here")), "again")
    shape = again.graphs[0].ops[0].input(1)
    assert shape.data is not None
    assert (shape.shape, shape.dtype, shape.data.shape) == ((0,), "int32", (0,))
    assert run_main_graph(content, np.array([[3]], np.float32)).shape == ()


def test_shared_constants_are_written_once() -> None:
    """Two tensors, in two graphs, over the same memory; a third over other memory with the same values."""
    data = np.arange(4096, dtype=np.float32).reshape(64, 64)
    graphs = []
    for name, value in (("a", data), ("b", data), ("c", data.copy())):
        b = GraphBuilder(name)
        graphs.append(b.graph([b.fully_connected(b.input("x", (1, 64)), b.const(value))]))
    content = model_bytes(Model(tuple(graphs), ()))
    assert len(appended_buffers(content)) == 2
    assert len(content) < 3 * data.nbytes
    back = parse_model(content, "here")
    first, second, third = (graph.ops[0].input(1).data for graph in back.graphs)
    assert first is not None
    assert np.shares_memory(first, second)
    assert not np.shares_memory(first, third)
    np.testing.assert_array_equal(third, data)


def test_signatures_of_a_bundle_share_their_weights(mobilenet: KerasNetwork) -> None:
    one, two = inference_model(mobilenet.graph, 1), inference_model(mobilenet.graph, 4)
    both = Model((*one.graphs, *two.graphs), ())
    assert len(model_bytes(both)) < len(model_bytes(one)) + 100_000


def test_large_constants_lie_behind_the_flatbuffer_aligned(mobilenet: KerasNetwork) -> None:
    content = model_bytes(read_model(mobilenet.path))
    places = sorted(appended_buffers(content))
    large = [
        op.inputs[slot].n_bytes
        for op in mobilenet.graph.ops
        for slot in (1, 2)
        if op.optional(slot) is not None and op.inputs[slot].data is not None
        and op.inputs[slot].n_bytes >= INLINE_BYTES
    ]  # fmt: skip
    assert sorted(size for _, size in places) == sorted(large)
    assert all(offset % ALIGNMENT == 0 for offset, _ in places)
    assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(places))
    assert places[-1][0] + places[-1][1] == len(content)
    assert places[0][0] < 64 * 1024, "the flatbuffer itself is small"


def test_constants_of_odd_sizes_are_aligned_all_the_same() -> None:
    b = GraphBuilder("g")
    x = b.input("x", (1,))
    values = [np.arange(floats, dtype=np.float32) + floats for floats in (257, 301, 258, 1023, 256, 999)]
    b.concat([x, *(b.const(value) for value in values)], 0)
    graph = b.graph([b.ops[-1].output])
    content = model_bytes(Model((graph,), ()))
    places = appended_buffers(content)
    assert [size for _, size in places] == [value.nbytes for value in values]
    assert all(offset % ALIGNMENT == 0 for offset, _ in places)
    assert places[-1][0] + places[-1][1] == len(content)
    np.testing.assert_array_equal(run_main_graph(content, np.ones(1, np.float32)), np.concatenate([[1], *values]))


@pytest.mark.parametrize("floats", [INLINE_BYTES // 4 - 1, INLINE_BYTES // 4, INLINE_BYTES // 4 + 1])
def test_border_between_inside_and_behind(floats: int) -> None:
    value = np.arange(floats, dtype=np.float32)
    b = GraphBuilder("g")
    x = b.input("x", (1, floats))
    content = model_bytes(with_signature(b, x, b.add(x, b.const(value))))
    assert len(appended_buffers(content)) == (value.nbytes >= INLINE_BYTES)
    zeros = np.zeros((1, floats), np.float32)
    np.testing.assert_array_equal(run_main_graph(content, zeros), value[None])


def test_weights_are_views_of_the_mapped_file(mobilenet: KerasNetwork, tmp_path: Path) -> None:
    """Of a file from TensorFlow, and of one of ours; through a rewritten graph as well."""
    ours = tmp_path / "ours.tflite"
    write_model(inference_model(mobilenet.graph, 2), ours)
    for path in (mobilenet.path, ours):
        for op in read_model(path).graphs[0].ops:
            if op.kind == "CONV_2D":
                owner = op.input(1).data
                while isinstance(owner, np.ndarray):
                    assert not owner.flags.writeable
                    owner = owner.base
                assert isinstance(owner.obj if isinstance(owner, memoryview) else owner, mmap.mmap)


def test_rewriting_a_file_in_place(tmp_path: Path) -> None:
    """The weights still come from the mapping of the old file while the new one replaces it."""
    path = tmp_path / "model.tflite"
    graph = network(units=64)
    write_model(inference_model(graph, 1), path)
    old = read_model(path)
    write_model(old, path)
    assert path.read_bytes() == model_bytes(old)
    assert [p.name for p in tmp_path.iterdir()] == ["model.tflite"]


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    write_model(inference_model(network(), 1), path)
    before = path.read_bytes()
    graph = network()
    stranger = Tensor("stranger", (1,), "float32")
    broken = Model((graph,), (Signature("f", graph, {"x": stranger}, {}),))
    with pytest.raises(KeyError):
        write_model(broken, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.tflite"]


def test_missing_signature_names_those_that_are_there() -> None:
    with pytest.raises(InputError, match=r"no signature 'gram' \(it has: train, infer, get_weights, set_weights\)"):
        training_model().signature("gram")
