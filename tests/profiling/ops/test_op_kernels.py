"""Which op a kernel belongs to: by hand, and with what the runtime reports of whole train graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from profiling.ops.kernels import seconds_of
from profiling.ops.litert_profiler import Kernel, kernels
from signatures.build import inference_model
from signatures.builder import RELU6, GraphBuilder
from signatures.channels import with_channels
from signatures.errors import CapabilityError
from signatures.graph import Graph
from signatures.layers import find_layers
from signatures.micro_batches import suffix_model
from signatures.subset import Subset, subset_of
from signatures.tflite_io import read_model, write_model
from signatures.xnnpack import LITERT, parts
from tests.end_to_end import tiny
from tests.signatures import branching


def network() -> Graph:
    """PAD and CONV_2D in one, RESHAPE, an ADD that fuses an activation, SIGN, which is not XNNPACK's, and RELU6."""
    b = GraphBuilder("kernels")
    x = b.input("x", (1, 4, 4, 3))
    weights = b.const(np.ones((2, 3, 3, 3), np.float32), "weights")
    rows = b.reshape(b.conv_2d(b.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]), weights, None), (16, 2))
    return b.graph([b.unary("RELU6", b.unary("SIGN", b.add(rows, rows, RELU6)))])


GRAPH = network()
RAN = (
    Kernel("Convolution (NHWC, F32) IGEMM", None, 0, 4.0),
    Kernel("Add (ND)", None, 0, 2.0),
    Kernel("Clamp (NC)", None, 0, 1.0),
    Kernel("SIGN", 4, None, 8.0),
    Kernel("Clamp (NC)", None, 1, 16.0),
)


def test_every_kernel_goes_to_its_op() -> None:
    seconds = seconds_of(GRAPH, parts(GRAPH, LITERT), RAN)
    assert [(op.kind, seconds[op]) for op in GRAPH.ops] == [
        ("PAD", 0.0), ("CONV_2D", 4.0), ("RESHAPE", 0.0), ("ADD", 3.0), ("SIGN", 8.0), ("RELU6", 16.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ran", "why"),
    [
        (RAN[1:], "Add .* where CONV_2D was expected"),
        (RAN[:1] + RAN[3:], "ran no ADD"),
        ((*RAN, RAN[-1]), "behind the last op"),
        (RAN[:-1], "1 parts, 2 were expected"),
        ((*RAN[:3], Kernel("CONV_2D", 1, None, 1.0), *RAN[3:]), "by itself"),
        ((*RAN[:3], Kernel("Delegate", 17, None, 1.0), *RAN[3:]), "by itself"),
    ],
)
def test_kernels_that_are_not_those_of_the_graph_are_refused(ran: tuple[Kernel, ...], why: str) -> None:
    with pytest.raises(CapabilityError, match=why):
        seconds_of(GRAPH, parts(GRAPH, LITERT), ran)


def test_the_runtime_runs_what_was_expected(tmp_path: Path) -> None:
    """XNNPACK gets what `signatures.xnnpack` says, and all that it runs has its op."""
    tiny_network, every_block = tiny.source().graph, branching.network(tuple(branching.BLOCKS))
    some = with_channels(tiny_network, {"a_project": (1, 4), "b_depthwise": (0, 7)})
    models = {
        "all": suffix_model(tiny_network, Subset(find_layers(tiny_network)), 2, 4),
        "blocks": suffix_model(every_block, Subset(find_layers(every_block)), 2, 4),
        "channels": suffix_model(some, subset_of(find_layers(some), {"a_project", "b_depthwise", "head"}), 2, 4),
    }
    for name, model in models.items():
        path = tmp_path / f"{name}.tflite"
        write_model(model, path)
        graph = read_model(path).graphs[0]
        plan, ran = parts(graph, LITERT), kernels(path, "gradients")
        by_builtin = {i for i, op in enumerate(graph.ops) if any(op in p.ops for p in plan if not p.delegated)}
        assert {kernel.op for kernel in ran} - {None} == by_builtin
        assert all(graph.ops[kernel.op].kind == kernel.name for kernel in ran if kernel.op is not None)
        seconds = seconds_of(graph, plan, ran)
        assert set(seconds) == set(graph.ops)
        assert sum(seconds.values()) == pytest.approx(sum(kernel.seconds for kernel in ran))


def test_a_runtime_that_cannot_tell_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.tflite"
    write_model(inference_model(tiny.source().graph), path)
    with pytest.raises(CapabilityError, match="does not work here: the runtime finds no signature 'nope'"):
        kernels(path, "nope")
    (tmp_path / "ai_edge_litert").mkdir()
    (tmp_path / "ai_edge_litert" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(CapabilityError, match="no ai-edge-litert with a libLiteRt"):
        kernels(path, "infer")
