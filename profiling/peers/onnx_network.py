"""`python -m profiling.peers.onnx_network FOLDER`: the problem in FOLDER as a training model of ONNX Runtime."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from profiling.peers.nchw import AXES, NO_ZEROS, Sides, constant, strides_of, zeros_of_convolution, zeros_of_pad
from profiling.peers.problem import Problem, read_network, read_problem
from signatures.errors import InputError
from signatures.graph import Graph, Op, Tensor
from signatures.layers import find_layers
from signatures.subset import Subset, subset_of

_OPSET, _IR = 17, 9
"""What ONNX Runtime 1.19 reads."""
_ACTIVATIONS = {1: ("Relu", ()), 3: ("Clip", ("zero", "six"))}
"""ReLU and ReLU6, the latter with the constants that bound it."""


def write_training_model(problem: Problem, folder: Path) -> None:
    """Write the model that computes the mean cross-entropy and its gradient, and the weights as a checkpoint."""
    from onnxruntime.training import artifacts

    graph = read_network(problem)
    subset = subset_of(find_layers(graph), problem.layers)
    artifacts.generate_artifacts(
        onnx_model(graph, subset, problem.batch),
        requires_grad=[parameter.name for parameter in subset.parameters()],
        loss=artifacts.LossType.CrossEntropyLoss,
        artifact_directory=folder,
    )


def onnx_model(graph: Graph, subset: Subset, batch: int) -> onnx.ModelProto:
    """A Graph as ONNX, float32, for a fixed batch: x [batch, C, H, W] → logits. What `subset` trains keeps its name."""
    _, height, width, channels = graph.inputs[0].shape
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, channels, height, width])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, graph.outputs[0].shape[-1]])
    names = {parameter.slot: parameter.name for parameter in subset.parameters()}
    nodes: list[onnx.NodeProto] = []
    initializers = [numpy_helper.from_array(np.float32(value), name) for name, value in (("zero", 0), ("six", 6))]
    values: dict[Tensor, str] = {graph.inputs[0]: "x"}
    pads: dict[Tensor, Sides] = {}
    for index, op in enumerate(graph.ops):
        if op.kind == "PAD":  # left to the convolution that reads it
            values[op.output], pads[op.output] = values[op.input(0)], zeros_of_pad(op)
            continue
        inputs = []
        for slot, tensor in enumerate(op.inputs):
            if tensor is not None and tensor.data is not None and tensor.dtype == "float32":
                inputs.append(names.get((index, slot), f"constant {index} {slot}"))
                initializers.append(numpy_helper.from_array(constant(op, slot), inputs[-1]))
            elif tensor in values:
                inputs.append(values[tensor])
        last = op.output is graph.outputs[0]
        values[op.output] = "logits" if last else f"value {index}"
        nodes += _nodes(op, inputs, values[op.output], pads.get(op.input(0), NO_ZEROS))
    model = helper.make_model(
        helper.make_graph(nodes, "network", [x], [logits], initializers),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
    )
    onnx.checker.check_model(model)
    return model


def _nodes(op: Op, inputs: list[str], output: str, pads: Sides) -> list[onnx.NodeProto]:
    """What `op` is in ONNX, activation included."""
    activation = op.options.integer("FusedActivationFunction")
    if not activation:
        return [_node(op, inputs, output, pads)]
    if activation not in _ACTIVATIONS:
        raise InputError(f"{op.kind} that makes {op.output.name!r} has an activation that is not translated")
    name, limits = _ACTIVATIONS[activation]
    return [
        _node(op, inputs, f"{output} before", pads),
        helper.make_node(name, [f"{output} before", *limits], [output]),
    ]


def _node(op: Op, inputs: list[str], output: str, pads: Sides) -> onnx.NodeProto:
    """What `op` is before its activation."""
    if any(pads) and "CONV_2D" not in op.kind:
        raise InputError(f"PAD before {op.kind}, which makes {op.output.name!r}: not translated to ONNX")
    match op.kind:
        case "CONV_2D" | "DEPTHWISE_CONV_2D":
            left, right, top, bottom = zeros_of_convolution(op, pads)
            groups = op.input(0).shape[3] if op.kind == "DEPTHWISE_CONV_2D" else 1
            zeros, strides = [top, left, bottom, right], strides_of(op)
            return helper.make_node("Conv", inputs, [output], pads=zeros, strides=strides, group=groups)
        case "FULLY_CONNECTED":
            return helper.make_node("Gemm", inputs, [output], transB=1)
        case "ADD":
            return helper.make_node("Add", inputs, [output])
        case "MEAN" if len(op.input(0).shape) == 4:
            axes = [AXES[int(axis)] for axis in np.ravel(np.asarray(op.input(1).data))]
            return helper.make_node("ReduceMean", inputs, [output], axes=axes, keepdims=op.options.flag("KeepDims"))
        case "RESHAPE" if len(op.input(0).shape) == 2:
            return helper.make_node("Identity", inputs, [output])
    raise InputError(f"{op.kind} is not translated to ONNX: the benchmark knows the ops of MobileNetV2")


if __name__ == "__main__":
    write_training_model(read_problem(Path(sys.argv[1])), Path(sys.argv[1]))
