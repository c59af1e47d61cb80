"""ONNX Runtime's on-device training: the same network as ONNX, its training model, and the C++ classes that run it.

The training model is made beforehand by a process of its own, as ONNX Runtime means it: `onnxruntime.training` imports
PyTorch, which the measured process does without. `onnxruntime.training.api`, which wraps the classes used here, imports
it too. There is no SGD with momentum, so the optimizer is ours, in NumPy.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
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

sys.modules["torch"] = None  # type: ignore[assignment]  # ONNX Runtime imports it where it is, and needs it for nothing here
import onnxruntime  # noqa: E402
from onnxruntime.capi import _pybind_state as runtime  # noqa: E402

TRAINING_MODEL, CHECKPOINT = "training_model.onnx", "checkpoint"
"""Files that `onnxruntime.training.artifacts` writes."""


def measure(problem: Problem, folder: Path) -> Measurement:
    """The network of the bundle, op by op; the training model goes into `folder`."""
    split, base_bytes = read_images(folder), read_resident().resident_bytes
    output_of("making ONNX Runtime's training model", "-m", "profiling.peers.onnx_network", folder)
    note = "optimizer in NumPy, as ours"
    step = training_step(problem, folder)
    return measure_steps(f"ONNX Runtime {onnxruntime.__version__}", problem, split, base_bytes, step, note)


def training_step(problem: Problem, folder: Path) -> Step:
    """SGD with momentum on the clipped gradient that the training model in `folder` computes."""
    graph = read_network(problem)
    subset = subset_of(find_layers(graph), problem.layers)
    weights = {p.name: constant(graph.ops[p.slot[0]], p.slot[1]) for p in subset.parameters()}
    trainee = Trainee(OPTIMIZER, weights, subset)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = problem.threads
    device = runtime.OrtDevice(runtime.OrtDevice.cpu(), runtime.OrtDevice.default_memory(), 0)
    state = runtime.load_checkpoint(str(folder / CHECKPOINT))
    module = runtime.Module(str(folder / TRAINING_MODEL), state, None, device, options)

    def step(images: NDArray[np.uint8], labels: NDArray[np.int32], rate: float) -> float:
        x = np.ascontiguousarray(to_input(images, problem.preprocessing).transpose(0, 3, 1, 2))
        fetched = runtime.OrtValueVector()
        module.train_step([x, labels.astype(np.int64)], fetched)
        trainee.add({name: state.get_parameter(name).grad.numpy() for name in weights})
        trainee.step(rate)
        module.lazy_reset_grad()
        for name, value in trainee.weights.items():
            state.copy_parameter_from(name, onnxruntime.OrtValue.ortvalue_from_numpy(value)._ortvalue)
        return float(fetched[0].numpy())

    return step
