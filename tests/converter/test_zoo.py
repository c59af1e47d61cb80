"""The zoo: MobileNetV2 against Keras, a written-out convolution, and photographs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

tf = pytest.importorskip("tensorflow")

from converter import keras_tensors, quiet, to_tflite, zoo  # noqa: E402
from converter.network import SourceNetwork  # noqa: E402
from converter.weights import Convention, WeightSet  # noqa: E402
from converter.zoo.mobilenetv2 import HEAD, ZOO_ENTRY, build  # noqa: E402
from signatures.build import inference_model  # noqa: E402
from signatures.errors import AdabetError, InputError, UsageError  # noqa: E402
from signatures.layers import find_layers  # noqa: E402
from signatures.tflite_io import model_bytes  # noqa: E402
from tests.oracles.plain_interpreter import logits  # noqa: E402

SHARED = Path(__file__).parents[3] / "shared"
NPZ = SHARED / "weights" / "mobilenet_v2_torchvision_imagenet.npz"
PHOTOGRAPHS = SHARED / "data" / "imagenet1k_samples"
FLOAT32 = NDArray[np.float32]


def inputs_of(image: int, count: int = 2) -> FLOAT32:
    return np.random.default_rng(1).uniform(-2, 2, (count, image, image, 3)).astype(np.float32)


def random_model(convention: Convention, image: int, classes: int = 1000) -> Any:
    model = build(convention, image, classes)
    keras_tensors.randomise(model, ZOO_ENTRY.preprocessing[convention])
    return model


@pytest.fixture(scope="module")
def torch_model() -> Any:
    return random_model("torch", 96)


@pytest.fixture(scope="module")
def converted(torch_model: Any) -> Any:
    return to_tflite.to_tflite(torch_model)


def assert_same_logits(got: FLOAT32, expected: FLOAT32) -> None:
    assert got.shape == expected.shape
    assert np.abs(expected).max() > 0.1, "logits near zero would show nothing"
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


def test_converted_logits_are_keras_logits_at_96(torch_model: Any, converted: Any) -> None:
    x = inputs_of(96)
    assert_same_logits(logits(converted[0], x), torch_model(x, training=False).numpy())


def test_converted_logits_are_keras_logits_at_224() -> None:
    model, x = random_model("keras", 224), inputs_of(224)
    assert_same_logits(logits(to_tflite.to_tflite(model)[0], x), model(x, training=False).numpy())


def test_zero_biases_stay_tensors_of_their_own() -> None:
    model = build("keras", 32, 7)
    flatbuffer, layers = to_tflite.to_tflite(model)
    biases = [bias for _, bias in to_tflite._weight_op_constants(bytearray(flatbuffer))]
    assert len(biases) == len(layers) == 53
    assert not any(bias.any() for bias in biases)
    values = keras_tensors.tensors_of(model)
    assert not any(values[name].any() for name in values if name.endswith(("/bias", "/beta")))


def test_layers_and_folded_scale(torch_model: Any, converted: Any) -> None:
    flatbuffer, layers = converted
    names = [layer.name for layer in layers]
    assert len(layers) == 53
    assert names[:4] == ["Conv1", "expanded_conv_depthwise", "expanded_conv_project", "block_1_expand"]
    assert names[-2:] == ["Conv_1", HEAD]
    assert [layer.name for layer in layers if layer.batchnorm_scale is None] == [HEAD]
    constants = to_tflite._weight_op_constants(bytearray(flatbuffer))
    for layer, (filter_, bias) in zip(layers[:-1], constants[:-1], strict=True):
        # Keras [h, w, in, out] and [h, w, channels, 1]; TFLite [out, h, w, in] and [1, h, w, channels].
        kernel = torch_model.get_layer(layer.name).kernel.numpy().transpose(3, 0, 1, 2)
        ratio = filter_ / kernel
        if layer.name.endswith("depthwise"):
            ratio = np.moveaxis(ratio, 3, 0)
        ratio = ratio.reshape(len(bias), -1)
        expected = np.broadcast_to(layer.batchnorm_scale[:, None], ratio.shape)
        np.testing.assert_allclose(ratio, expected, rtol=1e-5)


def test_layers_that_were_reordered_are_found_and_changed_ones_noticed(torch_model: Any, converted: Any) -> None:
    flatbuffer, layers = converted
    filters = [filter_ for filter_, _ in to_tflite._weight_op_constants(bytearray(flatbuffer))]
    weight_layers = [torch_model.get_layer(layer.name) for layer in layers]
    names = [layer.name for layer in layers]
    first, second = names.index("block_7_project"), names.index("block_8_project")
    assert filters[first].shape == filters[second].shape
    filters[first], filters[second] = filters[second], filters[first]
    order = to_tflite.match(weight_layers, layers, filters)
    assert (order[first], order[second]) == (second, first)
    filters[first][3] *= 1.001
    with pytest.raises(AdabetError, match=f"filter {first} is no layer's"):
        to_tflite.match(weight_layers, layers, filters)


def keras_network(image: int) -> Any:
    model = tf.keras.applications.MobileNetV2((image, image, 3), weights=None, classifier_activation=None)
    keras_tensors.randomise(model, ZOO_ENTRY.preprocessing["keras"])
    return model


@pytest.mark.parametrize("image", [96, 97])
def test_keras_convention_is_keras_own_network(image: int) -> None:
    theirs = keras_network(image)
    ours = build("keras", image, 1000)
    weights = WeightSet("keras", keras_tensors.tensors_of(theirs), "theirs", None)
    keras_tensors.assign(ours, weights, {}, ())
    x = inputs_of(image)
    np.testing.assert_allclose(ours(x).numpy(), theirs(x).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("image", [96, 97])
def test_torch_convention_pads_both_sides(image: int) -> None:
    model = build("torch", image, 2)
    assert model.get_layer("bn_Conv1").epsilon == 1e-5
    for name in ("Conv1", "block_1_depthwise"):
        pad, layer = model.get_layer(f"{name}_pad"), model.get_layer(name)
        x = np.random.default_rng(2).normal(size=(1, *pad.input.shape[1:])).astype(np.float32)
        np.testing.assert_allclose(layer(pad(x)).numpy(), torch_conv(x, layer.kernel.numpy()), atol=1e-5)


def torch_conv(x: FLOAT32, kernel: FLOAT32) -> FLOAT32:
    """3×3, stride 2, padding 1, tap by tap: kernel [3, 3, in, out], or [3, 3, channels, 1] for depthwise."""
    size = (x.shape[1] + 2 - 3) // 2 + 1
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    result = np.float32(0)
    for i, j in np.ndindex(3, 3):
        tap, w = padded[:, i : i + 2 * size - 1 : 2, j : j + 2 * size - 1 : 2], kernel[i, j]
        result = result + (tap * w[:, 0] if w.shape[1] == 1 else tap @ w)
    return result


def test_random_weights_are_always_the_same_and_carry_a_signal(torch_model: Any, converted: Any) -> None:
    network = zoo.load("mobilenetv2", "random", 96)
    layers = find_layers(network.graph)
    assert [layer.name for layer in layers] == [layer.name for layer in converted[1]]
    for layer, (filter_, _) in zip(layers, to_tflite._weight_op_constants(bytearray(converted[0])), strict=True):
        np.testing.assert_array_equal(network.graph.ops[layer.op].input(1).data, filter_)
    assert network.name == "mobilenetv2"
    assert "random" in network.weights
    assert logits(flatbuffer(network), inputs_of(96)).std(axis=1).min() > 0.1


def test_loading_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    zoo.load("mobilenetv2", "random", 96)
    written = capfd.readouterr()
    assert (written.out, written.err) == ("", "")


def flatbuffer(network: SourceNetwork) -> bytes:
    return model_bytes(inference_model(network.graph))


def test_keras_files_round_trip(tmp_path: Path) -> None:
    theirs = keras_network(96)
    expected = keras_tensors.tensors_of(theirs)
    for suffix in (".h5", ".weights.h5", ".keras"):
        path = tmp_path / f"network{suffix}"
        theirs.save_weights(path) if suffix == ".weights.h5" else theirs.save(path)
        got = ZOO_ENTRY.sources.keras_tensors(str(path), 96)
        assert set(got) == set(expected)
        assert all(np.array_equal(got[name], expected[name]) for name in expected)
        path.write_bytes(path.read_bytes()[:100_000])
        with pytest.raises(InputError, match="network"):
            ZOO_ENTRY.sources.keras_tensors(str(path), 96)


def torch_values(model: Any) -> dict[str, NDArray[Any]]:
    """A state dict with the values of a Keras model, layouts written out here once more."""
    state = {}
    for name, values in keras_tensors.tensors_of(model).items():
        layer, variable = name.split("/")
        if values.ndim == 4:
            values = np.einsum("hwco->cohw" if layer.endswith("depthwise") else "hwio->oihw", values)
        key = f"{ZOO_ENTRY.torch_modules[layer]}.{keras_tensors.TORCH_NAMES[variable]}"
        state[key] = values.T if values.ndim == 2 else values
        if variable == "gamma":
            state[key.replace("weight", "num_batches_tracked")] = np.array(1)
    return state


def test_torch_values_land_where_they_belong(torch_model: Any) -> None:
    state = torch_values(torch_model)
    assert len(state) == 314
    assert state["features.2.conv.1.0.weight"].shape == (96, 1, 3, 3)
    assert state["features.18.0.weight"].shape == (1280, 320, 1, 1)
    model = build("torch", 96, 1000)
    keras_tensors.assign(model, WeightSet("torch", state, "w.pth", None), ZOO_ENTRY.torch_modules, ())
    expected = keras_tensors.tensors_of(torch_model)
    for name, values in keras_tensors.tensors_of(model).items():
        np.testing.assert_array_equal(values, expected[name])


@pytest.fixture(scope="module")
def overwritten() -> Any:
    return build("torch", 96, 1000)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.pop("features.3.conv.2.weight"), "no value features.3.conv.2.weight"),
        (lambda s: s.update({"features.19.weight": np.ones(1)}), "features.19.weight has no place"),
        (
            lambda s: s.update({"classifier.1.bias": np.ones(7)}),
            r"classifier.1.bias: got shape \(7,\), expected \(1000,\)",
        ),
        (
            lambda s: s.update({"features.0.0.weight": np.ones((3, 3, 3, 32))}),
            r"features.0.0.weight: got shape \(3, 3, 3, 32\), expected \(32, 3, 3, 3\)",
        ),
        (lambda s: s.update({"features.0.1.bias": np.full(32, np.nan)}), "features.0.1.bias: holds NaN"),
        (lambda s: s.update({"features.0.1.bias": np.ones(32, int)}), "features.0.1.bias: got int64"),
        (lambda s: s.update({"features.0.1.running_var": -np.ones(32)}), "negative variance"),
    ],
)
def test_wrong_values_are_named(torch_model: Any, overwritten: Any, damage: Any, message: str) -> None:
    state = torch_values(torch_model)
    damage(state)
    weights = WeightSet("torch", state, "w.pth", None)
    with pytest.raises(InputError, match=f"w.pth.*{message}"):
        keras_tensors.assign(overwritten, weights, ZOO_ENTRY.torch_modules, ())


def test_usage() -> None:
    with pytest.raises(UsageError, match="MODEL=resnet9000: no file, and not in the zoo"):
        zoo.load("resnet9000", "random", 96)
    with pytest.raises(UsageError, match="at least 33 pixels, got 32"):
        zoo.load("mobilenetv2", "random", 32)


def test_the_registry_is_importable_without_tensorflow() -> None:
    code = "import sys, converter.zoo; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def testcaptured_stderr_shows_only_what_a_failure_left(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet.captured_stderr():
        os.write(2, b"noise")
    assert capfd.readouterr().err == ""

    def fail() -> None:
        with quiet.captured_stderr():
            os.write(2, b"reason")
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert capfd.readouterr().err == "reason"


@pytest.mark.skipif(not (NPZ.exists() and PHOTOGRAPHS.exists()), reason="the shared data are not here")
def test_at_least_800_of_1000_photographs_are_recognised() -> None:
    network: SourceNetwork = zoo.load("mobilenetv2", str(NPZ), 224)
    scale, offset = np.float32(network.preprocessing.scale), np.float32(network.preprocessing.offset)
    files = sorted(PHOTOGRAPHS.glob("*.jpg"))
    assert len(files) == 1000
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    best = logits(flatbuffer(network), (pixels * scale + offset).astype(np.float32)).argmax(axis=1)
    assert (best == [int(file.name[:4]) for file in files]).sum() >= 800
