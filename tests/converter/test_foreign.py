"""Networks as TensorFlow's converter and others leave them: they are read, and compute what they did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import keras  # noqa: E402

from converter.foreign import prepared, read_foreign  # noqa: E402
from converter.layer_names import short_names  # noqa: E402
from signatures.build import inference_model  # noqa: E402
from signatures.builder import GraphBuilder  # noqa: E402
from signatures.errors import InputError  # noqa: E402
from signatures.graph import Array, Graph, Model, Op, Options, Tensor  # noqa: E402
from signatures.head import without_probabilities  # noqa: E402
from signatures.layers import find_layers  # noqa: E402
from tests.oracles.other_runtime import Call, Job, Runner  # noqa: E402

SIDE, BATCH = 24, 3


def keras_network() -> keras.Model:
    """Convolutions, a squeeze-excite block, a Flatten (which reads its shape at run time), and a softmax."""
    keras.utils.set_random_seed(3)
    x = inputs = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Conv2D(8, 3, 2, activation="relu", bias_initializer="normal", name="stem")(x)
    s = keras.layers.GlobalAveragePooling2D()(x)
    s = keras.layers.Reshape((1, 1, 8))(s)
    s = keras.layers.Conv2D(8, 1, activation="sigmoid", bias_initializer="normal", name="excite")(s)
    x = keras.layers.Multiply()([x, s])
    x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(6, activation="softmax", bias_initializer="normal", name="classes")(x)
    return keras.Model(inputs, x)


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return keras_network()


@pytest.fixture(scope="module")
def images() -> Array:
    return np.random.default_rng(0).normal(size=(BATCH, SIDE, SIDE, 3)).astype(np.float32)


def converted(network: keras.Model, change: Callable[[tf.lite.TFLiteConverter], None] = lambda _: None) -> bytes:
    """As everyone does it: with a batch that is left open."""
    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    change(converter)
    content: bytes = converter.convert()
    return content


def with_half_weights(converter: tf.lite.TFLiteConverter) -> None:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]


def fixed_batch(network: keras.Model) -> bytes:
    """A file for four images at once."""
    spec = tf.TensorSpec((4, SIDE, SIDE, 3), tf.float32)
    function = tf.function(lambda x: network(x, training=False)).get_concrete_function(spec)
    content: bytes = tf.lite.TFLiteConverter.from_concrete_functions([function]).convert()
    return content


def channels_first(network: keras.Model) -> bytes:
    spec = tf.TensorSpec((1, 3, SIDE, SIDE), tf.float32)
    function = tf.function(lambda x: network(tf.transpose(x, (0, 2, 3, 1)), training=False)).get_concrete_function(spec)
    content: bytes = tf.lite.TFLiteConverter.from_concrete_functions([function]).convert()
    return content


FILES: dict[str, Callable[[keras.Model, Path], Path]] = {}


def file(name: str) -> Callable[[Callable[[keras.Model, Path], None]], Callable[[keras.Model, Path], None]]:
    def register(write: Callable[[keras.Model, Path], None]) -> Callable[[keras.Model, Path], None]:
        def written(network: keras.Model, folder: Path) -> Path:
            write(network, folder / name)
            return folder / name

        FILES[name] = written
        return write

    return register


@file("open_batch.tflite")
def _open_batch(network: keras.Model, path: Path) -> None:
    path.write_bytes(converted(network))


@file("half.tflite")
def _half(network: keras.Model, path: Path) -> None:
    path.write_bytes(converted(network, with_half_weights))


@file("four_images.tflite")
def _four_images(network: keras.Model, path: Path) -> None:
    path.write_bytes(fixed_batch(network))


@file("channels_first.tflite")
def _channels_first(network: keras.Model, path: Path) -> None:
    path.write_bytes(channels_first(network))


@file("model.keras")
def _keras(network: keras.Model, path: Path) -> None:
    network.save(path)


@file("model.h5")
def _h5(network: keras.Model, path: Path) -> None:
    network.save(path)


@file("saved_model")
def _saved_model(network: keras.Model, path: Path) -> None:
    network.export(path, verbose=False)


@pytest.fixture(scope="module")
def graphs(network: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Graph]:
    folder = tmp_path_factory.mktemp("foreign")
    return {name: read_foreign(write(network, folder)) for name, write in FILES.items()}


@pytest.mark.parametrize("name", FILES)
def test_it_computes_what_keras_does(
    name: str, graphs: dict[str, Graph], network: keras.Model, images: Array, run: Runner
) -> None:
    graph = graphs[name]
    assert [tensor.shape for tensor in graph.inputs] == [(1, SIDE, SIDE, 3)]
    assert not {"SHAPE", "PACK", "DEQUANTIZE", "SPLIT"} & {op.kind for op in graph.ops}
    logits = without_probabilities(graph)
    assert [tensor.shape for tensor in logits.outputs] == [(1, 6)]
    ((got,),) = run([Job(name, inference_model(logits, BATCH), (Call("infer", {"x": images}),))])
    scores = np.exp(got["logits"].astype(np.float64))
    tolerance = 2e-3 if name == "half.tflite" else 1e-5
    np.testing.assert_allclose(scores / scores.sum(1, keepdims=True), network(images).numpy(), rtol=tolerance)


@pytest.mark.parametrize("name", FILES)
def test_its_layers_bear_short_names_of_the_file(name: str, graphs: dict[str, Graph]) -> None:
    layers = find_layers(graphs[name])
    assert [layer.kind for layer in layers] == ["conv", "conv", "dense"]
    names = [layer.name for layer in layers]
    assert len(set(names)) == 3
    assert not any(";" in name for name in names)


def test_channels_first_cost_no_transpose(graphs: dict[str, Graph]) -> None:
    """The file turns its images around at once: they may come as they are."""
    assert "TRANSPOSE" not in {op.kind for op in graphs["channels_first.tflite"].ops}


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a/conv", "b/conv", "head"], ["a/conv", "b/conv", "head"]),
        (["net/a/relu", "net/b/add"], ["relu", "add"]),
        (["same", "same", ""], ["same", "same_1", "layer"]),
        (["a/x", "x"], ["a/x", "x"]),
    ],
)
def test_short_names(paths: list[str], expected: list[str]) -> None:
    assert short_names(paths) == expected


# Refusals --------------------------------------------------------------------------------------------------------


def quantised(converter: tf.lite.TFLiteConverter) -> None:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]


def test_a_quantised_model_is_refused_with_what_to_do(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    wide = keras.Sequential([keras.Input((SIDE, SIDE, 3)), keras.layers.Flatten(), keras.layers.Dense(64, name="wide")])
    path = tmp_path / "int8.tflite"
    path.write_bytes(converted(wide, quantised))
    with pytest.raises(InputError, match=r"\d of \d+ tensors .* the model is quantised.*Export the float model"):
        read_foreign(path)


def test_variables_are_refused() -> None:
    x, y = Tensor("x", (1, 4, 4, 3), "float32"), Tensor("y", (1, 4, 4, 3), "float32")
    handle, value = Tensor("h", (), "resource"), Tensor("v", (1, 4, 4, 3), "float32")
    ops = (
        Op("VAR_HANDLE", (), (handle,), Options("VarHandleOptions", {"SharedName": "v"})),
        Op("READ_VARIABLE", (handle,), (value,)),
        Op("ADD", (x, value), (y,), Options("AddOptions")),
    )
    with pytest.raises(InputError, match=r"has variables or control flow \(VAR_HANDLE\): export it frozen"):
        prepared(Model((Graph("g", ops, (x,), (y,)),), ()), "file")


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((1, 8, 8, 1), "8×8 pixels with 1 channels, expected square RGB"),
        ((1, 8, 16, 3), "8×16 pixels"),
        ((1, 1, 1, 3), "leaves the image size open"),
        ((1, 48), r"takes float32\[1, 48\], expected float32 images"),
    ],
)
def test_other_inputs_are_refused(shape: tuple[int, ...], reason: str) -> None:
    b = GraphBuilder("g")
    graph = b.graph([b.unary("EXP", b.input("x", shape))])
    with pytest.raises(InputError, match=reason):
        prepared(Model((graph,), ()), "file")


def test_two_inputs_are_refused() -> None:
    b = GraphBuilder("g")
    graph = b.graph([b.add(b.input("x", (1, 8, 8, 3)), b.input("y", (1, 8, 8, 3)))])
    with pytest.raises(InputError, match="takes 2 inputs"):
        prepared(Model((graph,), ()), "file")


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "saved_model", "model.tflite"])
def test_what_is_no_model_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "saved_model":
        path.mkdir()
    else:
        path.write_bytes(b"no model at all")
    with pytest.raises(InputError, match="is no"):
        read_foreign(path)
    with pytest.raises(InputError):
        read_foreign(tmp_path / f"missing_{name}")
