"""The phases of an adaptation in order, each under the memory meter:
open → probe → rank → compile → train → export → evaluate.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ondevice.betti_numba.engine import Topology, first_betti
from ondevice.checkpoint import write_weights
from ondevice.compiled import TrainFile, train_file
from ondevice.dataset import Dataset, open_dataset, probe_batches
from ondevice.evaluate import Evaluation, evaluate
from ondevice.events import Events
from ondevice.meter import Meter
from ondevice.probe import gram_matrices
from ondevice.report import Report, Settings, TopologyNote, environment, write_report
from ondevice.runtime import LoadedModel, interpreter_module
from ondevice.selection import Selection, select
from ondevice.training import Epoch, Schedule, check_trains, train_epoch, trained_weights
from signatures.autodiff import untrainable
from signatures.build import inference_model
from signatures.catalogue import Bundle, file_sha256, read_bundle
from signatures.errors import DivergedError, InputError
from signatures.graph import Array, Graph
from signatures.head import head_of, with_new_head
from signatures.layers import Layer, find_layers
from signatures.optimizers import Optimizer
from signatures.passes import with_constants
from signatures.subset import Subset, subset_of
from signatures.tflite_io import write_model

PROBE_BATCHES = 4
"""As in the reference code; fewer where the data have fewer images."""
ADAPTED, WEIGHTS, REPORT = RESULTS = ("adapted.tflite", "weights.npz", "report.json")
"""What a finished run leaves. They come into the run folder together, the report last."""


@dataclass(frozen=True)
class Request:
    """One adaptation, all values checked."""

    bundle: Path
    data: Path
    run: Path
    """An existing, writable folder that holds the result of an older run at most, which a finished run replaces."""
    cache: Path
    criterion: str
    rho: float
    epochs: int
    batch: int
    learning_rate: float
    optimizer: Optimizer
    seed: int
    threads: int


@dataclass(frozen=True)
class _Opened:
    """Everything that comes from outside, checked."""

    bundle: Bundle
    dataset: Dataset
    network: Graph
    """The bundle's network with a head for the dataset's classes."""
    layers: tuple[Layer, ...]


class Pipeline:
    """Runs one request. The state that phases share is the meter and the event log; data goes by value."""

    def __init__(self, request: Request, events: Events) -> None:
        self.request = request
        self.events = events
        self.meter = Meter()
        self.workspace = request.run / "work"

    def run(self) -> Report:
        """Adapt, and write everything that the run folder holds. Raises AdabetError."""
        request = self.request
        runtime, _ = interpreter_module()
        self.workspace.mkdir()
        with self._phase("open"):
            opened = self._open()
        topology, selection = self._probe_and_rank(opened)
        with self._phase("compile"):
            started = time.perf_counter()
            subset = subset_of(opened.layers, selection.picked)
            compiled = train_file(
                opened.bundle, opened.network, subset, request.batch, request.optimizer, request.cache
            )
            compile_seconds = time.perf_counter() - started
            self.events.emit("compiled", source=compiled.source, layers=selection.picked)
        with self._phase("before"):
            before = self._evaluate(opened, opened.network, self.workspace / "before.tflite")
        with self._phase("train"):
            weights, epochs, losses = self._train(opened, compiled, subset)
        adapted = self.workspace / ADAPTED
        with self._phase("export"):
            write_weights(weights, self.workspace / WEIGHTS)
            final = with_constants(opened.network, {p.slot: weights[p.name] for p in subset.parameters()})
        with self._phase("evaluate"):
            after = self._evaluate(opened, final, adapted)
            if not math.isfinite(after.loss):
                raise DivergedError(f"the adapted network's test loss is {after.loss}: try a smaller --lr")
        report = Report(
            settings=self._settings(),
            environment=environment(runtime),
            network=opened.bundle.manifest.network,
            weights=opened.bundle.manifest.weights,
            dataset=opened.dataset.description,
            dataset_fingerprint=opened.dataset.fingerprint,
            classes=opened.dataset.classes,
            selection=selection,
            topology=topology,
            train_source=compiled.source,
            compile_seconds=compile_seconds,
            trained_parameters=sum(layer.parameters for layer in subset.layers),
            before=before,
            after=after,
            epochs=epochs,
            step_losses=losses,
            phases=tuple(self.meter.phases),
            peak_bytes=self.meter.peak_bytes,
            adapted=str(request.run / ADAPTED),
            adapted_sha256=file_sha256(adapted),
        )
        write_report(report, self.workspace / REPORT)
        self._publish()
        self.events.emit("done", accuracy=after.accuracy)
        return report

    def _publish(self) -> None:
        """Move the result into the run folder, in place of an older one; where a report lies, all of its run does."""
        run = self.request.run
        (run / REPORT).unlink(missing_ok=True)
        for name in RESULTS:
            (self.workspace / name).replace(run / name)
        shutil.rmtree(self.workspace)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        with self.meter.phase(name), self.events.phase(name):
            yield

    def _open(self) -> _Opened:
        request = self.request
        bundle = read_bundle(request.bundle)
        dataset = open_dataset(request.data, bundle.manifest.image, self.workspace, request.seed, self.events.progress)
        if len(dataset.train) < request.batch:
            raise InputError(
                f"{request.data} has {len(dataset.train)} training images, fewer than one batch of {request.batch}: "
                "add images or give a smaller --batch"
            )
        network = bundle.network
        if not bundle.manifest.own_head:
            network = with_new_head(network, head_of(network, bundle.layers), len(dataset.classes))
        elif bundle.manifest.classes != len(dataset.classes):
            raise InputError(
                f"{request.bundle} was exported for {bundle.manifest.classes} classes, {request.data} has "
                f"{len(dataset.classes)}: export it again without CLASSES or with the right number"
            )
        return _Opened(bundle, dataset, network, find_layers(network))

    def _probe_and_rank(self, opened: _Opened) -> tuple[TopologyNote | None, Selection]:
        request, layers = self.request, opened.layers
        head = layers[-1]
        obstacles = untrainable(opened.network, layers)
        if request.criterion == "head":
            return None, select(layers, head, None, request.criterion, request.rho, obstacles)
        body = [layer for layer in layers if layer is not head]
        with self._phase("probe"):
            batches = min(PROBE_BATCHES, len(opened.dataset.train) // request.batch)

            def after_batch(done: int) -> None:
                self.meter.sample()
                self.events.progress(done, batches)

            grams = gram_matrices(
                opened.network,
                body,
                probe_batches(opened.dataset.train, request.batch, batches, request.seed),
                opened.bundle.manifest.preprocessing,
                self.workspace,
                request.threads,
                after_batch,
            )
        with self._phase("rank"):
            topology = self._betti(grams)
            b1 = topology.b1.reshape(grams.shape[:2])
            selection = select(layers, head, b1, request.criterion, request.rho, obstacles)
            self.events.emit("picked", layers=selection.picked, engine=topology.engine, note=topology.note)
        note = TopologyNote(topology.engine, topology.seconds, topology.worker_peak_bytes, topology.note)
        return note, selection

    def _betti(self, grams: Array) -> Topology:
        size = grams.shape[-1]
        return first_betti(grams.reshape(-1, size, size), self.request.cache)

    def _train(
        self, opened: _Opened, compiled: TrainFile, subset: Subset
    ) -> tuple[Mapping[str, Array], tuple[Epoch, ...], tuple[float, ...]]:
        request, split = self.request, opened.dataset.train
        model = LoadedModel(compiled.path, request.threads)
        check_trains(model, compiled.path, subset)
        steps = request.epochs * (len(split) // request.batch)
        schedule = Schedule(request.learning_rate, steps)

        def after_step(step: int, loss: float) -> None:
            self.meter.sample()
            self.events.progress(step + 1, steps, f"loss {loss:.3f}")

        epochs: list[Epoch] = []
        losses: list[float] = []
        for number in range(request.epochs):
            started = time.perf_counter()
            step_losses = train_epoch(
                model,
                split,
                opened.bundle.manifest.preprocessing,
                request.batch,
                number,
                schedule,
                request.seed,
                after_step,
            )
            losses += step_losses
            epochs.append(Epoch(number + 1, float(np.mean(step_losses)), time.perf_counter() - started))
            self.events.emit("epoch", number=number + 1, loss=epochs[-1].loss, seconds=epochs[-1].seconds)
        return trained_weights(model), tuple(epochs), tuple(losses)

    def _evaluate(self, opened: _Opened, network: Graph, path: Path) -> Evaluation:
        """Write the inference model of `network` to `path` and measure that very file on the test split."""
        write_model(inference_model(network), path)
        split = opened.dataset.test

        def after_image(done: int) -> None:
            self.events.progress(done, len(split))
            if done % 32 == 0:
                self.meter.sample()

        model = LoadedModel(path, self.request.threads)
        return evaluate(model, split, opened.bundle.manifest.preprocessing, after_image)

    def _settings(self) -> Settings:
        request = self.request
        return Settings(
            bundle=str(request.bundle),
            data=str(request.data),
            criterion=request.criterion,
            rho=request.rho,
            epochs=request.epochs,
            batch=request.batch,
            learning_rate=request.learning_rate,
            optimizer=request.optimizer.kind,
            weight_decay=request.optimizer.weight_decay,
            seed=request.seed,
            threads=request.threads,
        )
