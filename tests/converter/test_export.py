"""Export of a small network: what lands in the bundle, and that it lands there whole or not at all. No TensorFlow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from converter.export import KEEP, REPLACE, ExportPlan, export_bundle
from converter.network import SourceNetwork
from signatures.builder import GraphBuilder
from signatures.catalogue import Bundle, read_bundle
from signatures.errors import CapabilityError, InputError, UsageError
from signatures.graph import Options
from signatures.tflite_io import read_model
from tests.end_to_end import tiny

PLAN = ExportPlan(tiny.BATCH, tiny.RHOS, REPLACE, classes=None, probe=None, seed=0, threads=1)


def export(out: Path, plan: ExportPlan = PLAN, source: SourceNetwork | None = None, again: bool = False) -> Bundle:
    return export_bundle(tiny.source() if source is None else source, plan, out, again)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def layers_of(bundle: Bundle, picks: int, score: Sequence[float]) -> set[str]:
    """The head and the `picks` other layers with the highest score."""
    best = sorted(range(len(score)), key=lambda i: -score[i])[:picks]
    return {bundle.layers[i].name for i in best} | {"head"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(tmp_path_factory.mktemp("export") / "bundle")


def test_the_folder_holds_what_the_manifest_lists(bundle: Bundle) -> None:
    assert set(content(bundle.folder)) == {
        "manifest.json", "model.tflite", "train_rho030.tflite", "train_rho060.tflite", "batchnorm_scale.npz",
    }  # fmt: skip
    for entry in bundle.manifest.files:
        data = (bundle.folder / entry.name).read_bytes()
        assert (entry.n_bytes, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert {entry.name for entry in bundle.manifest.files} == set(content(bundle.folder)) - {"manifest.json"}
    document = json.loads((bundle.folder / "manifest.json").read_text())
    assert (document["format"], document["version"]) == ("adabet-bundle", 1)


def test_the_manifest_describes_the_network(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert (manifest.network, manifest.weights) == ("tiny", "random, seed 7")
    assert (manifest.image, manifest.classes, manifest.own_head) == (tiny.IMAGE, 5, False)
    assert manifest.preprocessing == tiny.PREPROCESSING
    assert tuple(row.name for row in manifest.layers) == tiny.LAYERS
    sizes = {row.name: (row.kind, row.parameters, row.activation_size, row.macs) for row in manifest.layers}
    assert sizes["stem"] == ("conv", 8 * 27 + 8, 8 * 8 * 8, 8 * 8 * 8 * 27)
    assert sizes["a_depthwise"] == ("depthwise", 8 * 9 + 8, 8 * 8 * 8, 8 * 8 * 8 * 9)
    assert sizes["b_project"] == ("conv", 24 * 12 + 12, 4 * 4 * 12, 4 * 4 * 12 * 24)
    assert sizes["head"] == ("dense", 24 * 5 + 5, 5, 24 * 5)


def test_the_model_has_the_three_signatures(bundle: Bundle) -> None:
    model = read_model(bundle.folder / "model.tflite")
    assert [signature.name for signature in model.signatures] == ["infer", "activations", "gram"]
    grams = {name: tensor.shape for name, tensor in model.signature("gram").outputs.items()}
    assert grams == dict.fromkeys(tiny.LAYERS, (tiny.BATCH, tiny.BATCH))
    assert set(model.signature("activations").outputs) == set(tiny.LAYERS)
    assert model.signature("infer").inputs["x"].shape == (1, tiny.IMAGE, tiny.IMAGE, 3)
    assert not any(op.kind == "VAR_HANDLE" for graph in model.graphs for op in graph.ops)


def test_each_train_file_trains_the_smallest_layers_where_nothing_was_probed(bundle: Bundle) -> None:
    assert bundle.manifest.ranking == "inverse-size"
    assert [entry.rho for entry in bundle.manifest.train] == list(tiny.RHOS)
    for entry, picks in zip(bundle.manifest.train, (2, 4), strict=True):
        assert set(entry.layers) == layers_of(bundle, picks, [1 / x.activation_size for x in bundle.layers[:-1]])
        assert entry.batch == tiny.BATCH
        model = read_model(bundle.folder / entry.file)
        assert [s.name for s in model.signatures] == ["train", "infer", "get_weights", "set_weights"]
        parameters = {f"{layer}/{part}" for layer in entry.layers for part in ("weight", "bias")}
        assert set(model.signature("get_weights").outputs) == set(model.signature("set_weights").inputs) == parameters
        assert set(model.signature("train").inputs) == {"x", "y", "learning_rate"}


def test_a_probe_ranks_the_layers_by_b1(tmp_path: Path) -> None:
    plan = replace(PLAN, probe=tiny.write_pictures(tmp_path / "pictures"), seed=5)
    manifest = export(tmp_path / "bundle", plan).manifest
    assert manifest.ranking == "betti on pictures, seed 5"
    assert {entry.layers for entry in manifest.train} != {e.layers for e in export(tmp_path / "other").manifest.train}


def test_batchnorm_scales_are_kept_by_layer_where_there_are_any(bundle: Bundle, tmp_path: Path) -> None:
    with np.load(bundle.folder / "batchnorm_scale.npz", allow_pickle=False) as scales:
        assert set(scales) == set(tiny.LAYERS) - {"head"}
    bare = replace(tiny.source(), batchnorm_scale={})
    assert "batchnorm_scale.npz" not in content(export(tmp_path / "bare", source=bare).folder)


def with_softmax() -> SourceNetwork:
    source = tiny.source()
    b = GraphBuilder("soft")
    b.ops, b.inputs = list(source.graph.ops), list(source.graph.inputs)
    soft = b.emit("SOFTMAX", (source.graph.outputs[0],), Options("SoftmaxOptions", {"Beta": 1.0}))
    return replace(source, graph=b.graph([soft]))


def test_a_softmax_at_the_end_is_dropped(tmp_path: Path) -> None:
    bundle = export(tmp_path / "bundle", source=with_softmax())
    assert [op.kind for op in bundle.network.ops] == [op.kind for op in tiny.network().ops]


# Heads -----------------------------------------------------------------------------------------------------------


def test_a_head_for_so_many_classes_is_zero_and_the_devices_to_keep(tmp_path: Path) -> None:
    bundle = export(tmp_path / "bundle", replace(PLAN, classes=7), with_softmax())
    assert (bundle.manifest.classes, bundle.manifest.own_head) == (7, True)
    head = bundle.layers[-1]
    assert (head.name, head.weight_shape, head.bias_shape) == ("head", (7, 24), (7,))
    assert not any(bundle.network.ops[head.op].input(slot).data.any() for slot in (1, 2))


def test_a_head_may_stay_as_it_is(tmp_path: Path) -> None:
    bundle = export(tmp_path / "bundle", replace(PLAN, head=KEEP), with_softmax())
    assert (bundle.manifest.classes, bundle.manifest.own_head) == (5, True)
    weights = [network.ops[-1].input(1).data for network in (bundle.network, tiny.network())]
    np.testing.assert_array_equal(*weights)


def test_a_head_goes_on_a_tensor(tmp_path: Path) -> None:
    """Everything behind the tensor goes; the device makes the head as large as its data want it."""
    bundle = export(tmp_path / "bundle", replace(PLAN, head="b_project"))
    assert [layer.name for layer in bundle.layers] == [*tiny.LAYERS[:6], "classifier"]
    assert (bundle.manifest.classes, bundle.manifest.own_head) == (2, False)
    assert export(tmp_path / "own", replace(PLAN, head="b_project", classes=3)).manifest.own_head


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"head": KEEP, "classes": 3}, "keeps the classes too"),
        ({"classes": 1}, "at least 2 classes, got 1"),
    ],
)
def test_heads_that_make_no_sense_are_refused(changes: dict[str, object], reason: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=reason):
        export(tmp_path / "bundle", replace(PLAN, **changes))


def test_an_unknown_tensor_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no tensor 'b_projekt'; it has b_project"):
        export(tmp_path / "bundle", replace(PLAN, head="b_projekt"))


def test_the_same_export_gives_the_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    assert content(export(tmp_path / "bundle").folder) == content(bundle.folder)


def test_an_existing_folder_is_replaced_only_when_asked_and_only_if_it_is_a_bundle(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    export(out)
    before = content(out)
    with pytest.raises(UsageError, match="exists: choose another OUT, or --force"):
        export(out)
    assert content(out) == before
    export(out, replace(PLAN, rhos=(0.5,)), again=True)
    assert "train_rho050.tflite" in content(out)
    assert "train_rho030.tflite" not in content(out)


@pytest.mark.parametrize("names", [("thesis.tex",), ("manifest.json", "index.html"), ("model.tflite",)])
def test_a_folder_of_others_is_never_replaced(tmp_path: Path, names: tuple[str, ...]) -> None:
    out = tmp_path / "website"
    out.mkdir()
    for name in names:
        (out / name).write_text("mine")
    with pytest.raises(UsageError, match="is not a bundle and is not replaced"):
        export(out, again=True)
    assert content(out) == dict.fromkeys(names, b"mine")


def test_a_file_is_never_replaced(tmp_path: Path) -> None:
    out = tmp_path / "file"
    out.write_text("mine")
    with pytest.raises(UsageError, match="is not a bundle"):
        export(out, again=True)
    assert out.read_text() == "mine"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    assert export(tmp_path, again=True).manifest.network == "tiny"


def test_an_export_that_fails_leaves_the_old_bundle_and_nothing_beside_it(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    export(out)
    before = content(out)
    with pytest.raises(InputError, match="no such folder"):
        export(out, replace(PLAN, probe=tmp_path / "nowhere"), again=True)
    assert content(out) == before
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CapabilityError, match="cannot write the bundle"):
        export(tmp_path / "file" / "bundle")


def test_what_was_written_reads_back(bundle: Bundle) -> None:
    again = read_bundle(bundle.folder)
    assert again.manifest == bundle.manifest
    assert again.layers == bundle.layers
