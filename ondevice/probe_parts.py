"""Ways to run one segment of a network that is probed: all images whole, in strips, or a few images at a time.

Squared distances add up over the rows of an activation, so where rows stay apart all images run in strips, and each
value is computed once but for the halo. Elsewhere pairs of blocks of images have to meet, small ones many times over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from signatures.build import probe_model
from signatures.graph import Model, Op, Tensor
from signatures.memory import CODE_BYTES, footprint
from signatures.segments import Segment
from signatures.strips import Strip, coarsest, own_rows, strip, strip_count, strip_graph, strips

_COPIES = 2
"""Of what goes into a model or comes out: ours and the interpreter's."""


@dataclass(frozen=True, eq=False)
class Tile:
    """What one model of a segment computes: strips of the same shape, or everything."""

    segment: Segment
    images: int
    """How many it takes at once."""
    strips: tuple[Strip | None, ...]
    """From top to bottom; (None,): the whole segment."""

    def rows(self) -> int:
        """Rows of all values of a strip."""
        first = self.strips[0]
        return 0 if first is None else sum(end - begin for begin, end in first.needed.values())

    def model(self) -> Model:
        """The model, as `build.probe_model` has it: the Gram matrices of what is probed, and what crosses."""
        graph, probed, kept = self.segment.graph, self.segment.probed, self.segment.graph.outputs
        first, steps = self.strips[0], self.segment.steps
        if first is not None and steps is not None:
            graph = strip_graph(graph, steps, first, self.segment.wanted)
            probed, kept = graph.outputs[: len(probed)], graph.outputs[len(probed) :]
        return probe_model(graph, probed, kept, self.images)


@dataclass(frozen=True)
class Part:
    """A segment and how it runs."""

    segment: Segment
    batch: int
    images: int
    """At once: the batch, or two blocks of it."""
    height: int | None
    """Rows of the coarsest value in a strip; None: no strips."""

    def options(self) -> list[Part]:
        """All ways to run the segment, from most to least at a time: whole, in strips, in strips of fewer images."""
        steps, wanted = self.segment.steps, self.segment.wanted
        result = [Part(self.segment, self.batch, self.batch, None)]
        if steps is not None:
            rows = max(t.shape[1] * steps[t] for t in wanted) // coarsest(steps)
            result += [Part(self.segment, self.batch, self.batch, height) for height in range((rows + 1) // 2, 0, -1)]
        least = result[-1].height
        sides = sorted({-(-self.batch // blocks) for blocks in range(3, self.batch + 1)}, reverse=True)
        return result + [Part(self.segment, self.batch, 2 * side, least) for side in sides if 2 * side < self.batch]

    @cached_property
    def count(self) -> int:
        """Strips for one set of images."""
        steps = self.segment.steps
        if steps is None or self.height is None:
            return 1
        return strip_count(steps, self.segment.wanted, self.height)

    @property
    def runs(self) -> int:
        """Calls of models for one batch."""
        return self.count * len(self.sets)

    @cached_property
    def sets(self) -> Sequence[Sequence[int]]:
        """The images of a batch that each model takes at once: every two in one set, if anything is probed."""
        return paired_sets(self.batch, self.images) if self.segment.probed else blocks(self.batch, self.images)

    @property
    def share(self) -> float:
        """Of the work for a batch, what one run does."""
        return self.images / (self.batch * self.count)

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """Its models, to be loaded one after the other."""
        graph, steps = self.segment.graph, self.segment.steps
        if steps is None or self.height is None:
            return (Tile(self.segment, self.images, (None,)),)
        by_shape: dict[object, list[Strip]] = {}
        for one in strips(graph, steps, self.segment.wanted, self.height):
            by_shape.setdefault(one.shape(graph), []).append(one)
        return tuple(Tile(self.segment, self.images, tuple(same)) for same in by_shape.values())

    @cached_property
    def needed_bytes(self) -> Mapping[Tensor, int]:
        """Of every value, what one run computes for an image."""
        segment = self.segment
        if segment.steps is None or self.height is None:
            return segment.n_bytes
        own = own_rows(segment.steps, segment.wanted, self.height, (self.count - 1) // 2)
        needed = strip(segment.graph, segment.steps, own).needed
        whole = {tensor: segment.n_bytes[tensor] for tensor in segment.graph.inputs}
        return whole | {t: segment.n_bytes[t] // t.shape[1] * (end - first) for t, (first, end) in needed.items()}

    def estimate_bytes(self) -> int:
        """A quick estimate of `peak_bytes`."""
        graph, needed = self.segment.graph, self.needed_bytes
        pinned = sum(2 * needed[t] for t in self.segment.probed)
        pinned += sum(_COPIES * needed[t] for t in (*graph.inputs, *graph.outputs))
        live = max(sum(needed[t] for t in _values(op)) for op in graph.ops)
        return self.images * (pinned + live) + 2 * self.segment.weight_bytes + CODE_BYTES

    def peak_bytes(self, runtime: str) -> int:
        """Predicted, for the largest of its models, above what the process takes without one."""
        model = max(self.tiles, key=Tile.rows).model()
        (signature,) = model.signatures
        ours = sum(t.n_bytes for t in (*signature.inputs.values(), *signature.outputs.values()))
        return footprint(model, [signature.name], runtime).total_bytes + ours


def _values(op: Op) -> list[Tensor]:
    return [t for t in (*op.inputs, *op.outputs) if t is not None and t.data is None]


def blocks(batch: int, images: int) -> list[range]:
    """Images 0 to `batch` in blocks of `images`; the last overlaps the one before where they do not fill the batch."""
    return [range(first, first + images) for first in (min(i, batch - images) for i in range(0, batch, images))]


def paired_sets(batch: int, images: int) -> list[Sequence[int]]:
    """Sets of `images` images so that every two images are in one: the batch, or each two blocks of half as many."""
    if images == batch:
        return [range(batch)]
    halves = blocks(batch, images // 2)
    return [(*a, *b) for i, a in enumerate(halves) for b in halves[i + 1 :]]
