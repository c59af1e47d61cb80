"""Train graphs from a bundle are those that the device compiles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ondevice.meter import Resident
from ondevice.report import FORMAT, VERSION
from profiling.ops.train_graph import ALL, CLASSES, Training, train_graph, training_of
from signatures.catalogue import Bundle, read_bundle
from signatures.errors import AdabetError, InputError, UsageError
from signatures.graph import Model
from signatures.tflite_io import write_model
from tests.end_to_end import tiny


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(tiny.write_bundle(tmp_path_factory.mktemp("bundle") / "tiny"))


def results(model: Model) -> dict[str, tuple[int, ...]]:
    (signature,) = model.signatures
    return {name: tensor.shape for name, tensor in signature.outputs.items()}


def test_the_named_layers_and_the_head_train(bundle: Bundle) -> None:
    graph = train_graph(bundle, Training(("b_project",), micro_batch=4))
    assert graph.layers == ("b_project", "head")
    assert results(graph.model) == {
        "logits": (4, CLASSES),
        "b_project/weight": (12, 1, 1, 24),
        "b_project/bias": (12,),
        "head/weight": (CLASSES, 24),
        "head/bias": (CLASSES,),
    }


def test_without_a_micro_batch_it_is_the_device_s(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process holds more than a device's: TensorFlow, with other tests before."""
    monkeypatch.setattr("profiling.ops.train_graph.read_resident", lambda: Resident(40 << 20, 30 << 20, 10 << 20))
    graph = train_graph(bundle, Training((ALL,), classes=3))
    assert graph.layers == tiny.LAYERS
    assert graph.micro_batch == graph.batch == 32  # all of so small a network fits
    assert results(graph.model)["logits"] == (32, 3)


def report(run: Path, **changes: Any) -> Path:
    table = [{"layer": name, "picked": name in ("a_project", "b_expand", "head")} for name in tiny.LAYERS]
    table[2]["channels"] = [1, 4]
    document = {
        "format": FORMAT,
        "version": VERSION,
        "settings": {"batch": 8, "criterion": "betti"},
        "plan": {"micro_batch": 2},
        "classes": ["red", "green", "blue"],
        "selection": {"table": table},
        **changes,
    }
    run.mkdir()
    (run / "report.json").write_text(json.dumps(document))
    return run


def test_a_run_s_train_graph_is_the_one_that_it_trained(bundle: Bundle, tmp_path: Path) -> None:
    training = training_of(report(tmp_path / "run"))
    assert training == Training(("a_project", "b_expand", "head"), 3, 8, 2, False, {"a_project": (1, 4)})
    graph = train_graph(bundle, training)
    assert results(graph.model)["a_project/weight"] == (2, 1, 1, 8)
    write_model(graph.model, tmp_path / "train.tflite")
    of_biases = training_of(report(tmp_path / "biases", settings={"batch": 8, "criterion": "bias"}))
    assert set(results(train_graph(bundle, of_biases).model)) == {
        "logits", "a_project/bias", "b_expand/bias", "head/weight", "head/bias",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("training", "error", "why"),
    [
        (Training(("nope",)), InputError, "nope"),
        (Training(("last",), micro_batch=5), UsageError, "micro-batches of 5"),
    ],
)
def test_what_cannot_be_compiled(bundle: Bundle, training: Training, error: type[AdabetError], why: str) -> None:
    with pytest.raises(error, match=why):
        train_graph(bundle, training)


def test_a_head_of_its_own_keeps_its_classes(tmp_path: Path) -> None:
    bundle = read_bundle(tiny.write_bundle(tmp_path / "own", own_head=True))
    assert results(train_graph(bundle, Training(("last",), micro_batch=1)).model)["logits"] == (1, 3)
    with pytest.raises(InputError, match="head of its own for 3 classes, not 7"):
        train_graph(bundle, Training(("last",), classes=7, micro_batch=1))


@pytest.mark.parametrize("changes", [{"plan": {}}, {"selection": None}, {"settings": {"batch": "many"}}])
def test_a_damaged_report_is_told_of(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="is damaged"):
        training_of(report(tmp_path / "run", **changes))
