"""The interpreter behind LoadedModel: which one, what calls are refused, and what native code may say."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

import ai_edge_litert
import numpy as np
import pytest

from ondevice import runtime
from ondevice.runtime import LoadedModel, interpreter_module
from signatures.build import infer, inference_model, train_model
from signatures.builder import GraphBuilder
from signatures.errors import CapabilityError, InputError
from signatures.graph import Model, Op
from signatures.layers import find_layers
from signatures.optimizers import Optimizer
from signatures.subset import subset_of
from signatures.tflite_io import write_model
from tests.end_to_end import tiny

X = np.zeros((1, tiny.IMAGE, tiny.IMAGE, 3), np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.tflite"
    write_model(inference_model(tiny.network()), path)
    return path


def test_the_runtime_is_named_with_its_version() -> None:
    name, module = interpreter_module()
    assert name == f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')}"
    assert callable(module.Interpreter)


def test_a_runtime_without_a_version_is_used_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ai_edge_litert, "__version__")
    name, module = interpreter_module()
    assert name == "ai-edge-litert of unknown version"
    assert callable(module.Interpreter)


def test_without_a_runtime_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ai_edge_litert.interpreter", "tflite_runtime.interpreter"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(CapabilityError, match=r"pip install ai-edge-litert.*ai_edge_litert.*tflite_runtime"):
        interpreter_module()


def test_results_are_copies_by_name(path: Path) -> None:
    model = LoadedModel(path, 1)
    first = model.call("infer", {"x": X})
    kept = first["logits"].copy()
    other = model.call("infer", {"x": X + 1})["logits"]
    assert first.keys() == {"logits"}
    assert first["logits"].shape == (1, 5)
    np.testing.assert_array_equal(first["logits"], kept)
    assert np.abs(other - kept).max() > 1e-3


def test_results_can_be_asked_for_without_a_call(path: Path) -> None:
    model = LoadedModel(path, 1)
    assert model.results("infer") == {"logits": (1, 5)}
    with pytest.raises(InputError, match="no signature 'train'"):
        model.results("train")


@pytest.mark.parametrize(
    ("name", "inputs", "said"),
    [
        ("train", {"x": X}, r"no signature 'train' \(it has: infer\)"),
        ("infer", {}, r"infer takes 'x' as float32\[1, 16, 16, 3\], got nothing"),
        ("infer", {"y": X}, "got nothing"),
        ("infer", {"x": X[:, 1:]}, r"got float32\[1, 15, 16, 3\]"),
        ("infer", {"x": np.repeat(X, 2, 0)}, r"got float32\[2, 16, 16, 3\]"),
        ("infer", {"x": X.astype(np.float64)}, r"got float64\[1, 16, 16, 3\]"),
    ],
)
def test_a_call_that_does_not_fit_is_refused(path: Path, name: str, inputs: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        LoadedModel(path, 1).call(name, inputs)


def test_variables_live_as_long_as_the_object(tmp_path: Path) -> None:
    graph, path = tiny.network(3), tmp_path / "train.tflite"
    layers = find_layers(graph)
    write_model(train_model(graph, subset_of(layers, [layers[-1].name]), 2, Optimizer()), path)
    model = LoadedModel(path, 1)
    (weight, bias) = (f"{layers[-1].name}/{part}" for part in ("weight", "bias"))
    before = model.call("get_weights")
    model.call("set_weights", {weight: before[weight] * 0, bias: before[bias] + 3})
    np.testing.assert_array_equal(
        model.call("infer", {"x": np.repeat(X, 2, 0)})["logits"], before[bias] + 3 + np.zeros((2, 3))
    )
    np.testing.assert_array_equal(LoadedModel(path, 1).call("get_weights")[bias], before[bias])


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the model"):
        LoadedModel(tmp_path / "none.tflite", 1)


def test_what_the_interpreter_refuses_is_told_with_its_own_words(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """Our reader checks the file; what a kernel makes of an op's version is the interpreter's to say."""
    graph = tiny.network()
    ops = tuple(Op(op.kind, op.inputs, op.outputs, op.options, version=99) for op in graph.ops)
    signature = infer(type(graph)("future", ops, graph.inputs, graph.outputs), 1)
    path = tmp_path / "future.tflite"
    write_model(Model((signature.graph,), (signature,)), path)
    with pytest.raises(InputError, match=r"future\.tflite.*version"):
        LoadedModel(path, 1).call("infer", {"x": X})
    assert capfd.readouterr().err == ""


def test_native_code_is_silent_and_stderr_stays_open(path: Path, capfd: pytest.CaptureFixture) -> None:
    model = LoadedModel(path, 2)
    model.call("infer", {"x": X})
    os.write(2, b"ours\n")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "ours\n")


def test_loading_leaks_no_file_descriptors(path: Path) -> None:
    """The mapped file goes with the object; the redirection of stderr leaves nothing."""
    fd_folder = Path("/proc/self/fd")
    if not fd_folder.exists():
        pytest.skip("no /proc to count file descriptors in")
    LoadedModel(path, 1).call("infer", {"x": X})
    before = len(list(fd_folder.iterdir()))
    for _ in range(5):
        LoadedModel(path, 1).call("infer", {"x": X})
    assert len(list(fd_folder.iterdir())) == before


def resident_bytes(path: Path) -> int:
    """Of the mapped file, as the kernel counts it (proc(5), smaps)."""
    lines, inside, total = Path("/proc/self/smaps").read_text().splitlines(), False, 0
    for line in lines:
        first, *rest = line.split()
        if "-" in first and not first.endswith(":"):
            inside = bool(rest) and rest[-1] == str(path)
        elif inside and first == "Rss:":
            total += int(rest[0]) * 1024
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="smaps is Linux's")
def test_weights_that_a_kernel_has_packed_are_not_in_memory_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file stays mapped, and 8 MiB of it would be resident."""
    b = GraphBuilder("wide")
    weights = np.random.default_rng(0).normal(size=(1024, 2048)).astype(np.float32)
    write_model(
        inference_model(b.graph([b.fully_connected(b.input("x", (1, 2048)), b.const(weights))])), tmp_path / "m"
    )
    x = np.ones((1, 2048), np.float32)

    def after_a_call() -> int:
        model = LoadedModel(tmp_path / "m", 1)
        np.testing.assert_allclose(model.call("infer", {"x": x})["logits"][0], weights.sum(1), rtol=1e-3, atol=1e-3)
        return resident_bytes(tmp_path / "m")

    assert after_a_call() < 1 << 20
    monkeypatch.setattr(runtime, "drop_mapped_pages", lambda path: None)
    assert after_a_call() > 4 << 20, "it would not be resident anyway: this tests nothing"


@pytest.mark.skipif(sys.platform != "linux", reason="madvise is Linux's")
def test_pages_that_were_dropped_are_read_again(path: Path) -> None:
    """At any time: what the interpreter computes does not depend on it."""
    model = LoadedModel(path, 1)
    before = model.call("infer", {"x": X})["logits"]
    runtime.drop_mapped_pages(path)
    np.testing.assert_array_equal(model.call("infer", {"x": X})["logits"], before)
