"""`python -m profiling memory-lab`: peak memory as `signatures.memory` predicts it, beside what a fresh process takes.

For each network: five subsets of its layers in two micro-batches, and the graphs of inference, of a prefix and of the
probe. A child process loads one model file, calls it twice, and reads its own high-water mark; the prediction is the
child's resident memory before the model, what `footprint` says, and the results that the call hands out. Weights are
random: no prediction depends on a value. Networks are made once, by TensorFlow, and kept in the folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ondevice.meter import Meter, read_resident
from ondevice.runtime import LoadedModel, interpreter_module
from profiling.needs import need_folder
from profiling.processes import output_of
from signatures.build import gram, inference_model
from signatures.cut import cut_before
from signatures.errors import exit_code_of
from signatures.graph import Graph, Model
from signatures.layers import Layer, find_layers
from signatures.memory import footprint
from signatures.micro_batches import prefix_model, suffix_model
from signatures.subset import subset_of
from signatures.tflite_io import read_model, write_model

IMAGES = {"mobilenetv2": 224, "resnet50": 96, "vgg16": 96, "vit_b16": 96}
"""Network → side of its images in pixels: the heavy ones small, so that all of it takes minutes."""
MICRO_BATCHES = (2, 8)
BATCH = 32
THREADS = 2
CALLS = 2
LATE = SPREAD = 5
TOO_LOW, MEDIAN_WITHIN = 0.05, 0.10
"""What is asked of the predictions: none lower than measured by more, and the median error."""


def _pointwise_late(layers: Sequence[Layer]) -> list[Layer]:
    """As b1's pick often is: narrow layers of the later half whose filter is one pixel."""
    late = [x for x in layers[len(layers) // 2 : -1] if x.kind == "dense" or x.weight_shape[1:3] == (1, 1)]
    return sorted(late or layers[len(layers) // 2 : -1], key=lambda layer: layer.activation_size)[:LATE]


SUBSETS: dict[str, Callable[[Sequence[Layer]], Sequence[Layer]]] = {
    "head": lambda layers: (),
    "late": _pointwise_late,
    "spread": lambda layers: layers[len(layers) // (2 * SPREAD) :: max(1, len(layers) // SPREAD)],
    "first": lambda layers: layers[:1],
    "all": lambda layers: layers,
}
"""Policy → the layers that train beside the head."""


@dataclass(frozen=True)
class Row:
    """One model: bytes that the process took at most, predicted and measured."""

    network: str
    image: int
    graph: str
    """The subset's policy, or infer, prefix, probe."""
    batch: int
    runtime: str
    base_bytes: int
    """Of the process, before the model."""
    predicted_bytes: int
    measured_bytes: int

    @property
    def ratio(self) -> float:
        """Predicted : measured, of the whole process."""
        return self.predicted_bytes / self.measured_bytes


def models(network: Graph) -> Iterator[tuple[str, int, Model]]:
    """(graph, batch, model) of everything that is measured of a network."""
    layers = find_layers(network)
    for policy, pick in SUBSETS.items():
        names = {layer.name for layer in (*pick(layers), layers[-1])}
        cut = cut_before(network, names)
        subset = subset_of(find_layers(cut.suffix), names)
        for batch in MICRO_BATCHES:
            yield policy, batch, suffix_model(cut.suffix, subset, batch, BATCH)
    prefix = cut_before(network, {layers[-1].name}).prefix
    yield "infer", 1, inference_model(network)
    yield "prefix", MICRO_BATCHES[-1], prefix_model(prefix, MICRO_BATCHES[-1])
    probe = gram(network, layers, MICRO_BATCHES[-1])
    yield "probe", MICRO_BATCHES[-1], Model((probe.graph,), (probe,))


def network_of(name: str, image: int, folder: Path) -> Graph:
    """A network of the zoo with random weights, as the file that is kept of it."""
    path = folder / f"{name}_{image}.tflite"
    if not path.exists():
        from converter import zoo

        write_model(inference_model(zoo.load(name, "random", image).graph), path)
    return read_model(path).graphs[0]


def measure(name: str, image: int, python: Path, folder: Path) -> Iterator[Row]:
    """The rows of one network."""
    for graph, batch, model in models(network_of(name, image, folder)):
        yield Row(name, image, graph, batch, *measure_model(model, python, folder))


def measure_model(model: Model, python: Path, folder: Path) -> tuple[str, int, int, int]:
    """Runtime, base, predicted and measured bytes of a process of `python` that runs a model of one signature."""
    path = folder / "measured.tflite"
    write_model(model, path)
    (signature,) = model.signatures
    runtime, base_bytes, peak_bytes = measure_file(path, signature.name, python)
    path.unlink()
    results = sum(tensor.n_bytes for tensor in signature.outputs.values())
    predicted = footprint(model, [signature.name], runtime).peak_bytes + results
    return runtime, base_bytes, base_bytes + predicted, peak_bytes


def measure_file(path: Path, signature: str, python: str | Path = sys.executable) -> tuple[str, int, int]:
    """Runtime, base and peak bytes of a fresh process that loads the file at `path` and calls a signature of it.

    CapabilityError if it fails.
    """
    what = f"measuring {signature} of {path}"
    arguments = ("-m", "profiling", "memory-lab", "--child", path.resolve(), signature)
    child = json.loads(output_of(what, *arguments, python=python))
    return child["runtime"], child["base_bytes"], child["peak_bytes"]


def _measure_here(path: Path, signature: str) -> dict[str, Any]:
    """In that process."""
    runtime, _ = interpreter_module()
    tensors = {s.name: s for s in read_model(path).signatures}[signature].inputs
    feeds = {name: np.full(tensor.shape, 0.5, tensor.dtype) for name, tensor in tensors.items()}
    del tensors
    resident = read_resident()
    base = (resident.anonymous_bytes or 0) + (resident.file_bytes or 0)
    meter = Meter()
    with meter.phase("model"):
        model = LoadedModel(path, THREADS)
        for _ in range(CALLS):
            model.call(signature, feeds)
    return {"runtime": runtime, "base_bytes": base, "peak_bytes": meter.peak_bytes}


def render(rows: Sequence[Row]) -> str:
    """A table, and how the predictions compare with what is asked of them."""
    lines = [f"{'network':<12}{'graph':<8}{'batch':>6}{'base':>8}{'predicted':>11}{'measured':>10}{'ratio':>8}"]
    for row in rows:
        base, predicted, measured = (n / 2**20 for n in (row.base_bytes, row.predicted_bytes, row.measured_bytes))
        name = f"{row.network:<12}{row.graph:<8}{row.batch:>6}"
        lines.append(f"{name}{base:>8.1f}{predicted:>11.1f}{measured:>10.1f}{row.ratio:>8.3f}")
    ratios = [row.ratio for row in rows]
    error = median(abs(ratio - 1) for ratio in ratios)
    low = sum(ratio < 1 - TOO_LOW for ratio in ratios)
    lines.append(
        f"MiB, {rows[0].runtime}: lowest {min(ratios):.3f}, highest {max(ratios):.3f}; median error {error:.1%} "
        f"(asked: {MEDIAN_WITHIN:.0%}); too low by more than {TOO_LOW:.0%}: {low} of {len(rows)}"
    )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m profiling memory-lab", description=__doc__)
    p.add_argument("--network", choices=IMAGES, action="append", help="only this; default: all four")
    p.add_argument("--python", type=Path, default=Path(sys.executable), help="whose interpreter is measured")
    p.add_argument("--folder", type=Path, default=Path(".work/memory_lab"), help="where networks are kept")
    p.add_argument("--json", type=Path, metavar="FILE", help="append a line for each row")
    p.add_argument("--child", nargs=2, metavar=("MODEL", "SIGNATURE"), help=argparse.SUPPRESS)
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; exit code 1 if a prediction was too low."""
    asked = parser().parse_args(arguments)
    return exit_code_of(lambda: _run(asked))


def _run(asked: argparse.Namespace) -> int:
    if asked.child:
        print(json.dumps(_measure_here(Path(asked.child[0]), asked.child[1])))
        return 0
    need_folder(asked.folder)
    folder = asked.folder.resolve()
    rows = []
    for name in asked.network or IMAGES:
        for row in measure(name, IMAGES[name], asked.python, folder):
            rows.append(row)
            print(f"{row.network} {row.graph} {row.batch}: {row.ratio:.3f}", file=sys.stderr)
            if asked.json:
                with asked.json.open("a") as file:
                    file.write(json.dumps(asdict(row)) + "\n")
    print(render(rows))
    return int(any(row.ratio < 1 - TOO_LOW for row in rows))
