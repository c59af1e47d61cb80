"""`python -m tests.bench.compile_cost [NETWORK …]`: what it costs to compile the train graph of all layers.

Each network is exported with random weights at 224², and compiled in a fresh process that has only read the bundle's
model: seconds to build the graph and to write the file, and how far the process's peak memory rose.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ondevice.meter import Meter
from signatures.build import bundle_model, train_model
from signatures.head import head_of, with_new_head
from signatures.layers import find_layers
from signatures.optimizers import Optimizer
from signatures.subset import Subset
from signatures.tflite_io import read_model, write_model

NETWORKS = ("mobilenetv2", "resnet50", "vgg16", "vit_b16")
IMAGE, BATCH, CLASSES = 224, 32, 5
_MIB = 1 << 20


def export(name: str, path: Path) -> None:
    from converter import zoo

    graph = zoo.load(name, "random", IMAGE).graph
    write_model(bundle_model(graph, find_layers(graph), BATCH), path)


def compile_all_layers(path: Path) -> str:
    """One line of figures; run in a process of its own."""
    network = read_model(path).signature("infer").graph
    network = with_new_head(network, head_of(network, find_layers(network)), CLASSES)
    layers = find_layers(network)
    out = path.with_suffix(".train.tflite")
    meter = Meter()
    with meter.phase("start"):
        pass
    with meter.phase("compile"):
        started = time.perf_counter()
        model = train_model(network, Subset(layers), BATCH, Optimizer())
        built = time.perf_counter()
        write_model(model, out)
        written = time.perf_counter()
    start, peak = (phase.peak_bytes for phase in meter.phases)
    ops, size = len(model.graphs[0].ops), out.stat().st_size
    out.unlink()
    return (
        f"{len(layers):>6} {ops:>6} {size / _MIB:>9.0f} {built - started:>8.2f} {written - built:>8.2f} "
        f"{written - started:>8.2f} {(peak - start) / _MIB:>10.0f}"
    )


def main(names: list[str]) -> None:
    columns = f"{'layers':>6} {'ops':>6} {'file MiB':>9} {'build s':>8} {'write s':>8} {'both s':>8} {'peak +MiB':>10}"
    print(f"{'network':14} {columns}")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            path = Path(folder) / f"{name}.tflite"
            for step in ("export", "compile"):
                command = [sys.executable, "-m", "tests.bench.compile_cost", f"--{step}", name, str(path)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"{name:14} {done.stdout.strip():>60}", flush=True)
            path.unlink()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--export", name, path]:
            export(name, Path(path))
        case ["--compile", _, path]:
            print(compile_all_layers(Path(path)))
        case names:
            main(names or list(NETWORKS))
