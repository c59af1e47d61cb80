"""Networks from elsewhere: a float .tflite, a Keras model or a SavedModel, in the form that the compiler takes.

That form is one graph of one float32 image [1, height, width, 3], whose sizes are constants, whose ops have one result
each, and whose layers have names of their own.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converter.network import SourceNetwork
from converter.quiet import captured_stderr, import_tensorflow
from ondevice.runtime import LoadedModel
from signatures.builder import GraphBuilder
from signatures.catalogue import Preprocessing, file_sha256
from signatures.errors import InputError
from signatures.graph import Array, Graph, Model, Op, Signature, Tensor, constant
from signatures.layers import weight_slot
from signatures.passes import named_layers, with_single_results, without_dead_ops
from signatures.replay import replay
from signatures.tflite_io import parse_model, read_model, write_model

KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")
_STATEFUL = ("CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "IF", "WHILE", "CALL")
_NHWC, _NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
_MAX_FOLDED_BYTES = 1 << 20
"""Constants are computed beforehand up to this size (sizes, masks, tables); float16 weights whatever their size."""


def is_foreign(model: str) -> bool:
    """Whether `MODEL=` names a file or a folder, rather than a network of the zoo."""
    path = Path(model)
    return path.suffix in (".tflite", *KERAS_SUFFIXES) or path.exists()


def load(path: Path, preprocessing: Preprocessing) -> SourceNetwork:
    """A network to export, called by its file's name. Raises InputError, or CapabilityError without TensorFlow."""
    graph = read_foreign(path)
    digest = "" if path.is_dir() else f" (sha256 {file_sha256(path)})"
    return SourceNetwork(path.stem, graph, preprocessing, {}, f"{path.name}{digest}")


def read_foreign(path: Path) -> Graph:
    """The network of a .tflite or Keras file or a SavedModel folder, all its outputs kept.

    Raises InputError that says what the file has that no training can be compiled for.
    """
    if path.is_dir():
        model = parse_model(_convert_saved_model(path), str(path))
    elif path.suffix in KERAS_SUFFIXES:
        model = parse_model(_convert_keras(path), str(path))
    else:
        model = read_model(path)
    return prepared(model, str(path))


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
    graph = with_single_results(without_dead_ops(_folded(graph, where)))
    graph = _of_one_image(graph, where)
    return _with_unique_names(graph)


def _listed(tensors: Sequence[Tensor]) -> str:
    return ", ".join(f"{t.name!r} {t.dtype}{list(t.shape)}" for t in tensors)


# Constants -----------------------------------------------------------------------------------------------------------


def _folded(graph: Graph, where: str) -> Graph:
    """`graph` with what depends on no image as constants: sizes that it reads from shapes, weights in float16.

    The runtime computes them, so that they are what it would have computed.
    """
    known: dict[Tensor, Tensor] = {}
    early: list[Op] = []
    late: list[Op] = []
    for op in graph.ops:
        if op.kind == "SHAPE":  # shapes do not change: a dynamic batch is stored as 1
            known[op.output] = constant(op.output.name, np.array(op.input(0).shape, op.output.dtype))
        elif op.kind == "DEQUANTIZE" and (half := op.input(0).data) is not None and op.input(0).dtype == "float16":
            known[op.output] = constant(op.output.name, half.astype(np.float32))
        elif _is_constant(op, known) and sum(tensor.n_bytes for tensor in op.outputs) <= _MAX_FOLDED_BYTES:
            early.append(_with_inputs(op, known))
            known.update((tensor, tensor) for tensor in op.outputs)
        else:
            late.append(_with_inputs(op, known))
    needed = {t for op in late for t in op.inputs if t is not None and t.data is None} | set(graph.outputs)
    made = [tensor for op in early for tensor in op.outputs if tensor in needed]
    values = _computed(early, made, where) if made else {}
    final = {tensor: constant(tensor.name, value) for tensor, value in values.items()}
    return Graph(graph.name, tuple(_with_inputs(op, final) for op in late), graph.inputs, graph.outputs)


def _is_constant(op: Op, known: Mapping[Tensor, Tensor]) -> bool:
    return all(tensor is None or tensor.data is not None or tensor in known for tensor in op.inputs)


def _with_inputs(op: Op, known: Mapping[Tensor, Tensor]) -> Op:
    inputs = tuple(None if tensor is None else known.get(tensor, tensor) for tensor in op.inputs)
    return op if inputs == op.inputs else Op(op.kind, inputs, op.outputs, op.options, op.version)


def _computed(ops: Sequence[Op], wanted: Sequence[Tensor], where: str) -> dict[Tensor, Array]:
    names = {f"c{i}": tensor for i, tensor in enumerate(wanted)}
    graph = Graph("constants", tuple(ops), (), tuple(wanted))
    model = Model((graph,), (Signature("constants", graph, {}, names),))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "constants.tflite"
        write_model(model, path)
        try:
            values = LoadedModel(path, 1).call("constants", {})
        except InputError as error:
            raise InputError(f"{where}: its constants cannot be computed: {error}") from error
    return {tensor: np.array(values[name]).reshape(tensor.shape) for name, tensor in names.items()}


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
    values = replay(b, graph, x).values
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


# Names ---------------------------------------------------------------------------------------------------------------


def _with_unique_names(graph: Graph) -> Graph:
    """`graph` whose layers have short names: the shortest ends of their paths in the file that tell them apart."""
    layers = [i for i, op in enumerate(graph.ops) if weight_slot(op) is not None]
    full = [graph.ops[i].output.name.split(";")[0] for i in layers]  # converters join the names of what they fuse
    return named_layers(graph, layers, short_names(full))


def short_names(paths: Sequence[str]) -> list[str]:
    """The shortest ends of `paths` that differ from the end of every other; equal paths get a number."""
    numbered = GraphBuilder("names")
    unique = [numbered.unique(path or "layer") for path in paths]
    parts = [path.split("/") for path in unique]
    ends = Counter("/".join(p[-length:]) for p in parts for length in range(1, len(p) + 1))
    return [
        next(end for length in range(1, len(p) + 1) if ends[end := "/".join(p[-length:])] == 1 or length == len(p))
        for p in parts
    ]


# Conversion ----------------------------------------------------------------------------------------------------------


def _convert_keras(path: Path) -> bytes:
    import_tensorflow()
    import keras

    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    # Keras and h5py raise whatever comes to hand here.
    except Exception as error:
        raise InputError(f"{path} is no Keras model: {error}") from error
    return _converted(lambda x: model(x, training=False), model.input.shape, str(path))


def _convert_saved_model(path: Path) -> bytes:
    import_tensorflow()
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(path))
        function = loaded.signatures["serving_default"]
    except (OSError, KeyError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is no SavedModel with a signature serving_default: {error}") from error
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
        reason = str(error).strip().splitlines() or ["?"]
        raise InputError(f"{where}: TensorFlow cannot convert it with builtin ops: {reason[0]}") from error
    return content
