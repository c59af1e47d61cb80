"""Every criterion, and channels, as a user runs them: a fresh process, real files, the report, the adapted network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from converter.export import REPLACE, ExportPlan, export_bundle
from converter.network import SourceNetwork
from ondevice.ranking import CRITERIA, FROM_BETTI_NUMBERS
from signatures.builder import GraphBuilder
from signatures.graph import Options, Tensor
from signatures.layers import find_layers
from signatures.subset import subset_of, values_of
from signatures.tflite_io import read_model
from tests.end_to_end import tiny
from tests.end_to_end.commands import Commands
from tests.end_to_end.conftest import read_report

SETTINGS = ("--rho", 0.4, "--batch", tiny.BATCH, "--epochs", 3, "--threads", 1, "--lr", 0.02)
BODY = tiny.LAYERS[:-1]


def adapted_values(run: Path) -> dict[str, np.ndarray]:
    (graph,) = read_model(run / "adapted.tflite").graphs
    layers = find_layers(graph)
    return values_of(graph, subset_of(layers, [layer.name for layer in layers]))


def start_values(bundle: Path) -> dict[str, np.ndarray]:
    graph = read_model(bundle / "model.tflite").signature("infer").graph
    layers = find_layers(graph)
    return values_of(graph, subset_of(layers, [layer.name for layer in layers]))


def changed(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    return {name for name, value in after.items() if not np.array_equal(value, before[name])}


@pytest.mark.parametrize("criterion", CRITERIA)
def test_what_trains_is_what_the_report_says(
    commands: Commands, tiny_bundle_with_head: Path, tiny_pictures: Path, criterion: str
) -> None:
    run = commands.folder / "run"
    said = commands.adapt(
        tiny_bundle_with_head, "--data", tiny_pictures, "--out", run, "--criterion", criterion, *SETTINGS
    ).succeeded()
    report = read_report(run)
    picked = [row["layer"] for row in report["selection"]["table"] if row["picked"]]
    expected = {"last": [*BODY[-3:], "head"], "first": [*BODY[:3], "head"], "head": ["head"]}
    assert picked == expected.get(criterion, list(tiny.LAYERS) if criterion in ("all", "bias") else picked)
    assert len(picked) == {"head": 1, "all": 8, "bias": 8}.get(criterion, 4)
    whole = ["head"] if criterion == "bias" else picked
    trained = {f"{name}/weight" for name in whole} | {f"{name}/bias" for name in picked}
    after = adapted_values(run)
    assert changed(start_values(tiny_bundle_with_head), after) == trained
    with np.load(run / "weights.npz") as weights:
        assert set(weights.files) == trained
        assert all(np.array_equal(weights[name], after[name]) for name in trained)
        assert report["trained_parameters"] == sum(weights[name].size for name in trained)
    assert (report["topology"] is not None) == (criterion in FROM_BETTI_NUMBERS)
    assert report["epochs"][-1]["loss"] < report["epochs"][0]["loss"]
    assert all(name in said.stdout for name in picked)


def test_the_named_layers_train(commands: Commands, tiny_bundle_with_head: Path, tiny_pictures: Path) -> None:
    run = commands.folder / "run"
    commands.adapt(
        tiny_bundle_with_head, "--data", tiny_pictures, "--out", run, "--layers", f"{BODY[3]}, {BODY[1]}", *SETTINGS
    ).succeeded()
    report = read_report(run)
    assert report["settings"]["criterion"] == "named"
    assert [row["layer"] for row in report["selection"]["table"] if row["picked"]] == [BODY[1], BODY[3], "head"]
    trained = {f"{name}/{kind}" for name in (BODY[1], BODY[3], "head") for kind in ("weight", "bias")}
    assert changed(start_values(tiny_bundle_with_head), adapted_values(run)) == trained
    right = [truth == answer for truth, answer in zip(report["test_labels"], report["after"]["predicted"], strict=True)]
    assert report["after"]["accuracy"] == sum(right) / len(right)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--layers", "attic"), "the network has no layer 'attic'"),
        (("--layers", " , "), "no layer is named"),
        (("--layers", BODY[0], "--criterion", "betti"), "not allowed with"),
    ],
)
def test_layers_that_cannot_be_named(
    commands: Commands, tiny_bundle_with_head: Path, tiny_pictures: Path, arguments: tuple[str, ...], message: str
) -> None:
    said = commands.adapt(tiny_bundle_with_head, "--data", tiny_pictures, *arguments)
    assert said.code == 2
    assert message in said.stderr


@pytest.mark.parametrize("criterion", ["fisher", "random"])
def test_the_same_seed_picks_the_same_layers(
    commands: Commands, tiny_bundle: Path, tiny_pictures: Path, criterion: str
) -> None:
    """Fisher information with a head that starts at zero: it is drawn for that."""
    tables = []
    for name in ("a", "b"):
        run = commands.folder / name
        commands.adapt(
            tiny_bundle, "--data", tiny_pictures, "--out", run, "--criterion", criterion, *SETTINGS
        ).succeeded()
        tables.append(read_report(run)["selection"]["table"])
    assert tables[0] == tables[1]
    assert all(row["score"] > 0 for row in tables[0][:-1])


@pytest.mark.parametrize("criterion", ["betti", "all"])
def test_only_the_picked_channels_train(
    commands: Commands, tiny_bundle_with_head: Path, tiny_pictures: Path, criterion: str
) -> None:
    """All other slices of the same layers keep their bits."""
    run = commands.folder / "run"
    commands.adapt(
        tiny_bundle_with_head, "--data", tiny_pictures, "--out", run, "--criterion", criterion, "--rho-channels", 0.3,
        *SETTINGS,
    ).succeeded()  # fmt: skip
    report, before, after = read_report(run), start_values(tiny_bundle_with_head), adapted_values(run)
    sliced = {row["layer"]: row["channels"] for row in report["selection"]["table"] if row["channels"] is not None}
    assert len(sliced) >= 3
    assert "head" not in sliced
    trained = 0
    for layer, channels in sliced.items():
        for kind in ("weight", "bias"):
            old, new = before[f"{layer}/{kind}"], after[f"{layer}/{kind}"]
            depthwise = "depthwise" in layer and kind == "weight"
            axis = 3 if depthwise else 0
            moved = np.flatnonzero((old != new).any(axis=tuple(i for i in range(old.ndim) if i != axis)))
            assert set(moved) <= set(channels), layer
            assert len(moved) > 0, layer
            trained += old.size // old.shape[axis] * len(channels)
    trained += sum(before[f"head/{kind}"].size for kind in ("weight", "bias"))
    assert report["trained_parameters"] == trained
    assert [phase["name"] for phase in report["phases"]].count("channels") == 1
    assert report["epochs"][-1]["loss"] < report["epochs"][0]["loss"]


def test_a_dry_run_names_the_same_channels(commands: Commands, tiny_bundle: Path, tiny_pictures: Path) -> None:
    run = commands.folder / "run"
    arguments = (tiny_bundle, "--data", tiny_pictures, "--out", run, "--rho-channels", 0.3, *SETTINGS)
    commands.adapt(*arguments).succeeded()
    outline = json.loads(commands.adapt(*arguments, "--dry-run", "--json").succeeded().stdout)
    assert outline["selection"] == read_report(run)["selection"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--rho-channels", 0), "--rho-channels must be greater than 0 and at most 1"),
        (("--rho-channels", 1.5), "--rho-channels must be greater than 0 and at most 1"),
        (("--rho-channels", 0.5, "--criterion", "head"), "--rho-channels says nothing to --criterion head"),
        (("--rho-channels", 0.5, "--criterion", "bias"), "--rho-channels says nothing to --criterion bias"),
        (("--rho-channels", 0.5, "--criterion", "last", "--batch", 3), "--batch must be at least 4 to rank by b1"),
        (("--criterion", "b1", "--batch", 3), "--batch must be at least 4 to rank by b1"),
        (("--criterion", "best"), "invalid choice: 'best'"),
    ],
)
def test_what_makes_no_sense_is_refused(
    commands: Commands, tiny_bundle: Path, tiny_pictures: Path, arguments: tuple[object, ...], why: str
) -> None:
    finished = commands.adapt(tiny_bundle, "--data", tiny_pictures, "--out", commands.folder / "run", *arguments)
    assert finished.code == 2
    assert why in finished.stderr


# What there is little of ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["betti", "fisher", "last", "all"])
def test_a_network_that_is_all_head(commands: Commands, tiny_pictures: Path, criterion: str) -> None:
    b = GraphBuilder("head")
    x = b.input("x", (1, tiny.IMAGE, tiny.IMAGE, 3))
    head = b.fully_connected(b.mean(x, [1, 2]), b.const(np.ones((5, 3), np.float32), "w"), b.zeros(5))
    source = SourceNetwork("head", b.graph([head]), tiny.PREPROCESSING, {}, "ones")
    plan = ExportPlan(tiny.BATCH, tiny.RHOS, REPLACE, None, None, 0, threads=1)
    bundle = export_bundle(source, plan, commands.folder / "bundle", replace=False).folder
    run = commands.folder / "run"
    commands.adapt(bundle, "--data", tiny_pictures, "--out", run, "--criterion", criterion, *SETTINGS).succeeded()
    assert [row["picked"] for row in read_report(run)["selection"]["table"]] == [True]
    said = commands.run("-m", "ondevice.inspect", bundle, "--data", tiny_pictures, "--batch", 8).succeeded().stdout
    assert "picked by betti: none; and the head" in said


def test_fisher_passes_over_what_cannot_train(commands: Commands, tiny_pictures: Path) -> None:
    """As betti does: layers before an op without a gradient rule are told, those behind it measured and trained."""
    random = np.random.default_rng(0)
    b = GraphBuilder("obstructed")
    x = b.input("x", (1, tiny.IMAGE, tiny.IMAGE, 3))

    def conv(values: Tensor) -> Tensor:
        filters = random.normal(0, 0.5, (6, 3, 3, values.shape[3])).astype(np.float32)
        return b.conv_2d(values, b.const(filters, "w"), b.zeros(6), StrideH=2, StrideW=2)

    summed = b.emit("CUMSUM", (conv(x), b.const(np.array(3, np.int32))), Options("CumsumOptions"))
    features = b.mean(conv(b.scale(summed, 0.1)), [1, 2])
    head = b.fully_connected(features, b.const(np.zeros((5, 6), np.float32), "h"), b.zeros(5))
    source = SourceNetwork("obstructed", b.graph([head]), tiny.PREPROCESSING, {}, "random")
    plan = ExportPlan(tiny.BATCH, tiny.RHOS, REPLACE, None, None, 0, threads=1)
    bundle = export_bundle(source, plan, commands.folder / "bundle", replace=False).folder
    run = commands.folder / "run"
    commands.adapt(bundle, "--data", tiny_pictures, "--out", run, "--criterion", "fisher", *SETTINGS).succeeded()
    first, second, last = read_report(run)["selection"]["table"]
    assert "CUMSUM" in first["obstacle"]
    assert (first["picked"], second["picked"], last["picked"]) == (False, True, True)
    assert first["score"] == 0 < second["score"]
