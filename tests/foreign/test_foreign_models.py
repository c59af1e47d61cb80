"""Third-party networks with their own weights: exported, adapted, used; what they compute, and their gradients.

`make test-foreign` runs this; recipes.py says where the networks come from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from converter.foreign import read_foreign  # noqa: E402
from converter.pack import pack_arrays  # noqa: E402
from signatures.build import gradient_model  # noqa: E402
from signatures.builder import GraphBuilder  # noqa: E402
from signatures.catalogue import Bundle, read_bundle  # noqa: E402
from signatures.graph import Array, Graph, Model, Signature  # noqa: E402
from signatures.head import head_of, with_new_head  # noqa: E402
from signatures.layers import find_layers  # noqa: E402
from signatures.passes import with_constants  # noqa: E402
from signatures.replay import replay  # noqa: E402
from signatures.subset import Subset  # noqa: E402
from tests.end_to_end import test_adapt_mobilenet  # noqa: E402
from tests.end_to_end.commands import Commands  # noqa: E402
from tests.end_to_end.conftest import read_report  # noqa: E402
from tests.foreign import recipes  # noqa: E402
from tests.oracles import tensorflow_graph  # noqa: E402
from tests.oracles.gradient_check import relative_error  # noqa: E402
from tests.oracles.kinks import away_from_kinks  # noqa: E402
from tests.oracles.other_runtime import Call, Job, Runner  # noqa: E402
from tests.zoo.problem import loss_and_gradients  # noqa: E402

pytestmark = pytest.mark.slow

TRAIN, TEST, CLASSES = 320, 100, 10
BATCH = 16
IMAGES = 3
LAYERS = 6
"""Whose gradients are checked: from the first to the last, evenly spread."""
TOLERANCE = 1e-3
"""Relative error of a gradient. Float32 alone makes about 1e-6; a value on the wrong side of a PRELU's kink, 1e-4."""
ADAM = ("--optimizer", "adam", "--lr", 0.003, "--epochs", 8)
"""For features that know nothing of digits, on which gradients are small."""


@dataclass(frozen=True)
class Case:
    """A network, how to export it, and what training it on digits has to reach."""

    recipe: Callable[[], Path]
    preprocess: str
    layers: int
    accuracy: float
    head: str = "replace"
    settings: tuple[object, ...] = ("--epochs", 3)


CASES = {
    "faces": Case(recipes.faces, "symmetric", 30, 0.55, "p_re_lu_14", ADAM),
    "irises": Case(recipes.irises, "symmetric", 32, 0.45, "p_re_lu_20", ADAM),
    "detector": Case(recipes.detector, "symmetric", 64, 0.3, "activation_31", ADAM),
    "dogs": Case(recipes.dogs, "symmetric", 53, 0.8),
    "orientation": Case(recipes.orientation, "imagenet", 33, 0.55, "replace", ADAM),
    "efficientnet": Case(recipes.efficientnet, "symmetric", 50, 0.7),
}


@dataclass(frozen=True)
class Exported:
    """A case that was exported: its file, its bundle, and where its commands run."""

    case: Case
    path: Path
    bundle: Bundle
    commands: Commands


@pytest.fixture(scope="module", params=CASES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    case = CASES[request.param]
    path = case.recipe()
    commands = Commands(tmp_path_factory.mktemp(request.param))
    out = commands.folder / "bundle"
    commands.converter(
        "export", path, "--preprocess", case.preprocess, "--head", case.head, "--rho", 0.1, "--batch", BATCH,
        "--out", out,
    ).succeeded()  # fmt: skip
    return Exported(case, path, read_bundle(out), commands)


def digits(out: Path, side: int) -> Path:
    """Handwritten digits, some of them."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)
    labels = found.target.astype(np.int32)
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = order[:TRAIN], order[TRAIN : TRAIN + TEST]
    classes = tuple(map(str, range(CLASSES)))
    pack_arrays((images[train], labels[train]), (images[test], labels[test]), classes, out, side)
    return out


def pictures(side: int, count: int) -> Array:
    """Blotchy pictures of −1..1."""
    cells = -(-side // 16)
    coarse = np.random.default_rng(side).uniform(-1, 1, (count, cells, cells, 3))
    return coarse.repeat(16, 1).repeat(16, 2)[:, :side, :side].astype(np.float32)


def test_layers_have_short_names(exported: Exported) -> None:
    names = [layer.name for layer in exported.bundle.layers]
    assert len(names) == exported.case.layers
    assert max(map(len, names)) <= 40
    assert not [name for name in names if ";" in name]


def test_it_computes_what_the_file_does(exported: Exported, run: Runner) -> None:
    """All results of the file, for a batch of images."""
    graph = read_foreign(exported.path)
    images = pictures(graph.inputs[0].shape[1], IMAGES)
    b = GraphBuilder("results")
    x = b.input("x", images.shape)
    replayed = replay(b, graph, [x], IMAGES)
    results = {f"r{i}": replayed.by_image(b, tensor) for i, tensor in enumerate(graph.outputs)}
    model = b.graph(list(results.values()))
    signature = Signature("results", model, {"x": x}, results)
    ((got,),) = run([Job(exported.path.stem, Model((model,), (signature,)), (Call("results", {"x": images}),))])
    for i, expected in enumerate(plain_results(exported.path, images)):
        assert relative_error(got[f"r{i}"], expected) < 1e-5


def plain_results(path: Path, images: Array) -> list[Array]:
    """What the file makes of each image, in TensorFlow's interpreter: for each result [images, elements]."""
    interpreter = tf.lite.Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    (source,), results = interpreter.get_input_details(), interpreter.get_output_details()
    rows = []
    for image in images:
        interpreter.set_tensor(source["index"], image[np.newaxis])
        interpreter.invoke()
        rows.append([interpreter.get_tensor(result["index"]).flatten() for result in results])
    return [np.stack(column) for column in zip(*rows, strict=True)]


@pytest.fixture(scope="module")
def problem(exported: Exported) -> tuple[Graph, Subset, Array, Array, float, dict[str, Array]]:
    """The network with a head for the digits, some layers, images and labels, and what TensorFlow says of them."""
    random = np.random.default_rng(1)
    network = exported.bundle.network
    graph = with_new_head(network, head_of(network, exported.bundle.layers), CLASSES)
    head = find_layers(graph)[-1]
    weights = random.normal(0, 1 / np.sqrt(head.weight_shape[-1]), head.weight_shape).astype(np.float32)
    graph = with_constants(graph, {(head.op, head.weight_slot): weights})
    x = pictures(graph.inputs[0].shape[1], 2)
    y = random.integers(0, CLASSES, 2).astype(np.int32)
    graph = away_from_kinks(graph, x)
    layers = find_layers(graph)
    chosen = sorted(set(np.linspace(0, len(layers) - 1, LAYERS).astype(int)))
    subset = Subset(tuple(layers[i] for i in chosen))
    loss, gradients = loss_and_gradients(graph, x, y, tensorflow_graph.variables(graph, subset, "float64"))
    return graph, subset, x, y, loss, gradients


def test_gradients_of_some_layers(
    problem: tuple[Graph, Subset, Array, Array, float, dict[str, Array]], run: Runner
) -> None:
    graph, subset, x, y, loss, expected = problem
    values = {p.name: graph.ops[p.slot[0]].input(p.slot[1]).data for p in subset.parameters()}
    call = Call("gradients", {"x": x, "y": y, **values})
    ((got,),) = run([Job(graph.name, gradient_model(graph, subset, len(x)), (call,))])
    assert float(got["loss"]) == pytest.approx(loss, rel=1e-5)
    error, where = max((relative_error(got[name], gradient), name) for name, gradient in expected.items())
    assert error < TOLERANCE, where


def test_it_adapts_to_digits(exported: Exported) -> None:
    commands = exported.commands
    data, out = commands.folder / "digits", commands.folder / "run"
    digits(data, exported.bundle.manifest.image)
    commands.adapt(
        exported.bundle.folder, "--data", data, "--out", out, "--rho", 0.1, "--batch", BATCH, "--seed", 0,
        "--threads", 2, *exported.case.settings,
    ).succeeded()  # fmt: skip
    report = read_report(out)
    losses = [epoch["loss"] for epoch in report["epochs"]]
    print(f"{exported.path.stem}: {report['before']['accuracy']:.1%} → {report['after']['accuracy']:.1%}, {losses}")
    assert losses[-1] < losses[0]
    assert report["after"]["accuracy"] > max(exported.case.accuracy, report["before"]["accuracy"])
    manifest = exported.bundle.folder / "manifest.json"
    said = commands.run(test_adapt_mobilenet.PLAIN, out / "adapted.tflite", data, manifest).succeeded().stdout
    assert int(said) == round(report["after"]["accuracy"] * TEST)


def test_the_keras_file_gives_the_same_layers(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    commands = Commands(tmp_path)
    commands.converter(
        "export", recipes.DOGS.fetched(), "--preprocess", "symmetric", "--rho", 0.1, "--out", out
    ).succeeded()
    layers = find_layers(read_foreign(recipes.dogs()))
    assert [(x.name, x.parameters) for x in read_bundle(out).layers] == [(x.name, x.parameters) for x in layers]


def test_sparse_weights_are_refused(tmp_path: Path) -> None:
    finished = Commands(tmp_path).converter("export", recipes.SPARSE.fetched(), "--out", tmp_path / "bundle")
    assert finished.code == 3
    assert "stored sparse" in finished.stderr
