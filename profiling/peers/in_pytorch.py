"""PyTorch on the CPU: the same network in torch.nn.functional, channels last, eager as it is usually run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray

from ondevice.meter import read_resident
from profiling.peers.measurement import Measurement, Step, measure_steps
from profiling.peers.nchw import AXES, FILTER_AXES, NO_ZEROS, Sides, strides_of, zeros_of_convolution, zeros_of_pad
from profiling.peers.problem import OPTIMIZER, Problem, read_images, read_network
from signatures.errors import InputError
from signatures.graph import Graph, Op, Tensor
from signatures.layers import find_layers
from signatures.subset import Subset, subset_of

_ACTIVATIONS: dict[int, Callable[[torch.Tensor], torch.Tensor]] = {
    0: lambda x: x,
    1: lambda x: F.relu(x, inplace=True),
    3: lambda x: F.relu6(x, inplace=True),
}


def measure(problem: Problem, folder: Path) -> Measurement:
    """The network of the bundle, op by op."""
    torch.set_num_threads(problem.threads)
    split, base_bytes = read_images(folder), read_resident().resident_bytes
    graph = read_network(problem)
    network = Network(graph, subset_of(find_layers(graph), problem.layers))
    step = training_step(network, problem)
    return measure_steps(f"PyTorch {torch.__version__}", problem, split, base_bytes, step)


def training_step(network: Network, problem: Problem) -> Step:
    """SGD with momentum on the clipped gradient of the parameters, as `signatures.optimizers` has it."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, momentum=OPTIMIZER.momentum)
    scale, offset = (
        torch.tensor(values, dtype=torch.float32).reshape(1, 3, 1, 1)
        for values in (problem.preprocessing.scale, problem.preprocessing.offset)
    )

    def step(images: NDArray[np.uint8], labels: NDArray[np.int32], rate: float) -> float:
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() * scale + offset
        loss = F.cross_entropy(network.logits(x), torch.from_numpy(labels).long())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), OPTIMIZER.clip_norm)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        return float(loss.detach())

    return step


class Network(torch.nn.Module):  # type: ignore[misc]  # of no type where PyTorch is not installed
    """A Graph in PyTorch's functions and layouts, float32. Its parameters are those of `subset`, in their order."""

    def __init__(self, graph: Graph, subset: Subset) -> None:
        super().__init__()
        self._graph = graph
        trained = {p.slot for p in subset.parameters()}
        for index, op in enumerate(graph.ops):
            for slot, tensor in enumerate(op.inputs):
                if tensor is None or tensor.data is None or tensor.dtype != "float32":
                    continue
                weight = torch.from_numpy(np.array(tensor.data).reshape(tensor.shape))
                if slot == 1 and op.kind in FILTER_AXES:
                    weight = weight.permute(FILTER_AXES[op.kind]).contiguous(memory_format=torch.channels_last)
                if (index, slot) in trained:
                    self.register_parameter(_name(index, slot), torch.nn.Parameter(weight))
                else:
                    self.register_buffer(_name(index, slot), weight)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of x [batch, C, H, W], channels last."""
        values: dict[Tensor, torch.Tensor] = {self._graph.inputs[0]: x}
        pads: dict[Tensor, Sides] = {}
        for index, op in enumerate(self._graph.ops):
            source = op.input(0)
            if op.kind == "PAD":  # left to the convolution that reads it, which pads at no cost where it can
                values[op.output], pads[op.output] = values[source], zeros_of_pad(op)
                continue
            weights = [getattr(self, _name(index, slot), None) for slot in range(len(op.inputs))]
            inputs = [
                values.get(tensor) if weight is None and tensor else weight
                for weight, tensor in zip(weights, op.inputs, strict=True)
            ]
            activation = _ACTIVATIONS.get(op.options.integer("FusedActivationFunction"))
            if activation is None:
                raise InputError(f"{op.kind} that makes {op.output.name!r} has an activation that is not translated")
            values[op.output] = activation(_result(op, inputs, pads.get(source, NO_ZEROS)))
        return values[self._graph.outputs[0]]


def _name(index: int, slot: int) -> str:
    return f"op_{index}_input_{slot}"


def _result(op: Op, inputs: Sequence[Any], pads: Sides) -> torch.Tensor:
    """What `op` makes before its activation."""
    x = inputs[0]
    if any(pads) and "CONV_2D" not in op.kind:
        x = F.pad(x, pads)
    match op.kind:
        case "CONV_2D" | "DEPTHWISE_CONV_2D":
            return _convolution(op, x, inputs[1], inputs[2], pads)
        case "FULLY_CONNECTED":
            return F.linear(x, inputs[1], inputs[2])
        case "ADD":
            return torch.add(x, inputs[1])
        case "MEAN" if len(op.input(0).shape) == 4:
            axes = [AXES[int(axis)] for axis in np.ravel(np.asarray(op.input(1).data))]
            return x.mean(axes, keepdim=op.options.flag("KeepDims"))
        case "RESHAPE" if len(op.input(0).shape) == 2:
            return x.reshape(-1, *op.output.shape[1:])
    raise InputError(f"{op.kind} is not translated to PyTorch: the benchmark knows the ops of MobileNetV2")


def _convolution(op: Op, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, pads: Sides) -> torch.Tensor:
    strides, zeros = strides_of(op), zeros_of_convolution(op, pads)
    if zeros[0] != zeros[1] or zeros[2] != zeros[3]:
        x, zeros = F.pad(x, zeros), NO_ZEROS
    groups = x.shape[1] if op.kind == "DEPTHWISE_CONV_2D" else 1
    return F.conv2d(x, weight, bias, strides, (zeros[2], zeros[0]), groups=groups)
