"""`verify` accepts a good bundle, and each kind of wrong file fails the check that is there for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import signatures.build
from converter.verify import Check, table, verify_bundle
from signatures.build import bundle_model, inference_model, train_model
from signatures.builder import GraphBuilder
from signatures.catalogue import Bundle, read_bundle
from signatures.graph import Graph, Model, Signature, Tensor
from signatures.optimizers import Optimizer
from signatures.passes import with_constants
from signatures.subset import subset_of
from signatures.tflite_io import model_bytes
from tests.abuse.conftest import replace_file
from tests.end_to_end import tiny
from tests.end_to_end.commands import Commands

TRAIN_FILE = "train_rho030.tflite"
VICTIM = "b_project/weight"
Backward = Callable[..., dict[Tensor, Tensor]]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(tiny.write_bundle(tmp_path_factory.mktemp("verify") / "bundle", own_head=True))


def spoilt(good: Bundle, tmp_path: Path, name: str, model: Model) -> Bundle:
    """The bundle with another file in place of `name`, for which its manifest vouches."""
    folder = Path(shutil.copytree(good.folder, tmp_path / "bundle"))
    replace_file(folder, name, model_bytes(model))
    return read_bundle(folder)


def failures(bundle: Bundle) -> list[str]:
    return [check.what for check in verify_bundle(bundle, 1) if not check.passed]


def train_file(bundle: Bundle, graph: Graph | None = None) -> Model:
    """As the exporter writes it, of the bundle's network or of another graph."""
    subset = subset_of(bundle.layers, bundle.manifest.train[0].layers)
    return train_model(graph or bundle.network, subset, tiny.BATCH, Optimizer())


def wrong_backward(factor: float) -> Backward:
    """Reverse mode with a mistake in one parameter's gradient."""
    right = signatures.build.backward

    def backward(b: GraphBuilder, *arguments: object) -> dict[Tensor, Tensor]:
        gradients = right(b, *arguments)
        for tensor in [tensor for tensor in gradients if tensor.name == VICTIM]:
            gradients[tensor] = b.mul(gradients[tensor], b.scalar(factor))
        return gradients

    return backward


def test_a_good_bundle_passes_every_check(good: Bundle) -> None:
    checks = verify_bundle(good, 1)
    assert [check.what for check in checks if not check.passed] == []
    assert {(check.file, check.signature) for check in checks} == {
        ("model.tflite", "activations"),
        ("model.tflite", "gram"),
        *((entry.file, name) for entry in good.manifest.train for name in ("set_weights", "infer", "train")),
    }
    told = {check.what for check in checks}
    for entry in good.manifest.train:
        assert {f"gradient of {layer}/{part}" for layer in entry.layers for part in ("weight", "bias")} <= told
    assert table(checks).endswith(f"{len(checks)} checks, 0 failed")


@pytest.mark.parametrize("factor", [1.02, -1.0, 0.0])
def test_a_train_file_with_a_wrong_gradient_fails(
    good: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    """The file was written by something that is wrong, the verifier's own compiler is right."""
    with monkeypatch.context() as patch:
        patch.setattr(signatures.build, "backward", wrong_backward(factor))
        model = train_file(good)
    assert failures(spoilt(good, tmp_path, TRAIN_FILE, model)) == ["the first step moves by lr·clipped gradient"]


@pytest.mark.parametrize("factor", [1.1, 0.9, -1.0, 0.0])
def test_a_compiler_with_a_wrong_rule_fails(
    good: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    """File and verifier agree, as they share the mistake; finite differences do not."""
    monkeypatch.setattr(signatures.build, "backward", wrong_backward(factor))
    checks = verify_bundle(spoilt(good, tmp_path, TRAIN_FILE, train_file(good)), 1)
    failed = [check.what for check in checks if check.file == TRAIN_FILE and not check.passed]
    assert failed == [f"gradient of {VICTIM}"]


def test_a_train_file_of_another_network_fails(good: Bundle, tmp_path: Path) -> None:
    frozen = next(layer for layer in good.layers if layer.name not in good.manifest.train[0].layers)
    weights = good.network.ops[frozen.op].input(1).data
    other = with_constants(good.network, {(frozen.op, 1): weights * np.float32(1.01)})
    failed = failures(spoilt(good, tmp_path, TRAIN_FILE, train_file(good, other)))
    assert "its logits give the gradient graph's loss" in failed
    assert "loss before the step" in failed


def test_an_infer_that_ignores_what_is_trained_fails(good: Bundle, tmp_path: Path) -> None:
    model = train_file(good)
    (frozen,) = inference_model(good.network, tiny.BATCH).signatures
    train, _, get, set_ = model.signatures
    graphs = tuple(frozen.graph if graph is model.signature("infer").graph else graph for graph in model.graphs)
    failed = failures(spoilt(good, tmp_path, TRAIN_FILE, Model(graphs, (train, frozen, get, set_))))
    assert "its logits give the gradient graph's loss" in failed
    assert f"gradient of {VICTIM}" in failed


def test_a_get_weights_that_returns_something_else_fails(good: Bundle, tmp_path: Path) -> None:
    model = train_file(good)
    get = model.signature("get_weights")
    b = GraphBuilder("get_weights")
    b.ops = list(get.graph.ops)
    outputs = {name: b.mul(tensor, b.scalar(1.0 + 1e-6), name=name) for name, tensor in get.outputs.items()}
    inexact = Signature("get_weights", b.graph(list(outputs.values())), {}, outputs)
    graphs = tuple(inexact.graph if graph is get.graph else graph for graph in model.graphs)
    listed = tuple(inexact if signature is get else signature for signature in model.signatures)
    assert "get_weights returns what was set" in failures(spoilt(good, tmp_path, TRAIN_FILE, Model(graphs, listed)))


def test_gram_matrices_of_other_layers_fail(good: Bundle, tmp_path: Path) -> None:
    model = bundle_model(good.network, good.layers, tiny.BATCH)
    gram = model.signature("gram")
    swapped = dict(gram.outputs)
    swapped["stem"], swapped["last"] = gram.outputs["last"], gram.outputs["stem"]
    wrong = replace_signature(model, replace(gram, outputs=swapped))
    assert failures(spoilt(good, tmp_path, "model.tflite", wrong)) == ["equals A·Aᵀ of 7 layers, worst"]


def test_gram_matrices_that_are_no_numbers_fail(good: Bundle, tmp_path: Path) -> None:
    """Of one layer in the middle: no comparison with NaN may pass it by."""
    model = bundle_model(good.network, good.layers, tiny.BATCH)
    gram = model.signature("gram")
    b = GraphBuilder("gram")
    b.ops, b.inputs = list(gram.graph.ops), list(gram.graph.inputs)
    broken = dict(gram.outputs)
    broken["b_expand"] = b.mul(broken["b_expand"], b.scalar(float("nan")))
    signature = Signature("gram", b.graph(list(broken.values())), gram.inputs, broken)
    graphs = tuple(signature.graph if graph is gram.graph else graph for graph in model.graphs)
    wrong = replace_signature(Model(graphs, model.signatures), signature)
    assert failures(spoilt(good, tmp_path, "model.tflite", wrong)) == ["equals A·Aᵀ of 7 layers, worst"]


def test_activations_of_other_layers_fail(good: Bundle, tmp_path: Path) -> None:
    model = bundle_model(good.network, good.layers, tiny.BATCH)
    activations = model.signature("activations")
    swapped = {**activations.outputs, "stem": activations.outputs["a_project"]}
    swapped["a_project"] = activations.outputs["stem"]
    wrong = replace_signature(model, replace(activations, outputs=swapped))
    assert failures(spoilt(good, tmp_path, "model.tflite", wrong)) == ["equals A·Aᵀ of 7 layers, worst"]


def replace_signature(model: Model, signature: Signature) -> Model:
    listed = tuple(signature if other.name == signature.name else other for other in model.signatures)
    return Model(model.graphs, listed)


def test_nan_is_no_agreement() -> None:
    assert not Check("f", "s", "w", float("nan"), 1.0).passed
    assert not Check("f", "s", "w", float("inf"), 1.0).passed
    assert Check("f", "s", "w", 0.0, 0.0).passed


def test_the_command_exits_with_1_and_names_what_failed(
    good: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(tmp_path)
    said = commands.converter("verify", good.folder, "--threads", 1).succeeded()
    assert "FAILED" not in said.stdout
    assert said.stdout.splitlines()[-1].endswith("checks, 0 failed")
    with monkeypatch.context() as patch:
        patch.setattr(signatures.build, "backward", wrong_backward(1.05))
        model = train_file(good)
    said = commands.converter("verify", spoilt(good, tmp_path, TRAIN_FILE, model).folder, "--threads", 1)
    assert said.code == 1
    assert said.stderr == ""
    (line,) = [line for line in said.stdout.splitlines() if "FAILED" in line]
    assert line.startswith(TRAIN_FILE)
    assert said.stdout.splitlines()[-1].endswith("checks, 1 failed")
