"""The network that the benchmark gives to PyTorch, against the interpreter; and its training against ours.

`make test` has no PyTorch and skips these. They run in .venv-bench with pytest, hypothesis and ai-edge-litert.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from profiling.peers.command import measured_by
from profiling.peers.comparison import AGREEMENT, disagreement
from signatures.graph import Array, Graph
from signatures.layers import find_layers
from signatures.subset import Subset

torch = pytest.importorskip("torch")


def test_it_computes_what_the_interpreter_does(graph: Graph, images: Array, logits: Array) -> None:
    from profiling.peers.in_pytorch import Network

    network = Network(graph, Subset(find_layers(graph)))
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    np.testing.assert_allclose(network.logits(x).detach().numpy(), logits, atol=1e-4)


def test_it_trains_as_we_do(folder: Path) -> None:
    ours, theirs = (measured_by(sys.executable, framework, folder) for framework in ("ours", "pytorch"))
    assert disagreement(ours, theirs) < AGREEMENT
