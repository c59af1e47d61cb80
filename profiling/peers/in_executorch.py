"""ExecuTorch: the network of `in_pytorch` as a program of loss and gradients, run by its training module.

The program is exported beforehand by a process of its own, as for a device. ExecuTorch's SGD has one learning rate for
the whole training, so the optimizer is ours, in NumPy.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from executorch.extension.training import _load_for_executorch_for_training
from numpy.typing import NDArray

from ondevice.dataset import to_input
from ondevice.meter import read_resident
from ondevice.optimizer import Trainee
from profiling.peers.measurement import Measurement, Step, measure_steps
from profiling.peers.nchw import constant
from profiling.peers.problem import OPTIMIZER, Problem, read_images, read_network
from profiling.processes import output_of
from signatures.layers import find_layers
from signatures.subset import subset_of

PROGRAM = "train.pte"
STEPS = 6
"""Not more: enough to compare the losses of and to time, and each takes a minute and more at 224²."""


def measure(problem: Problem, folder: Path) -> Measurement:
    """The network of the bundle, op by op; the program goes into `folder`."""
    torch.set_num_threads(problem.threads)
    split, base_bytes = read_images(folder), read_resident().resident_bytes
    output_of("exporting ExecuTorch's program", "-m", "profiling.peers.executorch_program", folder)
    note = "portable kernels; optimizer in NumPy, as ours"
    step = training_step(problem, folder / PROGRAM)
    return measure_steps(f"ExecuTorch {version('executorch')}", problem, split, base_bytes, step, note, STEPS)


def training_step(problem: Problem, path: Path) -> Step:
    """SGD with momentum on the clipped gradient that the program at `path` computes."""
    module = _load_for_executorch_for_training(str(path))
    graph = read_network(problem)
    subset = subset_of(find_layers(graph), problem.layers)
    weights = {p.name: constant(graph.ops[p.slot[0]], p.slot[1]) for p in subset.parameters()}
    trainee = Trainee(OPTIMIZER, weights, subset)

    def step(images: NDArray[np.uint8], labels: NDArray[np.int32], rate: float) -> float:
        x = torch.from_numpy(np.ascontiguousarray(to_input(images, problem.preprocessing).transpose(0, 3, 1, 2)))
        (loss,) = module.forward_backward("forward", (x, torch.from_numpy(labels).long()))
        gradients = (gradient.numpy() for gradient in module.named_gradients().values())
        trainee.add(dict(zip(weights, gradients, strict=True)))
        trainee.step(rate)
        for parameter, value in zip(module.named_parameters().values(), trainee.weights.values(), strict=True):
            parameter.copy_(torch.from_numpy(value))
        return float(loss)

    return step
