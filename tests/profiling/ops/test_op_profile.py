from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import profiling.ops.profile
from profiling.ops.command import main
from profiling.ops.lifetimes import ARENA, WORKSPACE, Timeline, Value
from profiling.ops.profile import Memory, OpProfile, TimedOp, profile
from profiling.ops.roles import FORWARD, TO_INPUT, TO_WEIGHT, Role
from profiling.ops.table import document, render
from signatures.build import inference_model
from signatures.errors import CapabilityError
from signatures.graph import Op
from signatures.layers import find_layers
from signatures.memory import Footprint
from signatures.micro_batches import suffix_model
from signatures.subset import Subset
from signatures.tflite_io import read_model, write_model
from tests.end_to_end import tiny

BATCH = 4


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("profiling.ops.times.SECONDS", 0.001)
        patch.setattr("profiling.ops.times.LARGE", (64, 64, 64))
        yield


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = tiny.source().graph
    path = tmp_path_factory.mktemp("model") / "train.tflite"
    write_model(suffix_model(network, Subset(find_layers(network)), BATCH, BATCH), path)
    return path


@pytest.fixture(scope="module")
def inference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.tflite"
    write_model(inference_model(tiny.source().graph), path)
    return path


@pytest.fixture(scope="module")
def measured(path: Path) -> OpProfile:
    return profile(path, "gradients", timed_alone=False)


def test_every_op_is_timed_inside_the_runtime(path: Path, measured: OpProfile) -> None:
    assert "inside ai-edge-litert" in measured.how
    graph = read_model(path).graphs[0]
    assert sorted(op.name for op in measured.ops) == sorted(op.output.name for op in graph.ops)
    assert all(op.seconds is not None for op in measured.ops)
    assert sum(op.seconds or 0 for op in measured.ops) > 0
    forward = sum(op.flops for op in measured.ops if op.stage == FORWARD)
    assert forward == 2 * BATCH * sum(layer.macs for layer in find_layers(tiny.source().graph))


def test_what_is_measured_is_near_what_is_predicted(measured: OpProfile) -> None:
    assert measured.memory.measured_bytes > 1 << 20  # a loaded runtime takes some
    assert 0.5 < measured.memory.predicted_bytes / measured.memory.measured_bytes < 3
    packing = [op for op in measured.ops if op.packed_bytes]
    assert sum(op.packed_bytes for op in packing) == measured.memory.predicted.packed_bytes
    assert all(op.in_xnnpack for op in packing)


def test_ops_are_timed_alone_where_the_runtime_cannot_tell(
    inference: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cannot(*_: object) -> None:
        raise CapabilityError("no profiler")

    monkeypatch.setattr(profiling.ops.profile, "inside", cannot)
    found = profile(inference, "infer", timed_alone=False)
    assert "no profiler: each op is timed alone instead" in capsys.readouterr().err
    assert "alone" in found.how
    assert len(found.ops) == len(read_model(inference).graphs[0].ops)
    assert all(op.seconds is not None and op.seconds > 0 for op in found.ops)


def test_the_document_is_json_and_adds_up(measured: OpProfile) -> None:
    found: dict[str, Any] = json.loads(json.dumps(document("tiny", measured)))
    assert len(found["ops"]) == len(found["live_bytes"]["arena"]) == found["parts"][-1]["end"]
    at_peak = [v["n_bytes"] for v in found["values"] if v["born"] <= found["peak_step"] <= v["dies"]]
    totals = [sum(both) for both in zip(*found["live_bytes"].values(), strict=True)]
    assert sum(at_peak) == totals[found["peak_step"]] == max(totals)


def made_up() -> OpProfile:
    """Two layers, four ops: 8 ms of 10 ms a call."""
    ops = (
        TimedOp("a", "CONV_2D", "a", FORWARD, "s → t", True, 2_000_000, 0.003, 1024),
        TimedOp("b", "CONV_2D", "b", FORWARD, "s → t", True, 2_000_000, 0.001, 1024),
        TimedOp("c", "BATCH_MATMUL", "b", TO_INPUT, "u → v", False, 4_000_000, 0.003, 0),
        TimedOp("d", "SUM", "b", TO_WEIGHT, "v → w", True, 0, 0.001, 0),
    )
    values = (
        Value(("x",), (4, 4), 3 << 20, ARENA, 0, 0, 3, None, 0, "argument", ""),
        Value(("c", "d"), (4,), 1 << 20, WORKSPACE, 0, 2, 3, 2, 3, TO_INPUT, "b"),
    )
    roles = tuple(Role(op.layer, op.stage) for op in ops)
    lived = Timeline(tuple(Op(op.kind, (), ()) for op in ops), roles, ((0, 4, True),), values)
    memory = Memory(Footprint(3 << 20, 1 << 20, 0, 2048, 0, 0, 0, 1 << 20, 0, 5 << 20), 0, 6 << 20)
    return OpProfile("a runtime", ops, "a clock", 0.01, 4e9, memory, lived)


def test_the_tables() -> None:
    found = made_up()
    assert found.limit_s == pytest.approx(0.002)
    lines = [line.split() for line in render(found).splitlines()]
    assert ["b", "1.00", "3.00", "1.00", "5.00", "62.5%", "0.006", "1"] in lines
    assert ["a", "3.00", "3.00", "37.5%", "0.002", "1"] in lines
    assert ["all", "4.00", "3.00", "1.00", "8.00", "100.0%", "0.008", "1"] in lines
    assert ["CONV_2D", "XNNPACK", "2", "4.00", "50.0%", "0.004", "1"] in lines
    assert ["BATCH_MATMUL", "builtin", "1", "3.00", "37.5%", "0.004", "1"] in lines
    text = render(found)
    assert "arithmetic limit 2.00 ms" in text
    assert "a call takes 5.0 times as long" in text
    assert "measured in a fresh process 6.00; predicted : measured 1.50" in text
    assert "4.00 MiB in 2 values, at step 2 of 4: BATCH_MATMUL, gradient of input of b" in text
    assert ["c", "1", "1.00", "25.0%", "2", "3"] in [line[:6] for line in lines]


def test_the_command_profiles_a_bundle_and_draws(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "pictures"
    asked = [str(bundle), "--layers", "b_project,last", "--micro-batch", "2", "--json", "--out", str(out)]
    assert main(asked) == 0
    found = json.loads(capsys.readouterr().out)
    assert "micro-batches of 2 of a batch of 32; training b_project, last, head" in found["title"]
    assert {op["layer"] for op in found["ops"] if op["stage"] == TO_WEIGHT} == {"b_project", "last", "head"}
    header = (out / "lifetimes.png").read_bytes()[:24]
    assert struct.unpack(">8sI4sII", header)[3] == 1600
    assert (out / "lifetimes.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["{bundle}"], 2, "--layers or --like"),
        (["{bundle}", "infer", "--layers", "last"], 2, "--layers or --like"),
        (["{bundle}", "--layers", "last", "--micro-batch", "5"], 2, "micro-batches of 5"),
        (["{bundle}", "--layers", "nope"], 3, "nope"),
        (["{bundle}", "--like", "{bundle}"], 3, "no finished run"),
        (["{model}", "--layers", "last"], 2, "take a bundle"),
        (["{model}", "train"], 3, "no signature 'train'"),
        (["{bundle}/model.tflite"], 2, "infer, activations, gram"),
        (["{model}.not"], 3, "model.tflite.not"),
        (["{model}", "--out", "{model}/pictures"], 7, "cannot make"),
    ],
)
def test_what_makes_no_sense_is_told_before_anything_is_measured(
    bundle: Path, inference: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, why: str
) -> None:
    assert main([word.format(bundle=bundle, model=inference) for word in arguments]) == code
    assert why in capsys.readouterr().err
