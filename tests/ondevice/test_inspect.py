"""ondevice.inspect: what it says of a bundle, for a person and as JSON, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from converter.export import REPLACE, ExportPlan, export_bundle
from converter.network import SourceNetwork
from ondevice.inspect import inspect, main
from signatures.builder import GraphBuilder
from signatures.catalogue import read_bundle
from signatures.graph import Graph, Options
from signatures.shapes import VALID
from tests.end_to_end import tiny

REASON = "no gradient rule for CUMSUM, which makes 'sums'"


def with_sums() -> Graph:
    """Two convolutions, with running sums between them, and a dense layer."""
    b = GraphBuilder("sums")
    x = b.input("x", (1, 8, 8, 3))
    filters = [b.const(np.full(shape, 0.1, np.float32), "weights") for shape in ((4, 3, 3, 3), (6, 3, 3, 4), (2, 6))]
    convolution = Options("Conv2DOptions", {"Padding": VALID, "StrideH": 1, "StrideW": 1})
    x = b.emit("CONV_2D", (x, filters[0], b.zeros(4)), convolution, "first")
    x = b.emit("CUMSUM", (x, b.const(np.array(1, np.int32))), Options("CumsumOptions"), "sums")
    x = b.emit("CONV_2D", (x, filters[1], b.zeros(6)), convolution, "second")
    return b.graph([b.fully_connected(b.mean(x, [1, 2]), filters[2], b.zeros(2), name="head")])


@pytest.fixture(scope="module")
def obstructed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = SourceNetwork("sums", with_sums(), tiny.PREPROCESSING, {}, "all alike")
    plan = ExportPlan(4, (0.5,), REPLACE, None, None, 0, threads=1)
    return export_bundle(source, plan, tmp_path_factory.mktemp("bundles") / "sums", replace=False).folder


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def test_a_table_of_the_layers(free: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(free)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tiny: 16×16, 5 classes; weights: random, seed 7"
    assert lines[1] == "input = pixel · (0.0078125, 0.0078125, 0.00833333) + (-1, -0.9, -1)"
    assert lines[3].split() == ["layer", "kind", "parameters", "|a|", "MACs"]
    assert [line.split()[0] for line in lines[4:12]] == list(tiny.LAYERS)
    assert lines[4].split() == ["stem", "conv", "224", "512", "13,824"]
    assert lines[11].split() == ["head", "dense", "125", "5", "120", "head"]
    assert lines[13].startswith("ops: CONV_2D 5, DEPTHWISE_CONV_2D 2")
    assert lines[14] == "all 8 layers can train"


def test_layers_that_cannot_train_are_marked(obstructed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(obstructed)]) == 0
    said = capsys.readouterr().out
    rows = {line.split()[0]: line for line in said.splitlines()[4:7]}
    assert rows["first"].endswith("cannot train")
    assert rows["second"].rstrip()[-1].isdigit()
    assert said.splitlines()[-1] == (
        f"1 of 3 layers cannot train ({REASON}); the deepest that train are 2, from second on"
    )


def test_as_json(obstructed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(obstructed), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["network"], document["image"], document["head"]) == ("sums", 8, "head")
    assert [layer["name"] for layer in document["layers"]] == ["first", "second", "head"]
    assert document["obstacles"] == {"first": REASON}
    assert {op["kind"]: op["obstacle"] for op in document["ops"]} == {
        "CONV_2D": None, "CUMSUM": REASON, "MEAN": None, "FULLY_CONNECTED": None,
    }  # fmt: skip


def test_sizes_and_counts(obstructed: Path) -> None:
    found = inspect(read_bundle(obstructed))
    assert found.layers[0].activation_size == 6 * 6 * 4
    assert sum(op.count for op in found.ops) == 5


def test_what_is_no_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "is no bundle" in captured.err
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
