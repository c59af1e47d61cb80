"""The layers of a network: weight ops with the numbers that selection needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from signatures.errors import InputError
from signatures.graph import Graph, Op

_KINDS = {"CONV_2D": "conv", "DEPTHWISE_CONV_2D": "depthwise", "FULLY_CONNECTED": "dense"}


@dataclass(frozen=True)
class Layer:
    """A weight op with its folded BatchNorm and bias. Called by the name of its output tensor."""

    name: str
    kind: str
    """conv, depthwise or dense."""
    op: int
    """Index of the op in its graph."""
    weight_shape: tuple[int, ...]
    bias_shape: tuple[int, ...] | None
    activation_size: int
    """Elements of the output for one image: |a| of the paper."""
    macs: int
    """Multiply-adds for one image."""

    @property
    def parameters(self) -> int:
        """Number of trainable values."""
        return math.prod(self.weight_shape) + (math.prod(self.bias_shape) if self.bias_shape else 0)


def find_layers(graph: Graph) -> tuple[Layer, ...]:
    """The layers of `graph` in execution order; a layer's weights are a float32 constant.

    Raises InputError if there are none or two have the same name.
    """
    layers = tuple(_layer(index, op) for index, op in enumerate(graph.ops) if _is_layer(op))
    if not layers:
        raise InputError(f"graph {graph.name!r} has no convolution or dense layer with constant float32 weights")
    names = [layer.name for layer in layers]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InputError(f"graph {graph.name!r} has several layers called {', '.join(twice)}")
    return layers


def head_of(layers: tuple[Layer, ...]) -> Layer:
    """The classifier: the last layer, which must be dense."""
    if layers[-1].kind != "dense":
        raise InputError(f"the last layer, {layers[-1].name!r}, is {layers[-1].kind}; expected a dense classifier")
    return layers[-1]


def _is_layer(op: Op) -> bool:
    weight = op.optional(1) if op.kind in _KINDS else None
    return weight is not None and weight.data is not None and weight.dtype == "float32"


def _layer(index: int, op: Op) -> Layer:
    weight, bias, y = op.input(1), op.optional(2), op.output
    per_image = math.prod(y.shape[1:])
    # Products per output element: the filter without its output channels.
    reach = math.prod(weight.shape[1:3]) if op.kind == "DEPTHWISE_CONV_2D" else math.prod(weight.shape[1:])
    return Layer(
        name=y.name,
        kind=_KINDS[op.kind],
        op=index,
        weight_shape=weight.shape,
        bias_shape=None if bias is None or bias.data is None else bias.shape,
        activation_size=per_image,
        macs=per_image * reach,
    )
