"""`python -m profiling.peers.executorch_program FOLDER`: the problem in FOLDER as a program of loss and gradients."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from executorch.exir import EdgeCompileConfig, to_edge
from torch.export import export
from torch.export.experimental import _export_forward_backward

from profiling.peers.in_pytorch import Network
from profiling.peers.problem import Problem, read_network, read_problem
from signatures.layers import find_layers
from signatures.subset import subset_of


class Loss(torch.nn.Module):  # type: ignore[misc]  # of no type where PyTorch is not installed
    """Mean cross-entropy of a network."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """x float32 [batch, C, H, W], labels int64 [batch] → scalar."""
        return F.cross_entropy(self.network.logits(x), labels)


def write_program(problem: Problem, path: Path) -> None:
    """Export loss and gradients for the problem's batch. Backend: ExecuTorch's own kernels."""
    graph = read_network(problem)
    network = Network(graph, subset_of(find_layers(graph), problem.layers))
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)  # no mix of layouts
    x = torch.zeros(problem.batch, 3, problem.image, problem.image)
    labels = torch.zeros(problem.batch, dtype=torch.long)
    joint = _export_forward_backward(export(Loss(network), (x, labels)))
    program = to_edge(joint, compile_config=EdgeCompileConfig(_check_ir_validity=False)).to_executorch()
    path.write_bytes(program.buffer)


if __name__ == "__main__":
    write_program(read_problem(Path(sys.argv[1])), Path(sys.argv[1]) / "train.pte")
