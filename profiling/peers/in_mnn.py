"""MNN: the gradient graph that `MNN.optim` makes of the same network, saved and loaded as for a device.

Its Express API turns a network into a graph of values and gradients; the file of that graph is run by an ordinary
module, which plans its memory once. Filters that train are inputs of it, for a graph in a file cannot change its own
constants but by `save_graph`, whose loop has no place for a clipped gradient. So the optimizer is ours, in NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import MNN
import MNN.expr as F  # noqa: N812
import numpy as np
from MNN import nn, optim
from numpy.typing import NDArray

from ondevice.dataset import to_input
from ondevice.meter import read_resident
from ondevice.optimizer import Trainee
from profiling.peers.measurement import Measurement, Step, measure_steps
from profiling.peers.nchw import AXES, NO_ZEROS, Sides, constant, same, strides_of, zeros_of_convolution, zeros_of_pad
from profiling.peers.problem import OPTIMIZER, Problem, read_images, read_network
from signatures.errors import InputError
from signatures.graph import Array, Graph, Op, Tensor
from signatures.layers import find_layers
from signatures.subset import Subset, subset_of

_ACTIVATIONS: dict[int, Callable[[F.Var], F.Var]] = {0: lambda x: x, 1: F.relu, 3: F.relu6}


def measure(problem: Problem, folder: Path) -> Measurement:
    """The network of the bundle, op by op; the graph goes into `folder`."""
    split, base_bytes = read_images(folder), read_resident().resident_bytes
    graph = read_network(problem)
    network = Network(graph, subset_of(find_layers(graph), problem.layers), problem.batch)
    network.save(folder / "train.mnn")
    step = training_step(network, folder / "train.mnn", problem)
    return measure_steps(f"MNN {MNN.version()}", problem, split, base_bytes, step, "optimizer in NumPy, as ours")


def training_step(network: Network, path: Path, problem: Problem) -> Step:
    """SGD with momentum on the clipped gradient that the file at `path` computes."""
    names = list(network.weights)
    module = nn.load_module_from_file(
        str(path), ["x", "target", *names], ["probabilities", *map(_gradient, names)], thread_num=problem.threads
    )
    trainee = Trainee(OPTIMIZER, network.weights, network.subset)
    targets = np.eye(problem.classes, dtype=np.float32)

    def step(images: NDArray[np.uint8], labels: NDArray[np.int32], rate: float) -> float:
        x = _constant(to_input(images, problem.preprocessing), F.NHWC)
        inputs = [x, _constant(targets[labels]), *map(_constant, trainee.weights.values())]
        probabilities, *gradients = (value.read() for value in module.forward(inputs))
        trainee.add(dict(zip(names, gradients, strict=True)))
        trainee.step(rate)
        return float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())

    return step


class Network:
    """A Graph in MNN's ops and layouts, float32, for a fixed batch. `weights`, by name, are those of `subset`."""

    def __init__(self, graph: Graph, subset: Subset, batch: int) -> None:
        F.lazy_eval(True)
        self.subset = subset
        self.weights: dict[str, Array] = {}
        self._graph = graph
        names = {parameter.slot: parameter.name for parameter in subset.parameters()}
        first = min(op for op, _ in names)
        self._inputs: dict[tuple[int, int], F.Var] = {}
        for index, op in enumerate(graph.ops):
            for slot, tensor in enumerate(op.inputs):
                if tensor is None or tensor.data is None or tensor.dtype != "float32":
                    continue
                value = _in_layout(op, slot)
                if (index, slot) in names:
                    self.weights[names[index, slot]] = value
                    variable = _placeholder(names[index, slot], value.shape)
                else:
                    variable = _constant(value)
                    if index > first:  # a gradient passes only convolutions whose filters are inputs
                        variable.fix_as_trainable()
                self._inputs[index, slot] = variable
        self._x = _placeholder("x", (batch, *graph.inputs[0].shape[1:]), F.NHWC)
        self.logits = self._logits()

    def save(self, path: Path) -> None:
        """Write the graph that computes the probabilities and the gradient of the mean cross-entropy."""
        target = _placeholder("target", tuple(self.logits.shape))
        probabilities = F.softmax(self.logits, 1)
        towards_logits = (probabilities - target) * F.scalar(1.0 / target.shape[0])
        trained = {variable.name: variable for variable in self._inputs.values() if variable.name in self.weights}
        found, gradients = optim.Grad().grad([self.logits], [towards_logits], [trained[name] for name in self.weights])
        if missing := self.weights.keys() - {variable.name for variable in found}:  # which MNN leaves out silently
            raise InputError(f"MNN passes no gradient to {', '.join(sorted(missing))}")
        probabilities.name = "probabilities"
        for name, gradient in zip(self.weights, gradients, strict=True):
            gradient.name = _gradient(name)
        F.save([probabilities, *gradients], str(path))

    def _logits(self) -> F.Var:
        """[batch, classes]."""
        values: dict[Tensor, F.Var] = {self._graph.inputs[0]: F.convert(self._x, F.NC4HW4)}
        pads: dict[Tensor, Sides] = {}
        for index, op in enumerate(self._graph.ops):
            if op.kind == "PAD":  # left to the convolution that reads it
                values[op.output], pads[op.output] = values[op.input(0)], zeros_of_pad(op)
                continue
            weights = [self._inputs.get((index, slot)) for slot in range(len(op.inputs))]
            inputs = [
                values.get(tensor) if weight is None and tensor else weight
                for weight, tensor in zip(weights, op.inputs, strict=True)
            ]
            activation = _ACTIVATIONS.get(op.options.integer("FusedActivationFunction"))
            if activation is None:
                raise InputError(f"{op.kind} that makes {op.output.name!r} has an activation that is not translated")
            values[op.output] = activation(_result(op, inputs, pads.get(op.input(0), NO_ZEROS)))
        logits = F.convert(values[self._graph.outputs[0]], F.NCHW)
        return F.reshape(logits, [self._x.shape[0], -1])


def _in_layout(op: Op, slot: int) -> Array:
    """Filters as [out, in, height, width]; a dense layer is a convolution of one pixel."""
    value = constant(op, slot)
    return value[:, :, None, None] if op.kind == "FULLY_CONNECTED" and slot == 1 else value


def _result(op: Op, inputs: list[F.Var], pads: Sides) -> F.Var:
    """What `op` makes before its activation; values have four axes, in MNN's own layout."""
    x = inputs[0]
    if any(pads) and "CONV_2D" not in op.kind:
        raise InputError(f"PAD before {op.kind}, which makes {op.output.name!r}: not translated to MNN")
    match op.kind:
        case "CONV_2D" | "DEPTHWISE_CONV_2D":
            groups = op.input(0).shape[3] if op.kind == "DEPTHWISE_CONV_2D" else 1
            mode, zeros = _padding(op, pads)
            return F.conv2d(x, inputs[1], inputs[2], strides_of(op)[::-1], zeros, (1, 1), groups, mode)
        case "FULLY_CONNECTED":
            return F.conv2d(x, inputs[1], inputs[2])
        case "ADD":
            return x + inputs[1]
        case "MEAN" if _is_global(op):
            _, height, width, _ = op.input(0).shape
            return F.avg_pool(x, (width, height), (1, 1))
        case "RESHAPE" if len(op.input(0).shape) == 2:
            return x
    raise InputError(f"{op.kind} is not translated to MNN: the benchmark knows the ops of MobileNetV2")


def _is_global(op: Op) -> bool:
    axes = np.ravel(np.asarray(op.input(1).data)).tolist()
    return len(op.input(0).shape) == 4 and sorted(AXES[axis] for axis in axes) == [2, 3]


def _padding(op: Op, pads: Sides) -> tuple[F.Padding_Mode, tuple[int, int]]:
    """MNN's mode, and zeros at each side of width and height: its Python knows no other at the one side than the
    other, but for those of SAME.
    """
    zeros = zeros_of_convolution(op, pads)
    if zeros == same(op, pads):
        return F.Padding_Mode.SAME, (0, 0)
    left, right, top, bottom = zeros
    if left != right or top != bottom:
        raise InputError(f"the zeros {zeros} around the input of {op.output.name!r} are not translated to MNN")
    return F.Padding_Mode.CAFFE, (left, top)


def _gradient(name: str) -> str:
    return f"gradient of {name}"


def _placeholder(name: str, shape: tuple[int, ...], layout: F.data_format = F.NCHW) -> F.Var:
    variable = F.placeholder(list(shape), layout, F.float)
    variable.name = name
    return variable


def _constant(value: Array, layout: F.data_format = F.NCHW) -> F.Var:
    value = np.ascontiguousarray(value, np.float32)
    return F.const(value, list(value.shape), layout, F.float)
