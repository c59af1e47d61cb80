"""The network that the benchmark gives to TensorFlow, against the interpreter; and its training against ours."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from profiling.peers.command import measured_by
from profiling.peers.comparison import AGREEMENT, disagreement
from profiling.peers.in_tensorflow import Network
from profiling.peers.problem import read_problem
from signatures.builder import GraphBuilder
from signatures.errors import CapabilityError, InputError
from signatures.graph import Array, Graph
from signatures.layers import find_layers
from signatures.subset import Subset


def test_it_computes_what_the_interpreter_does(graph: Graph, images: Array, logits: Array) -> None:
    layers = find_layers(graph)
    network = Network(graph, Subset(layers))
    assert [v.shape for v in network.variables[1::2]] == [layer.bias_shape for layer in layers]
    np.testing.assert_allclose(network.logits(images).numpy(), logits, atol=1e-4)


def test_an_op_that_is_not_translated_is_named() -> None:
    b = GraphBuilder("main")
    x = b.input("x", (1, 4, 4, 3))
    weights, bias = b.const(np.ones((2, 3), np.float32)), b.const(np.zeros(2, np.float32))
    graph = b.graph([b.fully_connected(b.mean(b.unary("TANH", x), [1, 2]), weights, bias)])
    with pytest.raises(InputError, match="TANH is not translated"):
        Network(graph, Subset(find_layers(graph))).logits(np.zeros((1, 4, 4, 3), np.float32))


def test_it_trains_as_we_do(folder: Path) -> None:
    problem = read_problem(folder)
    ours, theirs = (measured_by(sys.executable, framework, folder) for framework in ("ours", "tensorflow"))
    assert len(ours.step_s) == len(theirs.step_s) == (problem.epochs - 1) * problem.steps_an_epoch
    assert min(*ours.step_s, *theirs.step_s, ours.once_s) > 0
    assert 0 < ours.base_bytes < ours.peak_bytes
    assert disagreement(ours, theirs) < AGREEMENT
    assert max(ours.losses) > min(ours.losses)


def test_a_failure_says_why(tmp_path: Path) -> None:
    with pytest.raises(CapabilityError, match=r"problem\.json"):
        measured_by(sys.executable, "ours", tmp_path)
