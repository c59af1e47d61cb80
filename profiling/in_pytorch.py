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
from profiling.measurement import Measurement, Step, measure_steps
from profiling.problem import OPTIMIZER, Problem, read_images, read_network
from signatures.errors import InputError
from signatures.graph import Graph, Op, Tensor
from signatures.layers import find_layers
from signatures.shapes import SAME
from signatures.subset import Subset, subset_of

_LAYOUT = {"CONV_2D": (0, 3, 1, 2), "DEPTHWISE_CONV_2D": (3, 0, 1, 2)}
"""Axes of TFLite's filters in PyTorch's order."""
_AXES = {0: 0, 1: 2, 2: 3, 3: 1}
"""Axis of NHWC → axis of NCHW."""
_ACTIVATIONS: dict[int, Callable[[torch.Tensor], torch.Tensor]] = {
    0: lambda x: x,
    1: lambda x: F.relu(x, inplace=True),
    3: lambda x: F.relu6(x, inplace=True),
}

Sides = tuple[int, int, int, int]
"""Zeros at left, right, top and bottom, in the order of torch.nn.functional.pad."""


def measure(problem: Problem, folder: Path) -> Measurement:
    """The network of the bundle, op by op."""
    torch.set_num_threads(problem.threads)
    split, base_bytes = read_images(folder), read_resident().resident_bytes
    graph = read_network(problem)
    network = Network(graph, subset_of(find_layers(graph), problem.layers))
    step = training_step(network, problem)
    return measure_steps(f"PyTorch {torch.__version__}", problem, split, base_bytes, step)


def training_step(network: Network, problem: Problem) -> Step:
    """SGD with momentum on the clipped gradient of `network.trained`, as `signatures.optimizers` has it."""
    optimizer = torch.optim.SGD(network.trained, lr=1.0, momentum=OPTIMIZER.momentum)
    scale, offset = (
        torch.tensor(values, dtype=torch.float32).reshape(1, 3, 1, 1)
        for values in (problem.preprocessing.scale, problem.preprocessing.offset)
    )

    def step(images: NDArray[np.uint8], labels: NDArray[np.int32], rate: float) -> float:
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() * scale + offset
        loss = F.cross_entropy(network.logits(x), torch.from_numpy(labels).long())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.trained, OPTIMIZER.clip_norm)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        return float(loss.detach())

    return step


class Network:
    """A Graph in PyTorch's functions and layouts, float32. `trained` are the parameters of `subset`."""

    def __init__(self, graph: Graph, subset: Subset) -> None:
        self._graph = graph
        self.trained: list[torch.Tensor] = []
        wanted = {p.slot for p in subset.parameters()}
        self._weights: dict[tuple[int, int], torch.Tensor] = {}
        for index, op in enumerate(graph.ops):
            for slot, tensor in enumerate(op.inputs):
                if tensor is None or tensor.data is None or tensor.dtype != "float32":
                    continue
                weight = torch.from_numpy(np.array(tensor.data).reshape(tensor.shape))
                if slot == 1 and op.kind in _LAYOUT:
                    weight = weight.permute(_LAYOUT[op.kind]).contiguous(memory_format=torch.channels_last)
                if (index, slot) in wanted:
                    self.trained.append(weight.requires_grad_())
                self._weights[index, slot] = weight

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of x [batch, C, H, W], channels last."""
        values: dict[Tensor, torch.Tensor] = {self._graph.inputs[0]: x}
        pads: dict[Tensor, Sides] = {}
        for index, op in enumerate(self._graph.ops):
            source = op.input(0)
            if op.kind == "PAD":  # left to the convolution that reads it, which pads at no cost where it can
                values[op.output], pads[op.output] = values[source], _pads(op)
                continue
            weights = [self._weights.get((index, slot)) for slot in range(len(op.inputs))]
            inputs = [
                values.get(tensor) if weight is None and tensor else weight
                for weight, tensor in zip(weights, op.inputs, strict=True)
            ]
            activation = _ACTIVATIONS.get(op.options.integer("FusedActivationFunction"))
            if activation is None:
                raise InputError(f"{op.kind} that makes {op.output.name!r} has an activation that is not translated")
            values[op.output] = activation(_result(op, inputs, pads.get(source, (0, 0, 0, 0))))
        return values[self._graph.outputs[0]]


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
            axes = [_AXES[int(axis)] for axis in np.ravel(np.asarray(op.input(1).data))]
            return x.mean(axes, keepdim=op.options.flag("KeepDims"))
        case "RESHAPE" if len(op.input(0).shape) == 2:
            return x.reshape(-1, *op.output.shape[1:])
    raise InputError(f"{op.kind} is not translated to PyTorch: the benchmark knows the ops of MobileNetV2")


def _convolution(op: Op, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, pads: Sides) -> torch.Tensor:
    groups = x.shape[1] if op.kind == "DEPTHWISE_CONV_2D" else 1
    if (groups > 1 and weight.shape[0] != groups) or op.options.integer("DilationWFactor", 1) != 1:
        raise InputError(f"the convolution {op.output.name!r} has a multiplier or dilation: not translated")
    strides = (op.options.integer("StrideH"), op.options.integer("StrideW"))
    if op.options.integer("Padding") == SAME:
        left, right = _same(op.input(0).shape[2], weight.shape[3], strides[1])
        top, bottom = _same(op.input(0).shape[1], weight.shape[2], strides[0])
        pads = (pads[0] + left, pads[1] + right, pads[2] + top, pads[3] + bottom)
    if pads[0] != pads[1] or pads[2] != pads[3]:
        x, pads = F.pad(x, pads), (0, 0, 0, 0)
    return F.conv2d(x, weight, bias, strides, (pads[2], pads[0]), groups=groups)


def _same(side: int, reach: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis: TFLite's SAME, which puts the odd one behind."""
    total = max(0, (-(-side // stride) - 1) * stride + reach - side)
    return total // 2, total - total // 2


def _pads(op: Op) -> Sides:
    """Zeros of a PAD of [1, H, W, C]."""
    amounts = op.input(1).data
    if amounts is None or amounts.size != 8 or amounts.reshape(4, 2)[[0, 3]].any():
        raise InputError(f"PAD that makes {op.output.name!r} is not one of height and width: not translated")
    (_, (top, bottom), (left, right), _) = amounts.reshape(4, 2).tolist()
    return left, right, top, bottom
