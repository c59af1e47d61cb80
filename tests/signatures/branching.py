"""Small networks whose values are read in several places: residuals, branches, gates, tokens. Drawn by Hypothesis."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from hypothesis import strategies as st

from signatures.builder import RELU6, GraphBuilder
from signatures.graph import Graph, Options, Tensor
from signatures.layers import find_layers
from signatures.shapes import SAME

SIDE, CLASSES = 8, 3


class Sketch:
    """A builder, and weights drawn by a seed."""

    def __init__(self, seed: int) -> None:
        self.b = GraphBuilder(f"branching-{seed}")
        self.random = np.random.default_rng(seed)

    def weights(self, *shape: int) -> Tensor:
        scale = 1 / math.sqrt(math.prod(shape[1:]) if shape[0] > 1 else math.prod(shape[1:3]))
        return self.b.const(self.random.normal(0, scale, shape).astype(np.float32), "weights")

    def bias(self, length: int) -> Tensor:
        return self.b.const(self.random.normal(0, 0.3, length).astype(np.float32), "bias")

    def conv(self, x: Tensor, channels: int, window: int = 1, activation: int = 0, stride: int = 1) -> Tensor:
        filters = self.weights(channels, window, window, x.shape[3])
        fields = {"Padding": SAME, "StrideH": stride, "StrideW": stride, "FusedActivationFunction": activation}
        return self.b.conv_2d(x, filters, self.bias(channels), **fields)

    def dense(self, x: Tensor, units: int) -> Tensor:
        return self.b.fully_connected(x, self.weights(units, x.shape[-1]), self.bias(units))


def plain(s: Sketch, x: Tensor) -> Tensor:
    return s.conv(x, 5, activation=RELU6)


def strided(s: Sketch, x: Tensor) -> Tensor:
    return s.conv(x, 6, 3, RELU6, stride=2)


def depthwise(s: Sketch, x: Tensor) -> Tensor:
    channels = x.shape[3]
    return s.b.depthwise_conv_2d(x, s.weights(1, 3, 3, channels), s.bias(channels), Padding=SAME)


def residual(s: Sketch, x: Tensor) -> Tensor:
    """x goes past two layers."""
    return s.b.add(s.conv(s.conv(x, 7, activation=RELU6), x.shape[3]), x)


def gate(s: Sketch, x: Tensor) -> Tensor:
    """Squeeze and excite: x goes past two layers, and is multiplied by what they make of its mean."""
    squeezed = s.conv(s.conv(s.b.mean(x, [1, 2], keep=True), 2, activation=RELU6), x.shape[3])
    return s.b.mul(x, s.b.unary("LOGISTIC", squeezed))


def branches(s: Sketch, x: Tensor) -> Tensor:
    """Two layers that do not need each other: the second is frozen where the first trains, and comes after it."""
    return s.b.concat([s.conv(x, 2), s.conv(x, 3, 3)], axis=3)


def tokens(s: Sketch, x: Tensor) -> Tensor:
    """Pixels as rows, along whose axis the images lie, under a dense layer; added to the row of their mean."""
    channels = x.shape[3]
    rows = s.dense(s.b.reshape(x, (x.size // channels, channels)), channels)
    mean = s.b.mean(x, [1, 2], keep=True)
    return s.b.add(s.b.reshape(rows, x.shape), mean)


def attention(s: Sketch, x: Tensor) -> Tensor:
    """Products of two results, of which only one need depend on a trained layer. Keys are values too: a bias of keys
    alone would change no softmax.
    """
    pixels, channels = x.shape[1] * x.shape[2], x.shape[3]
    rows = s.b.reshape(x, (pixels, channels))
    q, k = (s.b.reshape(s.dense(rows, channels), (1, pixels, channels)) for _ in range(2))
    scores = s.b.scale(s.b.matmul(q, k, adj_y=True), 0.1)
    mixed = s.b.matmul(s.b.emit("SOFTMAX", (scores,), Options("SoftmaxOptions", {"Beta": 1.0})), k)
    return s.b.reshape(mixed, x.shape)


BLOCKS: Mapping[str, Callable[[Sketch, Tensor], Tensor]] = {
    block.__name__: block for block in (plain, strided, depthwise, residual, gate, branches, tokens, attention)
}


def network(blocks: Sequence[str], seed: int = 0) -> Graph:
    """A layer, the named blocks, the mean over pixels, and a head: [1, 8, 8, 3] to logits of 3 classes."""
    s = Sketch(seed)
    x = s.conv(s.b.input("x", (1, SIDE, SIDE, 3)), 4)
    for block in blocks:
        x = BLOCKS[block](s, x)
    return s.b.graph([s.dense(s.b.mean(x, [1, 2]), CLASSES)])


networks = st.builds(network, st.lists(st.sampled_from(tuple(BLOCKS)), max_size=4), st.integers(0, 99))
"""Any sequence of up to four blocks."""


@st.composite
def trained(draw: st.DrawFn, graphs: st.SearchStrategy[Graph] = networks) -> tuple[Graph, frozenset[str]]:
    """A network, and names of layers of it."""
    graph = draw(graphs)
    names = [layer.name for layer in find_layers(graph)]
    return graph, draw(st.frozensets(st.sampled_from(names), min_size=1))
