from __future__ import annotations

from pathlib import Path

import pytest

from profiling.op_profile import OpProfile, TimedOp, profile, render
from signatures.build import inference_model
from signatures.layers import find_layers
from signatures.tflite_io import read_model, write_model
from tests.end_to_end import tiny


def test_every_op_is_timed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("profiling.op_profile.SECONDS", 0.001)
    monkeypatch.setattr("profiling.op_profile.LARGE", (64, 64, 64))
    path = tmp_path / "model.tflite"
    write_model(inference_model(tiny.network(), 4), path)
    model = read_model(path)
    found = profile(model, "infer", path, tmp_path)
    graph = model.signature("infer").graph
    assert len(found.ops) + found.left_out == len(graph.ops)
    assert all(op.seconds > 0 for op in found.ops)
    assert found.flops == 2 * 4 * sum(layer.macs for layer in find_layers(tiny.network()))
    assert "DEPTHWISE_CONV_2D" in render(found)


def test_the_limit_and_the_shares() -> None:
    ops = (
        TimedOp("CONV_2D", "a", 3_000_000, 0.003),
        TimedOp("CONV_2D", "b", 1_000_000, 0.003),
        TimedOp("ADD", "c", 0, 0.002),
    )
    found = OpProfile(ops, 1, whole_s=0.01, large_rate=2e9)
    assert found.limit_s == pytest.approx(0.002)
    convolution, addition, total, whole, limit = render(found).splitlines()[1:6]
    assert convolution.split() == ["CONV_2D", "2", "6.00", "75.0%", "0.00", "1"]
    assert addition.split() == ["ADD", "1", "2.00", "25.0%", "0.00"]
    assert total.split()[-4:-2] == ["8.00", "100.0%"]
    assert whole.split()[-1] == "10.00"
    assert "2.0 ms; the signature takes 5.00 times as long" in limit
