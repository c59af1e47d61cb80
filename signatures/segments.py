"""Segments: a network in stretches of its execution order, to be run one after the other.

What one segment makes for later ones is kept between them, a row an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from signatures.cut import can_cross, crossings, made_of
from signatures.graph import Graph, Tensor
from signatures.passes import without_dead_ops
from signatures.strips import Steps, row_steps


@dataclass(frozen=True, eq=False)
class Segment:
    """A stretch of a network, for one image."""

    graph: Graph
    """From what it reads of the segments before, or the network's input, to what later ones read."""
    probed: tuple[Tensor, ...]
    """The values in it that are probed."""
    n_bytes: Mapping[Tensor, int]
    """Of every tensor in it, and maybe of others."""

    @cached_property
    def steps(self) -> Steps | None:
        """Of its graph, if it can run in strips."""
        return row_steps(self.graph)

    @cached_property
    def weight_bytes(self) -> int:
        """Of its constants."""
        constants = {t for op in self.graph.ops for t in op.inputs if t is not None and t.data is not None}
        return sum(self.n_bytes[tensor] for tensor in constants)

    @property
    def wanted(self) -> tuple[Tensor, ...]:
        """Everything that is wanted from it: what is probed, then what later segments read. A value may be both."""
        return (*self.probed, *self.graph.outputs)


@dataclass(frozen=True, eq=False)
class Stretch:
    """A network, as far as some of its values need it, and the places where it can be parted."""

    graph: Graph
    probed: frozenset[Tensor]
    crossing: tuple[frozenset[Tensor], ...]
    """What crosses before each op, and at the end: nothing."""
    n_bytes: Mapping[Tensor, int]
    """Of every tensor."""
    places: tuple[int, ...]
    """Before which ops it can be parted, from 0 to the end: where all that crosses is float32 and made of the input."""

    def segment(self, first: int, end: int) -> Segment:
        """The ops from `first` to `end`."""
        ops = self.graph.ops[first:end]
        read = dict.fromkeys(t for op in ops for t in op.inputs if t in self.crossing[first])
        inputs = tuple(t for t in read if t is not None)
        outputs = tuple(t for op in ops for t in op.outputs if t in self.crossing[end])
        graph = Graph(f"segment{first}", ops, inputs, outputs)
        return Segment(graph, tuple(t for op in ops for t in op.outputs if t in self.probed), self.n_bytes)

    def crossing_bytes(self, place: int) -> int:
        """Bytes of what crosses for one image."""
        return sum(self.n_bytes[tensor] for tensor in self.crossing[place])


def stretch(network: Graph, probed: Sequence[Tensor]) -> Stretch:
    """`network` as far as the values `probed` need it."""
    graph = without_dead_ops(Graph(network.name, network.ops, network.inputs, tuple(probed)))
    crossing = (frozenset(graph.inputs), *map(frozenset, crossings(graph.ops, graph.inputs, ())))
    made = made_of(graph.inputs, graph.ops)
    places = tuple(i for i, tensors in enumerate(crossing) if can_cross(tensors, made))
    return Stretch(graph, frozenset(probed), crossing, {t: t.n_bytes for t in graph.tensors()}, places)
