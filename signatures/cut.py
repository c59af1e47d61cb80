"""Cuts: a network in two parts, a prefix that no training changes and the suffix that holds every trained layer.

What crosses the cut is kept for every image and replayed in each epoch, so a cut costs bytes to keep and read; frozen
ops behind it cost arithmetic in every epoch. The cheapest place is looked for along an execution order in which every
op that does not depend on a trained layer comes first; residuals that cross count in full.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from signatures.graph import Graph, Op, Tensor
from signatures.layers import op_macs
from signatures.passes import without_dead_ops

MACS_PER_BYTE = 100
"""Multiply-adds that take as long as reading one kept byte: a memory card gives 100 MB/s, a small board 10 GMAC/s."""


@dataclass(frozen=True, eq=False)
class Cut:
    """A network in two parts."""

    prefix: Graph
    """From the network's input to what crosses; without ops where the cut is at the input itself."""
    suffix: Graph
    """From what crosses, its inputs, to the network's outputs. Layers have the names that they have in the network."""

    @property
    def at_input(self) -> bool:
        """Whether nothing lies before the cut: images go into the suffix as they are."""
        return not self.prefix.ops


def cut_before(network: Graph, names: Collection[str]) -> Cut:
    """Cut `network`, in which every op is needed, somewhere before the layers called `names`."""
    frozen, trained = _parted(network.ops, names)
    order = [*frozen, *trained]

    (source,) = network.inputs
    again = sum(map(_work, frozen))
    made = made_of(network.inputs, frozen)
    best: tuple[Tensor, ...] = (source,)
    least, position = _cost(best, source, again), 0
    for i, (op, crossing) in enumerate(zip(frozen, crossings(order, network.inputs, network.outputs), strict=False)):
        again -= _work(op)
        if can_cross(crossing, made) and (cost := _cost(crossing, source, again)) < least:
            best, least, position = tuple(sorted(crossing, key=lambda t: t.name)), cost, i + 1
    prefix = without_dead_ops(Graph("prefix", tuple(order[:position]), network.inputs, best))
    return Cut(prefix, Graph("suffix", tuple(order[position:]), best, network.outputs))


def crossings(order: Sequence[Op], inputs: Collection[Tensor], outputs: Collection[Tensor]) -> Iterator[set[Tensor]]:
    """What is read, or is an output, after each op of an execution order; constants left out."""
    last_use = {tensor: i for i, op in enumerate(order) for tensor in op.inputs if tensor is not None}
    last_use.update(dict.fromkeys(outputs, len(order)))
    crossing = set(inputs)
    for i, op in enumerate(order):
        crossing.update(op.outputs)
        crossing = {tensor for tensor in crossing if last_use.get(tensor, -1) > i}
        yield crossing


def can_cross(crossing: Collection[Tensor], made: Collection[Tensor]) -> bool:
    """Whether values can be kept as rows of float32, one an image; `made` is what follows from the images."""
    return all(tensor.dtype == "float32" and tensor.shape and tensor in made for tensor in crossing)


def made_of(inputs: Collection[Tensor], ops: Sequence[Op]) -> set[Tensor]:
    """`inputs`, and everything that `ops` compute from them."""
    made = set(inputs)
    for op in ops:
        if not made.isdisjoint(op.inputs):
            made.update(op.outputs)
    return made


def _parted(ops: Sequence[Op], names: Collection[str]) -> tuple[list[Op], list[Op]]:
    """Ops whose results no training of the named layers changes, and the others."""
    frozen: list[Op] = []
    trained: list[Op] = []
    changed: set[Tensor] = set()
    for op in ops:
        if op.outputs[0].name in names or not changed.isdisjoint(op.inputs):
            trained.append(op)
            changed.update(op.outputs)
        else:
            frozen.append(op)
    return frozen, trained


def _work(op: Op) -> int:
    """Multiply-adds of one op for one image; what is no product counts one for each value that it makes."""
    return op_macs(op) or op.outputs[0].size


def _cost(crossing: Collection[Tensor], source: Tensor, again: int) -> int:
    """Multiply-adds for one image. Images alone are at hand, a byte a value; all else is kept as it is."""
    kept_bytes = source.size if list(crossing) == [source] else sum(tensor.n_bytes for tensor in crossing)
    return kept_bytes * MACS_PER_BYTE + again
