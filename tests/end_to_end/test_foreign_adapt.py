"""Model files of others, from the export to the adapted network, each command in a process of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from converter.foreign import read_foreign
from ondevice.runtime import LoadedModel
from signatures.build import inference_model
from signatures.builder import RELU, GraphBuilder
from signatures.catalogue import read_bundle
from signatures.graph import Array, Graph, Model, Options, Tensor
from signatures.shapes import SAME
from signatures.tflite_io import write_model
from tests.end_to_end import tiny
from tests.end_to_end.commands import Commands
from tests.end_to_end.conftest import read_report

tf = pytest.importorskip("tensorflow")

import keras  # noqa: E402

IMAGE, BATCH, CLASSES = tiny.IMAGE, tiny.BATCH, len(tiny.CLASSES)
EPOCHS = 20


class Weights:
    """Draws the weights of a network that is built op by op."""

    def __init__(self, b: GraphBuilder) -> None:
        self.b = b
        self.random = np.random.default_rng(5)

    def __call__(self, *shape: int) -> Tensor:
        scale = math.sqrt(2 / math.prod(shape[1:]))
        return self.b.const(self.random.normal(0, scale, shape).astype(np.float32), "weights")

    def bias(self, length: int) -> Tensor:
        return self.b.const(self.random.normal(0, 0.1, length).astype(np.float32), "bias")


def convolution(b: GraphBuilder, draw: Weights, x: Tensor, channels: int, name: str, stride: int = 2) -> Tensor:
    fields = {"StrideW": stride, "StrideH": stride, "Padding": SAME, "FusedActivationFunction": RELU}
    inputs = (x, draw(channels, 3, 3, x.shape[3]), draw.bias(channels))
    return b.emit("CONV_2D", inputs, Options("Conv2DOptions", fields), name)


def write(b: GraphBuilder, logits: Tensor, path: Path) -> Path:
    write_model(Model((b.graph([logits]),), ()), path)
    return path


def export(commands: Commands, path: Path, *options: object) -> tuple[Path, str]:
    """The bundle of a model file, and what the command said on stdout."""
    bundle = commands.folder / "bundle"
    said = commands.converter(
        "export",
        path,
        "--rho",
        0.3,
        "--batch",
        BATCH,
        "--threads",
        1,
        "--preprocess",
        "unit",
        "--out",
        bundle,
        *options,
    ).succeeded()
    assert said.stderr == ""
    return bundle, said.stdout


def adapt(commands: Commands, bundle: Path, data: Path) -> tuple[dict, str]:
    """The report of a run of several epochs, and what the command said on stdout."""
    run = commands.folder / "run"
    said = commands.adapt(
        bundle, "--data", data, "--out", run, "--rho", 0.3, "--batch", BATCH, "--epochs", EPOCHS, "--lr", 0.1,
        "--threads", 1,
    ).succeeded()  # fmt: skip
    report = read_report(run)
    losses = [epoch["loss"] for epoch in report["epochs"]]
    assert losses[-1] < losses[0]
    return report, said.stdout


def picked(report: dict) -> list[str]:
    return [row["layer"] for row in report["selection"]["table"] if row["picked"]]


def plain_results(path: Path, images: Array) -> list[Array]:
    """What a file makes of each image, in an interpreter that knows nothing of us."""
    interpreter = tf.lite.Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    results = []
    for image in images:
        interpreter.set_tensor(source["index"], image[np.newaxis])
        interpreter.invoke()
        results.append(interpreter.get_tensor(result["index"])[0].copy())
    return results


def pictures(data: Path, count: int) -> Array:
    """The first test images, as --preprocess unit brings them to the network."""
    return (np.load(data / "test" / "images.npy")[:count] / np.float32(255)).astype(np.float32)


# A network of Keras, as everyone converts it -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Keras network with a Flatten, which reads its shape at run time: open batch, weights in float16, softmax."""
    keras.utils.set_random_seed(2)
    x = inputs = keras.Input((IMAGE, IMAGE, 3))
    x = keras.layers.Conv2D(8, 3, 2, padding="same", activation="relu", name="stem")(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", activation="relu6", name="middle")(x)
    x = keras.layers.Conv2D(16, 3, 2, padding="same", activation="relu", name="last")(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(CLASSES, activation="softmax", name="classes")(x)
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(inputs, x))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    path = tmp_path_factory.mktemp("keras") / "of_keras.tflite"
    path.write_bytes(converter.convert())
    return path


def layer_of(graph: Graph, name: str) -> str:
    """The name that a layer of Keras has in a file."""
    (found,) = {t.name for op in graph.ops for t in op.outputs if t.name.startswith(name)}
    return found


def test_a_classifier_on_a_tensor_of_a_keras_network(commands: Commands, converted: Path, tiny_pictures: Path) -> None:
    last = layer_of(read_foreign(converted), "last")
    bundle, _ = export(commands, converted, "--head", last)
    report, _ = adapt(commands, bundle, tiny_pictures)
    assert report["network"] == "of_keras"
    assert report["step_losses"][0] == pytest.approx(math.log(CLASSES), rel=1e-5)  # the new head is all zeros
    assert picked(report)[-1] == "classifier"
    assert report["after"]["accuracy"] > report["before"]["accuracy"] + 0.3
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["preprocessing"]["offset"] == [0.0] * 3
    assert manifest["weights"].startswith("of_keras.tflite (sha256 ")


def test_the_classifier_of_the_file_is_kept(commands: Commands, converted: Path, tiny_pictures: Path) -> None:
    bundle, _ = export(commands, converted, "--head", "keep")
    images = pictures(tiny_pictures, 4)
    model = LoadedModel(bundle / "model.tflite", 1)
    for image, expected in zip(images, plain_results(converted, images), strict=True):
        scores = np.exp(model.call("infer", {"x": image[np.newaxis]})["logits"][0])
        np.testing.assert_allclose(scores / scores.sum(), expected, rtol=1e-4)
    report, _ = adapt(commands, bundle, tiny_pictures)
    assert report["step_losses"][0] != pytest.approx(math.log(CLASSES), rel=1e-3)
    assert report["after"]["loss"] < report["before"]["loss"]


# Networks that are built op by op ------------------------------------------------------------------------------------


def with_an_obstacle(path: Path) -> Path:
    """Running sums over the rows, for which there is no gradient rule, between the third and the fourth layer."""
    b = GraphBuilder("g")
    draw = Weights(b)
    x = convolution(b, draw, b.input("x", (1, IMAGE, IMAGE, 3)), 8, "first")
    x = convolution(b, draw, convolution(b, draw, x, 8, "second", 1), 12, "third")
    x = b.emit("CUMSUM", (x, b.const(np.array(1, np.int32), "axis")), Options("CumsumOptions"), "sums")
    x = convolution(b, draw, convolution(b, draw, x, 16, "fourth"), 16, "fifth", 1)
    logits = b.fully_connected(b.mean(x, [1, 2]), draw(CLASSES, 16), draw.bias(CLASSES), name="head")
    return write(b, logits, path)


def test_layers_before_an_op_without_a_rule_stay_as_they_are(
    commands: Commands, tmp_path: Path, tiny_pictures: Path
) -> None:
    bundle, exported = export(commands, with_an_obstacle(tmp_path / "sums.tflite"))
    report, adapted = adapt(commands, bundle, tiny_pictures)
    inspected = commands.run("-m", "ondevice.inspect", bundle).succeeded().stdout
    reason = "no gradient rule for CUMSUM, which makes 'sums'"
    for said in (exported, adapted, inspected):
        assert f"3 of 6 layers cannot train ({reason}); the deepest that train are 3, from fourth on" in said
    assert [line.split()[0] for line in inspected.splitlines() if line.endswith("cannot train")] == [
        "first", "second", "third",
    ]  # fmt: skip
    assert {row["layer"]: row["obstacle"] for row in report["selection"]["table"]} == {
        **dict.fromkeys(("first", "second", "third"), reason),
        **dict.fromkeys(("fourth", "fifth", "head")),
    }
    assert picked(report) in (["fourth", "head"], ["fifth", "head"])
    assert report["after"]["accuracy"] > 0.6


def with_images_mixed(path: Path) -> Path:
    """A dense layer over the pixels of channels that lie where the images of a batch would: it runs image by image."""
    b = GraphBuilder("g")
    draw = Weights(b)
    x = convolution(b, draw, b.input("x", (1, IMAGE, IMAGE, 3)), 8, "first")
    x = convolution(b, draw, x, 12, "second")
    pixels = b.transpose(b.reshape(x, (x.shape[1] * x.shape[2], 12)), (1, 0))
    x = b.fully_connected(pixels, draw(6, pixels.shape[1]), draw.bias(6), name="over_pixels")
    logits = b.fully_connected(b.reshape(x, (1, 72)), draw(CLASSES, 72), draw.bias(CLASSES), name="head")
    return write(b, logits, path)


def test_a_network_that_takes_one_image_at_a_time(commands: Commands, tmp_path: Path, tiny_pictures: Path) -> None:
    path = with_images_mixed(tmp_path / "mixed.tflite")
    bundle, _ = export(commands, path, "--head", "keep")
    images = pictures(tiny_pictures, BATCH)
    model = inference_model(read_bundle(bundle).network, BATCH)
    assert sum(op.kind == "FULLY_CONNECTED" for op in model.graphs[0].ops) == BATCH + 1
    batched = tmp_path / "batched.tflite"
    write_model(model, batched)
    got = LoadedModel(batched, 1).call("infer", {"x": images})["logits"]
    np.testing.assert_allclose(got, plain_results(path, images), rtol=1e-4, atol=1e-6)
    assert commands.converter("verify", bundle).succeeded().stdout.endswith("checks, 0 failed\n")
    report, _ = adapt(commands, bundle, tiny_pictures)
    assert report["after"]["accuracy"] > report["before"]["accuracy"]
    adapted = plain_results(commands.folder / "run" / "adapted.tflite", pictures(tiny_pictures, 30))
    labels: Sequence[int] = np.load(tiny_pictures / "test" / "labels.npy")[:30]
    assert np.mean(np.argmax(adapted, axis=1) == labels) == report["after"]["accuracy"]
