"""Networks as TensorFlow's converter and others leave them: they are read, and compute what they did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import keras  # noqa: E402

from converter.foreign import prepared, read_foreign, rescales_pixels  # noqa: E402
from converter.layer_names import layer_paths, short_names  # noqa: E402
from signatures.build import inference_model, train_model  # noqa: E402
from signatures.builder import GraphBuilder  # noqa: E402
from signatures.errors import InputError  # noqa: E402
from signatures.graph import Array, Graph, Model, Op, Options, Tensor, constant  # noqa: E402
from signatures.head import without_probabilities  # noqa: E402
from signatures.layers import find_layers  # noqa: E402
from signatures.optimizers import Optimizer  # noqa: E402
from signatures.subset import Subset  # noqa: E402
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


@pytest.mark.parametrize(
    ("kind", "result", "weights", "expected"),
    [
        ("CONV_2D", "net/a/Relu;net/bn/add_1;net/stem_1/convolution;net/bn/sub1", "arith.constant", "net/stem_1"),
        ("CONV_2D", "net/stem_1/convolution1", "net/stem_1/convolution", "net/stem_1"),
        ("DEPTHWISE_CONV_2D", "net/sep/separable_conv2d/depthwise1", "c", "net/sep/separable_conv2d/depthwise"),
        ("CONV_2D", "net/relu;net/sep/separable_conv2d;net/sub", "c", "net/sep/separable_conv2d"),
        ("FULLY_CONNECTED", "net/mix/Tensordot/MatMul1", "net/mix/Tensordot/MatMul", "net/mix"),
        ("FULLY_CONNECTED", "Identity", "net/landmarks/MatMul_dequantize", "net/landmarks"),
        ("FULLY_CONNECTED", "PartitionedCall:0", "arith.constant97", "PartitionedCall"),
        ("CONV_2D", "m/tf.nn.relu6_2/Relu6;m/tf.nn.convolution_2/convolution;Const_97", "c", "m/convolution_2"),
        ("FULLY_CONNECTED", "out_0", "__main__.Wrap_m/torch.nn.modules.linear.Linear__fc;1", "m/fc"),
        ("CONV_2D", "x.Net_net/x.Stage_1/torch.nn.modules.conv.Conv2d_0;2", "c", "net/Stage_1/Conv2d_0"),
        ("CONV_2D", "x.Net_net/x.Stem_stem/torch.nn.modules.conv.Conv2d_convolution;2", "c", "net/stem"),
        ("CONV_2D", "conv2d_20", "conv2d_20/Kernel", "conv2d_20"),
        ("CONV_2D", "mobilenet_1.00_96/convolution", "c", "mobilenet_1.00_96"),
    ],
)
def test_paths_of_layers(kind: str, result: str, weights: str, expected: str) -> None:
    assert layer_paths([layer(kind, result, weights)]) == [expected]


def test_a_path_belongs_to_the_layer_that_has_no_other() -> None:
    """Of layers that share a constant, each bears the paths of some."""
    names = ("a/x/Conv2D;a/y/Conv2D", "a/y/Conv2D;a/z/Conv2D", "a/x/Conv2D")
    assert layer_paths([layer("CONV_2D", name, "c") for name in names]) == ["a/y", "a/z", "a/x"]


def layer(kind: str, result: str, weights: str) -> Op:
    w = constant(weights, np.zeros((1, 1, 1, 1), np.float32))
    x = Tensor("x", (1, 1, 1, 1), "float32")
    return Op(kind, (x, w), (Tensor(result, (1, 1, 1, 1), "float32"),))


def test_shapes_behind_an_open_batch_are_those_of_one_image(images: Array, run: Runner, tmp_path: Path) -> None:
    """Dense layers on pixels compute their shapes from the batch; the file has only placeholders."""
    keras.utils.set_random_seed(4)
    x = inputs = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Conv2D(8, 4, 4, name="stem")(x)
    y = keras.layers.Conv2D(8, 3, padding="same", groups=8, bias_initializer="normal", name="apart")(x)
    y = keras.layers.LayerNormalization()(y)
    y = keras.layers.Dense(16, activation="gelu", name="wide")(y)
    x = keras.layers.Add()([x, keras.layers.Dense(8, name="narrow")(y)])
    network = keras.Model(inputs, keras.layers.Dense(5, name="classes")(keras.layers.GlobalAveragePooling2D()(x)))
    path = tmp_path / "mixer.tflite"
    path.write_bytes(converted(network))
    graph = read_foreign(path)
    found = {layer.name.rstrip("_1"): layer for layer in find_layers(graph)}
    assert [layer.kind for layer in found.values()] == ["conv", "depthwise", "dense", "dense", "dense"]
    pixels = (SIDE // 4) ** 2
    assert (found["wide"].activation_size, found["wide"].macs) == (16 * pixels, 8 * 16 * pixels)
    train_model(graph, Subset(tuple(found.values())), BATCH, Optimizer())
    ((got,),) = run([Job("mixer", inference_model(graph, BATCH), (Call("infer", {"x": images}),))])
    np.testing.assert_allclose(got["logits"], network(images).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "rescales"),
    [
        ([keras.layers.Rescaling(1 / 127.5, -1)], True),
        ([keras.layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0])], True),
        ([], False),
        ([keras.layers.ZeroPadding2D()], False),
    ],
)
def test_a_network_that_scales_its_pixels_is_known(layers: list[keras.Layer], rescales: bool, tmp_path: Path) -> None:
    pooling = [keras.layers.MaxPooling2D(), keras.layers.Flatten(), keras.layers.Dense(2)]
    path = tmp_path / "model.tflite"
    path.write_bytes(converted(keras.Sequential([keras.Input((SIDE, SIDE, 3)), *layers, *pooling])))
    assert rescales_pixels(read_foreign(path)) == rescales


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
