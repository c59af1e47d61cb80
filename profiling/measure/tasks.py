"""`python -m profiling.measure.tasks probe|infer …`: what no command of ours does alone; JSON on stdout."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from ondevice.betti_numba.engine import first_betti
from ondevice.compiled import default_cache
from ondevice.evidence import Probing, measure
from ondevice.meter import Meter, keep_large_blocks_apart, read_resident, release_free_memory
from ondevice.opening import open_together
from ondevice.ranking import BATCH, CRITERION, SEED
from ondevice.runtime import LoadedModel
from signatures.errors import InputError, exit_code_of
from signatures.tflite_io import read_model

WARM_UP_CALLS, LEAST_CALLS, LEAST_S = 5, 20, 1.0
"""Calls that are not timed; how many are at least, and for how long in all."""


def probe(threads: int, bundle: Path, data: Path) -> dict[str, Any]:
    """Probe the layers of a bundle and count b1, in the phases and with the settings of `ondevice.pipeline`."""
    keep_large_blocks_apart()
    meter = Meter()

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        with meter.phase(name):
            yield
        release_free_memory()

    with tempfile.TemporaryDirectory(prefix="adabet-") as folder:
        workspace = Path(folder)
        with phase("open"):
            opened = open_together(bundle, data, BATCH, workspace, SEED)
        probing = Probing(BATCH, SEED, threads, workspace, limit_bytes=None)
        measured = measure(
            CRITERION,
            opened,
            probing,
            lambda distances: first_betti(distances, default_cache()),
            phase,
            lambda done, total: meter.sample(),
        )
    topology = measured.topology
    metrics: dict[str, float] = {"peak_bytes": meter.peak_bytes}
    if topology is not None and topology.worker_peak_bytes is not None:
        metrics["worker_peak_bytes"] = topology.worker_peak_bytes
    for one in meter.phases:
        metrics[f"seconds:{one.name}"] = one.seconds
        if one.reset:
            metrics[f"peak_bytes:{one.name}"] = one.peak_bytes
    return {"metrics": metrics, "outcome": {} if topology is None else {"b1": topology.engine}}


def infer(threads: int, path: Path) -> dict[str, Any]:
    """Call the signature `infer` of a model, or the only one that it has."""
    inputs = {signature.name: signature.inputs for signature in read_model(path).signatures}
    name = next(iter(inputs)) if len(inputs) == 1 else "infer"
    if name not in inputs:
        raise InputError(f"{path} has no signature 'infer' (it has: {', '.join(inputs)})")
    random = np.random.default_rng(0)
    fed = {key: random.random(tensor.shape).astype(tensor.dtype) for key, tensor in inputs[name].items()}
    del inputs

    started = time.perf_counter()
    model = LoadedModel(path, threads)
    model.call(name, fed)
    load_s = time.perf_counter() - started
    for _ in range(WARM_UP_CALLS):
        model.call(name, fed)
    taken: list[float] = []
    while len(taken) < LEAST_CALLS or sum(taken) < LEAST_S:
        started = time.perf_counter()
        model.call(name, fed)
        taken.append(time.perf_counter() - started)
    metrics = {
        "load_seconds": load_s,
        "call_seconds": median(taken),
        "mean_call_seconds": mean(taken),
        "peak_bytes": read_resident().peak_bytes,
    }
    return {"metrics": metrics, "outcome": {}}


def main(arguments: Sequence[str]) -> int:
    """Do what a scenario asks for; returns the exit code."""
    task, threads, *paths = arguments
    return exit_code_of(lambda: print(json.dumps(TASKS[task](int(threads), *map(Path, paths)))) or 0)


TASKS: dict[str, Callable[..., dict[str, Any]]] = {"probe": probe, "infer": infer}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
