"""Probe: squared distances between the activations of every layer, over a few unlabelled batches, in little memory.

The parts of a `ProbePlan` run one after the other, each over all batches, with one model loaded at a time. What one
part makes for later ones lies in files until the last of them is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ondevice.betti_numba import geometry
from ondevice.dataset import to_input
from ondevice.meter import read_resident, release_free_memory
from ondevice.probe_parts import Part, Tile
from ondevice.probe_plan import plan_probe
from ondevice.rows import RowFile
from ondevice.runtime import LoadedModel, interpreter_module
from signatures.catalogue import Preprocessing
from signatures.errors import CapabilityError
from signatures.graph import Array, Graph, Tensor
from signatures.layers import Layer
from signatures.strips import Strip
from signatures.tflite_io import write_model

MIN_POINTS = 4
"""Images a batch: three points make no loop, b1 would be 0 for every layer."""
_SPARE_BYTES = 4 << 20
"""For what Python and NumPy allocate beside models and what goes in and out of them, the plan for one."""


def squared_distances(
    network: Graph,
    layers: Sequence[Layer],
    batches: Iterable[NDArray[np.uint8]],
    preprocessing: Preprocessing,
    workspace: Path,
    threads: int,
    budget_bytes: int,
    after_run: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.float64]:
    """Squared distances float64 [batches, layers, B, B] between the activations of images uint8 [B, H, W, 3].

    Symmetric, zero diagonal, none below 0; NaN where an activation is no number. By prediction, the process stays
    within `budget_bytes`. Models, images and what crosses between parts of the network lie in `workspace` for the time
    of the call. `after_run` is told how many calls of models are done, of how many.

    Raises BudgetError (nothing fits: how much would do), InputError (a model does not run), CapabilityError (no space).
    """
    try:
        with _Files(workspace, network.inputs[0], preprocessing) as files:
            return _distances(network, layers, batches, files, threads, budget_bytes, after_run)
    except OSError as error:
        what = f"{workspace} cannot hold what probing keeps there: {error.strerror}"
        raise CapabilityError(f"{what}; make room there") from error


def _distances(
    network: Graph,
    layers: Sequence[Layer],
    batches: Iterable[NDArray[np.uint8]],
    files: _Files,
    threads: int,
    budget_bytes: int,
    after_run: Callable[[int, int], None],
) -> NDArray[np.float64]:
    count = batch = 0
    for pixels in batches:
        batch = len(pixels)
        files.images.write(np.arange(count * batch, (count + 1) * batch), None, pixels)
        count += 1
    probed = [network.ops[layer.op].output for layer in layers]
    runtime, _ = interpreter_module()
    result = np.zeros((count, len(layers), batch, batch))
    base_bytes = read_resident().resident_bytes + result.nbytes + _SPARE_BYTES
    plan = plan_probe(network, probed, batch, count, base_bytes, budget_bytes, runtime)

    last_reader = {tensor: part for part in plan.parts for tensor in part.segment.graph.inputs}
    total = count * sum(part.runs for part in plan.parts)
    done = 0
    for part in plan.parts:
        files.open(part.segment.graph.outputs)
        where = np.array([probed.index(tensor) for tensor in part.segment.probed], np.intp)
        for tile in part.tiles:
            for number, members, delta in _tile_distances(tile, part, count, files, threads):
                result[number][np.ix_(where, members, members)] += delta
                done += 1
                after_run(done, total)
        files.close(tensor for tensor in part.segment.graph.inputs if last_reader[tensor] is part)
    np.maximum(result, 0.0, out=result)  # rounding can push a distance between near-duplicates below 0
    return result


def _tile_distances(
    tile: Tile, part: Part, count: int, files: _Files, threads: int
) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.float64]]]:
    """Load the tile's model and run it over `count` batches; keep what later parts read.

    Yields, after each call, the number of the batch, which M of its images went in, and what is to be added to their
    squared distances, float64 [probed, M, M]: what the tile's rows contribute, where no set of images before did.
    """
    path, graph = files.workspace / "probe.tflite", tile.segment.graph
    write_model(tile.model(), path)
    try:
        model = LoadedModel(path, threads)
        for number in range(count):
            for members, new in _with_new_pairs(part.batch, part.sets):
                images = number * part.batch + members
                for strip in tile.strips:
                    made = model.call("gram", files.read(graph.inputs, images, strip))
                    files.write(graph.outputs, images, strip, made)
                    delta = np.zeros((len(tile.segment.probed), *new.shape))
                    for i, matrix in enumerate(delta):
                        np.copyto(matrix, geometry.squared_distances(made[f"gram{i}"]), where=new)
                    yield number, members, delta
        del model
    finally:
        path.unlink(missing_ok=True)
    release_free_memory()


def _with_new_pairs(batch: int, sets: Iterable[Sequence[int]]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.bool_]]]:
    """The images of each set, and which pairs of them no set before has: distances are added up, once each."""
    seen = np.zeros((batch, batch), bool)
    for images in sets:
        members = np.array(images)
        pairs = np.ix_(members, members)
        yield members, ~seen[pairs]
        seen[pairs] = True


class _Files:
    """The images, and what crosses between the parts of a network, on disk. A context manager that deletes them."""

    def __init__(self, workspace: Path, source: Tensor, preprocessing: Preprocessing) -> None:
        self.workspace = workspace
        self.preprocessing = preprocessing
        self.source = source
        self.images = RowFile(workspace / "probe.images", source.shape, np.uint8)
        self._files = {source: self.images}

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(list(self._files))

    def open(self, tensors: Iterable[Tensor]) -> None:
        """Make the files of some values."""
        for tensor in tensors:
            self._files[tensor] = RowFile(self.workspace / f"probe.{len(self._files)}", tensor.shape, np.float32)

    def close(self, tensors: Iterable[Tensor]) -> None:
        """Delete the files of some values."""
        for tensor in tensors:
            self._files[tensor].close()

    def read(self, inputs: Sequence[Tensor], images: NDArray[np.intp], strip: Strip | None) -> Mapping[str, Array]:
        """Arguments x0 … of a strip of a segment with these inputs."""
        return {f"x{i}": self._read(tensor, images, strip) for i, tensor in enumerate(inputs)}

    def _read(self, tensor: Tensor, images: NDArray[np.intp], strip: Strip | None) -> Array:
        values = self._files[tensor].read(images, None if strip is None else strip.needed.get(tensor))
        return to_input(values, self.preprocessing) if tensor is self.source else values

    def write(
        self, outputs: Sequence[Tensor], images: NDArray[np.intp], strip: Strip | None, made: Mapping[str, Array]
    ) -> None:
        """Keep the results y0 … of a strip of a segment with these outputs."""
        for i, tensor in enumerate(outputs):
            self._files[tensor].write(images, None if strip is None else strip.own[tensor], made[f"y{i}"])
