"""This runtime: the prefix once, its results kept in a file; then micro-batches of the suffix, as on the device."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from ondevice.meter import read_resident, release_free_memory
from ondevice.optimizer import Trainee
from ondevice.planning import Cost, Planner
from ondevice.replay import Features, Keeping, Pixels, Prefix, keep_rows, room_bytes
from ondevice.runtime import LoadedModel, interpreter_module
from ondevice.training import TrainingSet, train_epoch
from profiling.peers.measurement import Measurement, finished
from profiling.peers.problem import OPTIMIZER, SEED, Problem, read_images, read_network
from signatures.cut import Cut, cut_before
from signatures.layers import find_layers
from signatures.micro_batches import prefix_model, suffix_model
from signatures.subset import subset_of, values_of
from signatures.tflite_io import write_model


def measure(problem: Problem, folder: Path) -> Measurement:
    """Train as `ondevice.pipeline` does, from the plan on; models and features go into `folder`."""
    runtime, _ = interpreter_module()
    split = read_images(folder)
    base_bytes = read_resident().resident_bytes

    network = read_network(problem)
    keeping = Keeping(problem.images, "float32", False, room_bytes(folder))
    planner = Planner(network, problem.batch, OPTIMIZER, runtime, base_bytes, keeping)
    plan = planner.cost(problem.layers)
    cut = cut_before(network, plan.layers)
    subset = subset_of(find_layers(cut.suffix), plan.layers)
    path = folder / "train.tflite"
    write_model(suffix_model(cut.suffix, subset, plan.micro_batch, problem.batch), path)
    release_free_memory()

    features, prefix_s = _features(problem, folder, cut, plan, keeping)
    release_free_memory()

    model = LoadedModel(path, problem.threads)
    trained = subset_of(find_layers(network), plan.layers)
    trainee = Trainee(OPTIMIZER, values_of(network, trained), trained)
    data = TrainingSet(features, split.labels, problem.classes, problem.batch, plan.micro_batch, False, SEED)
    ends: list[float] = []
    losses: list[float] = []
    for epoch in range(problem.epochs):
        losses += train_epoch(
            model, trainee, data, epoch, problem.schedule, lambda step, loss: ends.append(time.perf_counter())
        )
    note = f"micro-batches of {plan.micro_batch}, {plan.kept_bytes / 2**20 / problem.images:.2f} MiB kept an image"
    return finished(runtime, note, problem, losses, prefix_s, ends, base_bytes)


def _features(problem: Problem, folder: Path, cut: Cut, plan: Cost, keeping: Keeping) -> tuple[Features, float]:
    """What goes into the suffix, and the seconds that it took to make it for all images."""
    split = read_images(folder)
    if cut.at_input:
        return Pixels(split, problem.preprocessing), 0.0
    path = folder / "prefix.tflite"
    write_model(prefix_model(cut.prefix, plan.prefix_batch), path)
    crossing = tuple(tensor.shape for tensor in cut.suffix.inputs)
    prefix = Prefix(LoadedModel(path, problem.threads), plan.prefix_batch, crossing, split, problem.preprocessing)
    few = np.arange(plan.prefix_batch)
    for _ in range(problem.steps_an_epoch):  # warm up
        prefix.take(few, few < 0)
    if not plan.kept_bytes:
        return prefix, 0.0
    started = time.perf_counter()
    features = keep_rows(prefix, folder / "features.bin", keeping, lambda done, total: None)
    return features, time.perf_counter() - started
