"""Networks from elsewhere: a float .tflite, a Keras model or a SavedModel, in the form that the compiler takes.

That form is one graph of one float32 image [1, height, width, 3], whose sizes are constants, whose ops have one result
each, and whose layers have names of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converter.folding import folded
from converter.keras_files import check_keras_file
from converter.layer_names import layer_names
from converter.network import SourceNetwork
from converter.quiet import captured_stderr, import_tensorflow
from signatures.builder import GraphBuilder
from signatures.catalogue import Preprocessing, file_sha256
from signatures.errors import InputError
from signatures.graph import Graph, Model, Op, Options, Tensor, constant
from signatures.layers import weight_slot
from signatures.passes import named_layers, with_single_results, without_dead_ops
from signatures.replay import replay
from signatures.tflite_io import parse_model, read_model

KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")
_CONVERTERS = {
    ".onnx": "onnx2tf",
    **dict.fromkeys((".pt", ".pth", ".pt2", ".ckpt", ".safetensors"), "litert-torch"),
    ".pb": "TensorFlow's TFLiteConverter",
}
"""What makes a .tflite of files that we do not read."""
_STATEFUL = ("CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "IF", "WHILE", "CALL")
_NHWC, _NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
_SHARED_FIELDS = (
    "Padding", "StrideW", "StrideH", "FusedActivationFunction", "DilationWFactor", "DilationHFactor",
)  # fmt: skip
_RESCALING = ("MUL", "DIV", "ADD", "SUB")


def is_foreign(model: str) -> bool:
    """Whether `MODEL=` names a file or a folder, rather than a network of the zoo."""
    path = Path(model)
    return path.suffix.lower() in (".tflite", *KERAS_SUFFIXES, *_CONVERTERS) or path.exists()


def load(path: Path, preprocessing: Preprocessing) -> SourceNetwork:
    """A network to export, called by its file's name. Raises InputError, or CapabilityError without TensorFlow."""
    graph, file_names = _with_layer_names(prepared(_read(path), str(path)))
    graph = Graph(path.stem, with_depthwise(graph).ops, graph.inputs, graph.outputs)
    digest = "" if path.is_dir() else f" (sha256 {file_sha256(path)})"
    return SourceNetwork(path.stem, graph, preprocessing, {}, f"{path.name}{digest}", file_names)


def read_foreign(path: Path) -> Graph:
    """The network of a .tflite or Keras file or a SavedModel folder, all its outputs kept.

    Raises InputError that says what the file has that no training can be compiled for.
    """
    graph, _ = _with_layer_names(prepared(_read(path), str(path)))
    return with_depthwise(graph)


def rescales_pixels(graph: Graph) -> bool:
    """Whether a network begins with arithmetic on its image, as one does that brings pixels into range by itself."""
    readers = graph.consumers().get(graph.inputs[0], [])
    return bool(readers) and all(
        op.kind in _RESCALING and any(t is not None and t.data is not None and t.size in (1, 3) for t in op.inputs)
        for op in readers
    )


def _read(path: Path) -> Model:
    suffix = path.suffix.lower()
    if path.is_dir():
        return parse_model(_convert_saved_model(path), str(path))
    if suffix in KERAS_SUFFIXES:
        return parse_model(_convert_keras(path), str(path))
    if suffix in _CONVERTERS and path.exists():
        raise InputError(
            f"{path} is neither a .tflite nor a .keras or .h5 file nor a SavedModel folder: make a .tflite of it with "
            f"{_CONVERTERS[suffix]} first (docs/foreign.md)"
        )
    return read_model(path)


def prepared(model: Model, where: str) -> Graph:
    """The graph of a foreign model in the form that the compiler takes. `where` names it in messages."""
    graph = model.graphs[0]
    for op in graph.ops:
        if op.kind in _STATEFUL:
            raise InputError(
                f"{where} has variables or control flow ({op.kind}): export it frozen, as an inference model is"
            )
    if len(graph.inputs) != 1:
        raise InputError(f"{where} takes {len(graph.inputs)} inputs ({_listed(graph.inputs)}), expected one image")
    return _of_one_image(with_single_results(without_dead_ops(folded(graph, where))), where)


def _with_inputs(op: Op, known: Mapping[Tensor, Tensor]) -> Op:
    inputs = tuple(None if tensor is None else known.get(tensor, tensor) for tensor in op.inputs)
    return op if inputs == op.inputs else Op(op.kind, inputs, op.outputs, op.options, op.version)


def _listed(tensors: Sequence[Tensor]) -> str:
    return ", ".join(f"{t.name!r} {t.dtype}{list(t.shape)}" for t in tensors)


# Images --------------------------------------------------------------------------------------------------------------


def _of_one_image(graph: Graph, where: str) -> Graph:
    """`graph` for one image, channels last."""
    (source,) = graph.inputs
    shape = source.shape
    if source.dtype != "float32" or len(shape) != 4:
        raise InputError(f"{where} takes {source.dtype}{list(shape)}, expected float32 images [1, height, width, 3]")
    channels_first = shape[3] != 3 and shape[1] == 3
    height, width, channels = (shape[2], shape[3], shape[1]) if channels_first else shape[1:]
    if channels != 3 or height != width:
        raise InputError(
            f"{where} takes images of {height}×{width} pixels with {channels} channels, expected square RGB"
        )
    if height == 1:
        raise InputError(f"{where} leaves the image size open: export it for a size")
    b = GraphBuilder(graph.name)
    x = b.input("x", (1, height, width, 3))
    if channels_first:
        graph = _without_first_transposes(graph)
        if graph.inputs[0].shape == shape:
            x = b.transpose(x, _NCHW)
    values = replay(b, graph, [x], 1, images=graph.inputs[0].shape[0]).values
    for tensor in graph.outputs:
        if tensor not in values:
            raise InputError(f"{where} gives {tensor.name!r}, which does not depend on the image")
    return b.graph([values[tensor].tensor for tensor in graph.outputs])


def _without_first_transposes(graph: Graph) -> Graph:
    """A network that turns channels first into channels last at once takes them last from the start."""
    (source,) = graph.inputs
    readers = graph.consumers().get(source, [])
    turned = [op for op in readers if op.kind == "TRANSPOSE" and _axes(op) == _NHWC]
    if not readers or len(turned) != len(readers):
        return graph
    x = turned[0].output
    known = {op.output: x for op in turned}
    ops = tuple(_with_inputs(op, known) for op in graph.ops if op not in turned)
    return Graph(graph.name, ops, (x,), graph.outputs)


def _axes(op: Op) -> tuple[int, ...]:
    data = op.input(1).data
    return () if data is None else tuple(int(axis) for axis in data)


def with_depthwise(graph: Graph) -> Graph:
    """`graph` with a DEPTHWISE_CONV_2D for each CONV_2D that has a group for each channel.

    It computes the same, and its gradient takes a few ops where that of groups takes some for every channel.
    """
    b = GraphBuilder(graph.name)
    for op in graph.ops:
        w = op.optional(1) if op.kind == "CONV_2D" else None
        if w is None or w.data is None or w.shape[3] != 1 or op.input(0).shape[3] == 1:
            b.ops.append(op)
            continue
        filters = constant(w.name, np.ascontiguousarray(w.data.transpose(3, 1, 2, 0)))
        fields = {name: value for name, value in op.options.fields.items() if name in _SHARED_FIELDS}
        options = Options("DepthwiseConv2DOptions", {**fields, "DepthMultiplier": w.shape[0] // op.input(0).shape[3]})
        inputs = (op.input(0), filters, *op.inputs[2:])
        b.ops.append(Op("DEPTHWISE_CONV_2D", inputs, op.outputs, options, 2))
    return Graph(graph.name, tuple(b.ops), graph.inputs, graph.outputs)


# Names ---------------------------------------------------------------------------------------------------------------


def _with_layer_names(graph: Graph) -> tuple[Graph, dict[str, str]]:
    """`graph` with short names for its layers, and those by the names that the file has for them."""
    layers = [i for i, op in enumerate(graph.ops) if weight_slot(op) is not None]
    names = layer_names([graph.ops[i] for i in layers])
    full = [graph.ops[i].output.name for i in layers]
    return named_layers(graph, layers, names), dict(zip(full, names, strict=True))


# Conversion ----------------------------------------------------------------------------------------------------------


def _convert_keras(path: Path) -> bytes:
    check_keras_file(path)  # before TensorFlow, which takes seconds to load
    import_tensorflow()
    import keras

    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    # Keras and h5py raise whatever comes to hand here.
    except Exception as error:
        raise InputError(f"{path} is no Keras model: {_first_line(error)}") from error
    return _converted(lambda x: model(x, training=False), model.input.shape, str(path))


def _convert_saved_model(path: Path) -> bytes:
    if not any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        raise InputError(f"{path} is no SavedModel: it has no saved_model.pb")
    import_tensorflow()
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(path))
        function = loaded.signatures["serving_default"]
    except (OSError, KeyError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is no SavedModel with a signature serving_default: {_first_line(error)}") from error
    arguments = function.structured_input_signature[1]
    if len(arguments) != 1:
        raise InputError(f"{path} takes {len(arguments)} inputs ({', '.join(arguments)}), expected one image")
    ((name, spec),) = arguments.items()
    return _converted(lambda x: function(**{name: x}), spec.shape, str(path))


def _converted(function: Any, shape: Sequence[int | None], where: str) -> bytes:
    """A function of one batch of images as a .tflite for one image, in builtin ops."""
    import tensorflow as tf

    spec = tf.TensorSpec((1, *shape[1:]), tf.float32, name="x")
    try:
        with captured_stderr():
            concrete = tf.function(function).get_concrete_function(spec)
            converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            content: bytes = converter.convert()
    # TensorFlow's converter raises its own ConverterError, and whatever comes from below.
    except Exception as error:
        raise InputError(f"{where}: TensorFlow cannot convert it with builtin ops: {_first_line(error)}") from error
    return content


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
