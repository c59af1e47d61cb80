"""Model files that cannot be used, and options that do not fit them: one line and the documented exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from signatures.builder import GraphBuilder
from signatures.graph import Graph, Model, Op, Options, Tensor, constant
from signatures.tflite_io import model_bytes
from tests.abuse.conftest import check_refusal
from tests.end_to_end import tiny
from tests.end_to_end.commands import Commands
from tests.oracles.schema_view import edited

Edit = Callable[[Any], None]


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


def content(graph: Graph) -> bytes:
    return model_bytes(Model((graph,), ()))


def refused(commands: Commands, code: int, *said: str, model: object, options: tuple[object, ...] = ()) -> None:
    """Export, which has to end with `code` in one line, and to leave nothing."""
    out = commands.folder / "exported"
    finished = commands.converter("export", model, "--out", out, *options)
    check_refusal(finished, code, *said)
    spoken = [line for line in finished.stderr.splitlines() if not line.startswith("usage:")]
    assert len(spoken) == 1 or code == 2, finished.stderr
    assert not out.exists()


def written(commands: Commands, data: bytes, name: str = "model.tflite") -> Path:
    path = commands.folder / name
    path.write_bytes(data)
    return path


# Files ---------------------------------------------------------------------------------------------------------------


def damaged(edit: Edit) -> Callable[[bytes], bytes]:
    return lambda data: edited(data, edit)


def quantise(model: Any) -> None:
    for tensor in model.subgraphs[0].tensors[:2]:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = np.array([0.1], np.float32)
        tensor.quantization.zeroPoint = np.array([3], np.int64)


def make_sparse(model: Any) -> None:
    sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder = np.array([0, 1], np.int32)
    model.subgraphs[0].tensors[1].sparsity = sparsity


def custom(model: Any) -> None:
    code = model.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = b"Landmarks2TransformMatrix"


FILES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "cannot read the model"),
    "a picture": (lambda data: b"\x89PNG\r\n\x1a\n" + data[8:], "is not a TFLite model"),
    "truncated": (lambda data: data[: len(data) // 2], "is damaged"),
    "only a header": (lambda data: data[:8], "is damaged"),
    "quantised": (damaged(quantise), "2 of "),
    "sparse": (damaged(make_sparse), "stored sparse"),
    "custom op": (damaged(custom), "the custom op 'Landmarks2TransformMatrix'"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_cannot_be_read_or_trained(commands: Commands, case: str) -> None:
    spoil, said = FILES[case]
    refused(commands, 3, "model.tflite", said, model=written(commands, spoil(content(tiny.network()))))


def test_a_path_that_leads_nowhere(commands: Commands) -> None:
    for name in ("missing.tflite", "missing.keras", "missing.onnx", "no/such/folder/model.tflite"):
        refused(commands, 3, name, model=commands.folder / name)
    refused(commands, 2, "mobilenetv2, ", model="mobilenet_v7")


@pytest.mark.parametrize(
    ("name", "converter"),
    [("model.onnx", "onnx2tf"), ("model.PTH", "litert-torch"), ("frozen.pb", "TensorFlow's TFLiteConverter")],
)
def test_a_file_of_another_kind_names_its_converter(commands: Commands, name: str, converter: str) -> None:
    path = written(commands, b"\x08\x07", name)
    refused(commands, 3, name, f"make a .tflite of it with {converter}", "docs/foreign.md", model=path)
    renamed = written(commands, b"\x08\x07not a flatbuffer", "renamed.tflite")
    refused(commands, 3, "renamed.tflite is not a TFLite model", model=renamed)


def test_a_folder_that_is_no_saved_model(commands: Commands) -> None:
    (commands.folder / "photos").mkdir()
    refused(commands, 3, "photos is no SavedModel", model=commands.folder / "photos")


def test_a_keras_file_that_is_none(commands: Commands) -> None:
    for name in ("model.keras", "model.h5"):
        refused(commands, 3, f"{name} is no Keras model", model=written(commands, b"PK\x03\x04", name))


def test_a_zip_file_that_is_no_keras_model(commands: Commands) -> None:
    pytest.importorskip("tensorflow")
    path = commands.folder / "photos.keras"
    with ZipFile(path, "w") as archive:
        archive.writestr("cat.jpg", b"no picture")
    refused(commands, 3, "photos.keras is no Keras model", model=path)


# Networks ------------------------------------------------------------------------------------------------------------


def two_inputs() -> Graph:
    b = GraphBuilder("g")
    return b.graph([b.add(b.input("left", (1, 8, 8, 3)), b.input("right", (1, 8, 8, 3)))])


def two_outputs() -> Graph:
    network = tiny.network()
    features = next(op.output for op in network.ops if op.kind == "MEAN")
    return Graph("g", network.ops, network.inputs, (*network.outputs, features))


def image_out() -> Graph:
    network = tiny.network()
    features = next(op.input(0) for op in network.ops if op.kind == "MEAN")
    return Graph("g", network.ops, network.inputs, (features,))


def with_variables() -> Graph:
    x, y = Tensor("x", (1, 4, 4, 3), "float32"), Tensor("y", (1, 4, 4, 3), "float32")
    handle, value = Tensor("h", (), "resource"), Tensor("v", (1, 4, 4, 3), "float32")
    ops = (
        Op("VAR_HANDLE", (), (handle,), Options("VarHandleOptions", {"SharedName": "v"})),
        Op("READ_VARIABLE", (handle,), (value,), Options("ReadVariableOptions")),
        Op("ADD", (x, value), (y,), Options("AddOptions")),
    )
    return Graph("g", ops, (x,), (y,))


def of_image(*shape: int) -> Callable[[], Graph]:
    def build() -> Graph:
        b = GraphBuilder("g")
        return b.graph([b.unary("EXP", b.input("x", shape))])

    return build


def without_image() -> Graph:
    network = tiny.network()
    logits = network.outputs[0]
    fixed = constant("features", np.ones((1, 24), np.float32))
    ops = tuple(
        Op(op.kind, (fixed, *op.inputs[1:]), op.outputs, op.options) if op.outputs == (logits,) else op
        for op in network.ops
    )
    return Graph("g", ops, network.inputs, network.outputs)


NETWORKS: dict[str, tuple[Callable[[], Graph], str]] = {
    "two inputs": (two_inputs, "takes 2 inputs ('left' float32[1, 8, 8, 3], 'right' float32[1, 8, 8, 3])"),
    "two outputs": (two_outputs, "'model' has 2 outputs"),
    "an image comes out": (image_out, "which is no row of logits: name a tensor to put a classifier on: --head TENSOR"),
    "variables": (with_variables, "has variables or control flow (VAR_HANDLE)"),
    "grey": (of_image(1, 8, 8, 1), "8×8 pixels with 1 channels, expected square RGB"),
    "oblong": (of_image(1, 8, 16, 3), "8×16 pixels"),
    "the same for every image": (without_image, "which does not depend on the image"),
    "no size": (of_image(1, 1, 1, 3), "leaves the image size open"),
    "no image": (of_image(1, 48), "expected float32 images"),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_a_network_of_another_form(commands: Commands, case: str) -> None:
    build, said = NETWORKS[case]
    refused(commands, 3, said, model=written(commands, content(build())))


# Options -------------------------------------------------------------------------------------------------------------

OPTIONS: dict[str, tuple[int, tuple[object, ...], str]] = {
    "another image size": (2, ("--image", 32), "takes images of 16 pixels, not 32"),
    "weights": (2, ("--weights", "random"), "--weights is for networks of the zoo"),
    "no such tensor": (3, ("--head", "nonsense"), "'model' has no tensor 'nonsense'"),
    "a tensor of sizes": (3, ("--head", "x"), "has no tensor 'x'"),
    "keep and classes": (2, ("--head", "keep", "--classes", 4), "--head keep keeps the classes too"),
    "one class": (2, ("--classes", 1), "at least 2 classes, got 1"),
    "no such preprocessing": (2, ("--preprocess", "caffe"), "--preprocess: invalid choice: 'caffe'"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_do_not_fit_the_file(commands: Commands, case: str) -> None:
    code, options, said = OPTIONS[case]
    refused(commands, code, said, model=written(commands, content(tiny.network())), options=options)


def test_preprocessing_for_a_network_of_the_zoo(commands: Commands) -> None:
    refused(commands, 2, "mobilenetv2 has its own", model="mobilenetv2", options=("--preprocess", "raw"))


def test_a_kept_head_refuses_data_of_other_classes(commands: Commands, pictures: Path) -> None:
    bundle = commands.folder / "bundle"
    path = written(commands, content(tiny.network(classes=5)))
    commands.converter("export", path, "--head", "keep", "--rho", 0.3, "--batch", 8, "--out", bundle).succeeded()
    run = commands.folder / "run"
    finished = commands.adapt(bundle, "--data", pictures, "--out", run, "--batch", 8, "--rho", 0.3)
    check_refusal(finished, 3, "was exported for 5 classes", "has 3")
    assert not (run / "report.json").exists()
