"""Models that are whole, but say what no kernel can do: refused before an interpreter sees them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from signatures.builder import GraphBuilder
from signatures.errors import InputError
from signatures.graph import Graph, Model, Op, Options, Signature, Tensor, constant
from signatures.tflite_io import model_bytes, parse_model
from tests.oracles.schema_view import edited
from tests.signatures.example_model import training_model
from tests.signatures.test_tflite_io_damage import operator

Build = Callable[[], Op]


def floats(*shape: int, name: str = "x") -> Tensor:
    return Tensor(name, shape, "float32")


def weights(*shape: int) -> Tensor:
    return constant("w", np.ones(shape, np.float32))


def ints(*values: Any) -> Tensor:
    return constant("i", np.array(values, np.int32))


def op(
    kind: str, inputs: tuple[Tensor | None, ...], shape: tuple[int, ...], options: str = "NONE", **fields: Any
) -> Op:
    """An op whose output is said to have `shape`."""
    return Op(kind, inputs, (floats(*shape, name="y"),), Options(options, fields))


def refused(one: Op) -> str:
    """The message with which a model of one op is refused."""
    inputs = tuple({t: None for t in one.inputs if t is not None and t.data is None})
    with pytest.raises(InputError) as caught:
        parse_model(model_bytes(Model((Graph("g", (one,), inputs, one.outputs),), ())), "the file")
    assert str(caught.value).startswith("the file")
    return str(caught.value)


def conv(**fields: Any) -> Op:
    good = {"Padding": 0, "StrideW": 1, "StrideH": 1, "DilationWFactor": 1, "DilationHFactor": 1}
    return op(
        "CONV_2D", (floats(1, 8, 8, 3), weights(4, 3, 3, 3), weights(4)), (1, 8, 8, 4), "Conv2DOptions", **good | fields
    )


def pool(**fields: Any) -> Op:
    good = {"Padding": 0, "StrideW": 1, "StrideH": 1, "FilterWidth": 2, "FilterHeight": 2}
    return op("MAX_POOL_2D", (floats(1, 8, 8, 3),), (1, 8, 8, 3), "Pool2DOptions", **good | fields)


X = floats(1, 8, 8, 4)
OPS: dict[str, tuple[Build, str]] = {
    "stride 0": (lambda: conv(StrideH=0), "StrideH 0, expected 1 to"),
    "negative stride": (lambda: conv(StrideW=-1), "StrideW -1"),
    "huge stride": (lambda: conv(StrideW=2**31 - 1), "StrideW 2147483647"),
    "dilation 0": (lambda: conv(DilationHFactor=0), "DilationHFactor 0"),
    "huge dilation": (lambda: conv(DilationHFactor=2**30), "DilationHFactor"),
    "padding 2": (lambda: conv(Padding=2), "Padding 2, expected 0 to 1"),
    "activation 6": (lambda: conv(FusedActivationFunction=6), "FusedActivationFunction 6"),
    "negative activation": (lambda: conv(FusedActivationFunction=-1), "FusedActivationFunction -1"),
    "no options": (
        lambda: op("CONV_2D", (floats(1, 8, 8, 3), weights(4, 3, 3, 3), weights(4)), (1, 8, 8, 4)),
        "options NONE",
    ),
    "options of another op": (
        lambda: op("SOFTMAX", (floats(1, 4),), (1, 4), "AddOptions"),
        "options AddOptions, expected SoftmaxOptions",
    ),
    "an input omitted": (
        lambda: op("ADD", (floats(1, 4), None), (1, 4), "AddOptions"),
        "omits an input",
    ),
    "an input too few": (lambda: op("ADD", (floats(1, 4),), (1, 4), "AddOptions"), "ADD has 1 inputs, expected 2"),
    "no bias": (
        lambda: op("DEPTHWISE_CONV_2D", (X, weights(1, 3, 3, 4)), (1, 8, 8, 4), "DepthwiseConv2DOptions", StrideW=1),
        "DEPTHWISE_CONV_2D has 2 inputs, expected 3",
    ),
    "an input too many": (lambda: op("SHAPE", (floats(1, 4), ints(1)), (2,)), "SHAPE has 2 inputs, expected 1"),
    "filter without channels": (
        lambda: op("CONV_2D", (floats(1, 8, 8, 3), weights(4, 3, 3, 2), weights(4)), (1, 8, 8, 4), "Conv2DOptions",
                   **conv().options.fields),
        "cannot part 3 channels",
    ),
    "a bias too short": (
        lambda: op("FULLY_CONNECTED", (floats(1, 4), weights(3, 4), weights(2)), (1, 3)),
        "bias of \\[2\\] for 3 channels",
    ),
    "weights in a format of its own": (
        lambda: op("FULLY_CONNECTED", (floats(1, 4), weights(3, 4)), (1, 3), "FullyConnectedOptions", WeightsFormat=1),
        "WeightsFormat 1",
    ),
    "multiplier": (
        lambda: op("DEPTHWISE_CONV_2D", (X, weights(1, 3, 3, 4), weights(4)), (1, 8, 8, 4), "DepthwiseConv2DOptions",
                   StrideW=1, StrideH=1, DilationWFactor=1, DilationHFactor=1, DepthMultiplier=7),
        "DepthMultiplier 7",
    ),
    "pool of no size": (lambda: pool(FilterWidth=0), "FilterWidth 0"),
    "pool far larger than the image": (lambda: pool(FilterHeight=4000), "FilterHeight 4000, expected 1 to 16"),
    "pool stride 0": (lambda: pool(StrideH=0), "StrideH 0"),
    "axis of a mean": (lambda: op("MEAN", (X, ints(4)), (1, 8, 8), "ReducerOptions"), "axis 4, expected -4 to 3"),
    "axes of a transpose": (lambda: op("TRANSPOSE", (X, ints(0, 1, 1, 3)), (1, 8, 8, 4)), "orders its axes"),
    "axis of a concatenation": (
        lambda: op("CONCATENATION", (X, X), (1, 8, 8, 8), "ConcatenationOptions", Axis=9),
        "axis 9",
    ),
    "sides of a concatenation": (
        lambda: op("CONCATENATION", (X, floats(1, 9, 8, 4)), (1, 8, 8, 8), "ConcatenationOptions", Axis=3),
        "along axis 3",
    ),
    "reshape to unknown sides": (lambda: op("RESHAPE", (X, ints(-1, -1)), (16, 16)), "RESHAPE"),
    "reshape to other sizes": (lambda: op("RESHAPE", (X, ints(3, 5)), (3, 5)), "RESHAPE cannot turn"),
    "negative padding": (lambda: op("PAD", (X, ints([0, 0], [-1, 0], [0, 0], [0, 0])), (1, 7, 8, 4)), "PAD of"),
    "a mirror larger than the image": (
        lambda: op("MIRROR_PAD", (X, ints([0, 0], [8, 0], [0, 0], [0, 0])), (1, 16, 8, 4), "MirrorPadOptions"),
        "padding 8, expected 0 to 7",
    ),
    "a slice past the end": (lambda: op("SLICE", (X, ints(0, 7, 0, 0), ints(1, 2, 8, 4)), (1, 2, 8, 4)), "SLICE of"),
    "a slice from places that are no integers": (
        lambda: op("SLICE", (X, weights(4), ints(1, 2, 8, 4)), (1, 2, 8, 4)),
        "different types",
    ),
    "a slice of computed size from a place on too few axes": (
        lambda: op("SLICE", (X, ints(0, 0), Tensor("size", (4,), "int32")), (1, 2, 8, 4)),
        "SLICE of",
    ),
    "a slice before the start": (lambda: op("SLICE", (X, ints(0, -1, 0, 0), ints(1, 2, 8, 4)), (1, 2, 8, 4)), "SLICE"),
    "slices of stride 0": (
        lambda: op("STRIDED_SLICE", (X, ints(0, 0), ints(1, 8), ints(1, 0)), (1, 8, 8, 4), "StridedSliceOptions"),
        "STRIDED_SLICE",
    ),
    "gathered from outside": (
        lambda: op("GATHER", (X, ints(0, 8)), (1, 2, 8, 4), "GatherOptions", Axis=1),
        "position 8, expected 0 to 7",
    ),
    "split into more than it has": (
        lambda: op("SPLIT", (ints(3), X), (1, 8, 8, 4), "SplitOptions", NumSplits=3),
        "NumSplits 3, expected 1 to 1",
    ),
    "tiled no times": (lambda: op("TILE", (X, ints(1, 0, 1, 1)), (1, 0, 8, 4)), "TILE of"),
    "filled without end": (
        lambda: op("FILL", (ints(2**20, 2**20), constant("v", np.zeros((), np.float32))), (2**20, 2**20)),
        "takes \\d+ bytes",
    ),
    "resized to nothing": (lambda: op("RESIZE_BILINEAR", (X, ints(0, 8)), (1, 0, 8, 4)), "RESIZE_BILINEAR to"),
    "blocks of 0": (
        lambda: op("SPACE_TO_DEPTH", (X,), (1, 8, 8, 4), "SpaceToDepthOptions", BlockSize=0),
        "BlockSize 0",
    ),
    "squeezed sides": (lambda: op("SQUEEZE", (X,), (1, 8, 4), "SqueezeOptions", SqueezeDims=(1,)), "SQUEEZE of"),
    "transposed to another shape": (
        lambda: op("TRANSPOSE_CONV", (ints(1, 99, 99, 4), weights(4, 2, 2, 4), X), (1, 99, 99, 4),
                   "TransposeConvOptions", StrideW=2, StrideH=2),
        "TRANSPOSE_CONV cannot make",
    ),
    "another type": (
        lambda: op("ADD", (floats(1, 4), Tensor("n", (1, 4), "int32")), (1, 4), "AddOptions"),
        "different types",
    ),
    "control flow": (lambda: op("WHILE", (X,), (1, 8, 8, 4), "WhileOptions"), "the op WHILE is not among"),
    "a table": (lambda: op("HASHTABLE_LOOKUP", (X, X), (1, 8, 8, 4)), "HASHTABLE_LOOKUP is not among"),
}  # fmt: skip


@pytest.mark.parametrize("case", OPS)
def test_an_op_that_no_kernel_can_do(case: str) -> None:
    build, said = OPS[case]
    message = refused(build())
    assert re.search(said, message), message


def test_the_ops_that_are_spoilt_above_are_taken_as_they_should_be() -> None:
    for good in (conv(), pool(), op("MEAN", (X, ints(-1)), (1, 8, 8), "ReducerOptions")):
        inputs = tuple(t for t in good.inputs if t is not None and t.data is None)
        parse_model(model_bytes(Model((Graph("g", (good,), inputs, good.outputs),), ())), "the file")


def test_shapes_behind_an_open_side_are_not_taken_for_lies() -> None:
    """A file that leaves its image size open stores 1 for it, and what follows from that."""

    def open_sides(model: Any) -> None:
        model.subgraphs[0].tensors[0].shapeSignature = np.array([1, -1, -1, 3], np.int32)

    b = GraphBuilder("g")
    x = b.input("x", (1, 8, 8, 3))
    y = b.conv_2d(x, weights(4, 3, 3, 3), b.zeros(4))
    small = Op("CONV_2D", (floats(1, 1, 1, 3), *b.ops[0].inputs[1:]), (floats(1, 1, 1, 4, name="y"),), b.ops[0].options)
    content = model_bytes(Model((Graph("g", (small,), small.inputs[:1], small.outputs),), ()))  # type: ignore[arg-type]
    assert y.shape == (1, 6, 6, 4)
    with pytest.raises(InputError, match="does not fit"):
        parse_model(content, "the file")
    assert parse_model(edited(content, open_sides), "the file").graphs[0].ops


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inline() -> bytes:
    """A train file with every constant inside the flatbuffer: four signatures and the graph of initial values."""
    return model_bytes(training_model())


def first_constant(model: Any) -> int:
    """The number of the first tensor of the first graph that has values."""
    return next(i for i, t in enumerate(model.subgraphs[0].tensors) if model.buffers[t.buffer].data is not None)


def fill_buffer_0(model: Any) -> None:
    """For us a tensor of buffer 0 is no constant; for the interpreters it is, and lies in memory that is not to be
    written."""
    model.buffers[0].data = np.zeros(16, np.uint8)


def feed_a_constant(model: Any) -> None:
    index = first_constant(model)
    model.subgraphs[0].inputs = np.array([*model.subgraphs[0].inputs, index], np.int32)


def name_a_constant(model: Any) -> None:
    model.signatureDefs[0].inputs[0].tensorIndex = first_constant(model)


def write_twice(model: Any) -> None:
    one = operator(model, "CONV_2D")
    one.outputs = np.array([one.outputs[0]] * 2, np.int32)


def same_names(model: Any) -> None:
    model.signatureDefs[1].signatureKey = model.signatureDefs[0].signatureKey


def call_itself(model: Any) -> None:
    """A graph that is called once, and calls itself once: the interpreters would not come back."""
    model.subgraphs[4].operators.insert(0, operator(model, "CALL_ONCE"))


def call_nobody(model: Any) -> None:
    operator(model, "CALL_ONCE").builtinOptions.initSubgraphIndex = 99


def change_a_variable(model: Any) -> None:
    """A variable that is set in one shape and read in another."""
    tensor = model.subgraphs[4].tensors[operator(model, "ASSIGN_VARIABLE", 4).inputs[1]]
    tensor.shape = tensor.shape[::-1].copy()


def nine_axes(model: Any) -> None:
    model.subgraphs[0].tensors[0].shape = np.array([1] * 9, np.int32)


def signature_of_a_shape(model: Any) -> None:
    model.subgraphs[0].tensors[0].shapeSignature = np.array([-1] * 3, np.int32)


def metadata(model: Any) -> None:
    entry = schema.MetadataT()
    entry.name, entry.buffer = b"min_runtime_version", 12345
    model.metadata = [entry]


def external_weights(model: Any) -> None:
    """A field that our schema does not know, and a newer runtime follows to another file."""
    group = schema.ExternalBufferGroupT()
    group.name = b"/etc/passwd"
    model.externalBufferGroups = [group]


def a_handle_for_a_value(model: Any) -> None:
    model.subgraphs[0].tensors[operator(model, "BATCH_MATMUL").outputs[0]].type = schema.TensorType.RESOURCE


def set_in_another_shape(model: Any) -> None:
    """What an op makes, so the file says, has the shape of the variable; what it makes in truth overruns it."""
    wide = model.subgraphs[0].tensors[operator(model, "CONV_2D").outputs[0]]
    one = operator(model, "ASSIGN_VARIABLE")
    maker = next(op for op in model.subgraphs[0].operators if list(op.outputs) == [one.inputs[1]])
    maker.inputs = np.array([list(model.subgraphs[0].tensors).index(wide), *maker.inputs[1:]], np.int32)


def half_bools(model: Any) -> None:
    tensor = model.subgraphs[0].tensors[first_constant(model)]
    buffer = model.buffers[tensor.buffer]
    tensor.type, tensor.shape = schema.TensorType.BOOL, np.array([len(buffer.data)], np.int32)
    buffer.data = np.full(len(buffer.data), 2, np.uint8)


FILES: dict[str, tuple[Callable[[Any], None], str]] = {
    "buffer 0 has values": (fill_buffer_0, "buffer 0 is not empty"),
    "a constant is fed": (feed_a_constant, "cannot be fed"),
    "a signature feeds a constant": (name_a_constant, "does not take or give"),
    "an op writes one tensor twice": (write_twice, "already has a value|has 2 outputs"),
    "two signatures of one name": (same_names, "two signatures have one name"),
    "a graph calls itself": (call_itself, "takes inputs or calls others"),
    "a call that leads nowhere": (call_nobody, "graph called once 99 of 5"),
    "a variable of two shapes": (change_a_variable, "no such variable"),
    "a handle in place of a value": (a_handle_for_a_value, "as if it were a value"),
    "a variable that is overrun": (set_in_another_shape, "its inputs give|do not broadcast"),
    "nine axes": (nine_axes, "has 9 axes"),
    "another number of open axes": (signature_of_a_shape, "a signature of 3"),
    "metadata that lead nowhere": (metadata, "buffer of metadata 12345"),
    "weights in another file": (external_weights, "Model has a field"),
    "bools that are none": (half_bools, "which is no bool"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_interpreters_would_follow(case: str, inline: bytes) -> None:
    edit, message = FILES[case]
    with pytest.raises(InputError, match=message):
        parse_model(edited(inline, edit), "the file")


def test_a_signature_that_leaves_out_an_input(inline: bytes) -> None:
    with pytest.raises(InputError, match="leaves out an input"):
        parse_model(edited(inline, lambda model: model.signatureDefs[0].inputs.pop()), "the file")


def test_models_without_signatures_are_fine() -> None:
    x = floats(1, 4)
    graph = Graph("g", (op("RELU", (x,), (1, 4)),), (x,), ())
    model = Model((Graph("g", graph.ops, (x,), graph.ops[0].outputs),), ())
    assert parse_model(model_bytes(model), "the file").signatures == ()
    named = Model(model.graphs, (Signature("infer", model.graphs[0], {"x": x}, {"y": graph.ops[0].output}),))
    assert parse_model(model_bytes(named), "the file").signature("infer")
