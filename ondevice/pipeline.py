"""The phases of an adaptation in order, each under the memory meter:
open → probe → rank → plan → compile → before → prefix → train → export → evaluate.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ondevice.betti_numba.engine import first_betti
from ondevice.checkpoint import write_weights
from ondevice.compiled import TrainFile, train_file
from ondevice.dataset import Dataset, open_dataset, probe_batches
from ondevice.evaluate import Evaluation, evaluate
from ondevice.events import Events
from ondevice.meter import Meter, keep_large_blocks_apart, read_resident, release_free_memory
from ondevice.optimizer import Trainee
from ondevice.outline import RHO_GRID, Outline
from ondevice.pace import Pace, images_a_second
from ondevice.planning import TARGET_BYTES, Cost, Planner
from ondevice.probe import squared_distances
from ondevice.replay import Features, Keeping, Pixels, Prefix, keep_rows, room_bytes
from ondevice.report import Report, Settings, TopologyNote, environment, write_report
from ondevice.runtime import LoadedModel, drop_mapped_pages, interpreter_module
from ondevice.selection import Fits, Selection, select
from ondevice.training import Epoch, Schedule, TrainingSet, check_finite, check_trains, train_epoch
from signatures.autodiff import untrainable
from signatures.build import inference_model
from signatures.catalogue import MODEL, Bundle, file_sha256, read_bundle
from signatures.cut import Cut, cut_before
from signatures.errors import BudgetError, DivergedError, InputError
from signatures.graph import Array, Graph
from signatures.head import head_of, with_new_head
from signatures.layers import Layer, find_layers
from signatures.memory import CODE_BYTES
from signatures.micro_batches import prefix_model
from signatures.optimizers import Optimizer
from signatures.passes import with_constants
from signatures.subset import Subset, subset_of, values_of
from signatures.tflite_io import write_model

PROBE_BATCHES = 4
"""As in the reference code; fewer where the data have fewer images."""
_MIB = 1 << 20
_DRIFT_BYTES = 3 << 20
"""By how much the process grows from phase to phase, of what no model accounts for. Measured."""
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
    mirror: bool
    """Whether images are mirrored at random."""
    replay: str
    """float32 or float16: how the prefix's results are kept."""
    budget_bytes: int | None
    """What the process may take at its peak; None for no limit."""
    budget_s: float | None
    """How long prefix and training may take; None for no limit."""


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
        keep_large_blocks_apart()
        self.runtime, _ = interpreter_module()
        self.meter = Meter()
        self.workspace = request.run / "work"

    def run(self) -> Report:
        """Adapt, and write everything that the run folder holds. Raises AdabetError."""
        request = self.request
        opened, topology, b1 = self._probed()
        with self._phase("plan"):
            _, selection, plan = self._plan(opened, b1)
        with self._phase("compile"):
            started = time.perf_counter()
            cut = cut_before(opened.network, plan.layers)
            subset, compiled = self._compile(opened, cut, plan)
            compile_seconds = time.perf_counter() - started
        with self._phase("before"):
            before = self._evaluate(opened, opened.network, self.workspace / "before.tflite")
        features = self._features(opened, cut, plan)
        with self._phase("train"):
            weights, epochs, losses = self._train(opened, compiled, subset, features, plan)
        adapted = self.workspace / ADAPTED
        with self._phase("export"):
            write_weights(weights, self.workspace / WEIGHTS)
            trained = subset_of(opened.layers, plan.layers).parameters()
            final = with_constants(opened.network, {p.slot: weights[p.name] for p in trained})
        with self._phase("evaluate"):
            after = self._evaluate(opened, final, adapted)
            if not math.isfinite(after.loss):
                raise DivergedError(f"the adapted network's test loss is {after.loss}: try a smaller --lr")
        report = Report(
            settings=self._settings(),
            environment=environment(self.runtime),
            network=opened.bundle.manifest.network,
            weights=opened.bundle.manifest.weights,
            dataset=opened.dataset.description,
            dataset_fingerprint=opened.dataset.fingerprint,
            classes=opened.dataset.classes,
            selection=selection,
            topology=topology,
            plan=plan,
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

    def outline(self) -> Outline:
        """What `run` would train, what that and every ρ of the grid would cost; nothing trains. Raises AdabetError."""
        opened, _, b1 = self._probed()
        with self._phase("plan"):
            planner, selection, plan = self._plan(opened, b1)
            grid = tuple((rho, planner.cost(self._select(opened, b1, rho).picked, self._target)) for rho in RHO_GRID)
        images = len(opened.dataset.train) // self.request.batch * self.request.batch
        return Outline(selection, plan, grid, images, self.request.budget_bytes)

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
        release_free_memory()
        drop_mapped_pages(self.request.bundle / MODEL)

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

    def _probed(self) -> tuple[_Opened, TopologyNote | None, NDArray[np.int64] | None]:
        """What was opened, and b1 [batches, layers without the head], None where the criterion does not need it."""
        request = self.request
        self.workspace.mkdir()
        with self._phase("open"):
            opened = self._open()
        if request.criterion == "head":
            return opened, None, None
        with self._phase("probe"):
            batches = min(PROBE_BATCHES, len(opened.dataset.train) // request.batch)

            def after_run(done: int, total: int) -> None:
                self.meter.sample()
                self.events.progress(done, total)

            def distances_within(budget_bytes: int) -> NDArray[np.float64]:
                return squared_distances(
                    opened.network,
                    opened.layers[:-1],
                    probe_batches(opened.dataset.train, request.batch, batches, request.seed),
                    opened.bundle.manifest.preprocessing,
                    self.workspace,
                    request.threads,
                    budget_bytes,
                    after_run,
                )

            try:
                distances = distances_within(self._target)
            except BudgetError as error:
                if request.budget_bytes is not None:
                    least = self._planner(opened).cost((), 0).peak_bytes
                    raise _too_small(request.budget_bytes, max(least, error.least_bytes)) from None
                distances = distances_within(error.least_bytes)  # nothing forbids it
        with self._phase("rank"):
            size = distances.shape[-1]
            topology = first_betti(distances.reshape(-1, size, size), request.cache)
        note = TopologyNote(topology.engine, topology.seconds, topology.worker_peak_bytes, topology.note)
        return opened, note, topology.b1.reshape(distances.shape[:2])

    @property
    def _target(self) -> int:
        return min(TARGET_BYTES, self.request.budget_bytes or TARGET_BYTES)

    def _select(
        self, opened: _Opened, b1: NDArray[np.int64] | None, rho: float, fits: Fits = lambda names: True
    ) -> Selection:
        obstacles = untrainable(opened.network, opened.layers)
        return select(opened.layers, opened.layers[-1], b1, self.request.criterion, rho, obstacles, fits)

    def _planner(self, opened: _Opened) -> Planner:
        request = self.request
        room = room_bytes(self.workspace)
        keeping = Keeping(len(opened.dataset.train), request.replay, request.mirror, room)
        base_bytes = read_resident().resident_bytes + _DRIFT_BYTES
        if any(phase.name == "probe" for phase in self.meter.phases):  # the interpreter's code is among it already
            base_bytes -= CODE_BYTES
        return Planner(opened.network, request.batch, request.optimizer, self.runtime, base_bytes, keeping)

    def _plan(self, opened: _Opened, b1: NDArray[np.int64] | None) -> tuple[Planner, Selection, Cost]:
        """The layers that train within the budgets. BudgetError if not even the head does."""
        request = self.request
        images = len(opened.dataset.train)
        planner = self._planner(opened)

        def in_memory(names: Sequence[str]) -> bool:
            return request.budget_bytes is None or planner.cost(names, 0).peak_bytes <= request.budget_bytes

        least = planner.cost((), 0)
        if request.budget_bytes is not None and least.peak_bytes > request.budget_bytes:
            raise _too_small(request.budget_bytes, least.peak_bytes)
        selection = self._select(opened, b1, request.rho, in_memory)
        plan = planner.cost(selection.picked, self._target)
        if request.budget_s is not None:
            pace = self._pace(opened, plan)

            def seconds(cost: Cost) -> float:
                return pace.seconds(cost, images, request.epochs, planner.keeping.variants)

            if seconds(least) > request.budget_s:
                raise BudgetError(
                    f"even the head alone would train for {math.ceil(seconds(least))} s: give at least that as "
                    "--time-budget, or fewer --epochs"
                )
            limit = request.budget_s

            def in_time(names: Sequence[str]) -> bool:
                return in_memory(names) and seconds(planner.cost(names, 0)) <= limit

            selection = self._select(opened, b1, request.rho, in_time)
            plan = planner.cost(selection.picked, self._target)
        self.events.emit("picked", layers=selection.picked, plan=asdict(plan))
        return planner, selection, plan

    def _pace(self, opened: _Opened, plan: Cost) -> Pace:
        path = self.workspace / "pace.tflite"
        write_model(inference_model(opened.network), path)
        forward = images_a_second(LoadedModel(path, self.request.threads), "infer", 1)
        _, compiled = self._compile(opened, cut_before(opened.network, plan.layers), plan)
        train = images_a_second(LoadedModel(compiled.path, self.request.threads), "gradients", plan.micro_batch)
        return Pace(forward * sum(layer.macs for layer in opened.layers), train * plan.train_macs)

    def _compile(self, opened: _Opened, cut: Cut, plan: Cost) -> tuple[Subset, TrainFile]:
        request = self.request
        subset = subset_of(find_layers(cut.suffix), plan.layers)
        compiled = train_file(opened.bundle, cut.suffix, subset, plan.micro_batch, request.batch, request.cache)
        self.events.emit("compiled", source=compiled.source, layers=plan.layers)
        return subset, compiled

    def _features(self, opened: _Opened, cut: Cut, plan: Cost) -> Features:
        """What goes into the suffix: the images, or what the prefix makes of them, kept where the disk has room."""
        request, split = self.request, opened.dataset.train
        preprocessing = opened.bundle.manifest.preprocessing
        if cut.at_input:
            return Pixels(split, preprocessing)
        with self._phase("prefix"):
            path = self.workspace / "prefix.tflite"
            write_model(prefix_model(cut.prefix, plan.prefix_batch), path)
            crossing = tuple(tensor.shape for tensor in cut.suffix.inputs)
            model = LoadedModel(path, request.threads)
            prefix = Prefix(model, plan.prefix_batch, crossing, split, preprocessing)
            if not plan.kept_bytes:
                return prefix

            def after(done: int, total: int) -> None:
                self.meter.sample()
                self.events.progress(done, total)

            keeping = Keeping(len(split), request.replay, request.mirror, plan.kept_bytes)
            return keep_rows(prefix, self.workspace / "features.bin", keeping, after)

    def _train(
        self, opened: _Opened, compiled: TrainFile, subset: Subset, features: Features, plan: Cost
    ) -> tuple[Mapping[str, Array], tuple[Epoch, ...], tuple[float, ...]]:
        request, split = self.request, opened.dataset.train
        model = LoadedModel(compiled.path, request.threads)
        check_trains(model, compiled.path, subset)
        trained = subset_of(opened.layers, plan.layers)
        trainee = Trainee(request.optimizer, values_of(opened.network, trained), trained)
        drop_mapped_pages(request.bundle / MODEL)  # where the weights were copied from
        data = TrainingSet(
            features,
            split.labels,
            len(opened.dataset.classes),
            request.batch,
            plan.micro_batch,
            request.mirror,
            request.seed,
        )
        steps = request.epochs * data.steps
        schedule = Schedule(request.learning_rate, steps)

        def after_step(step: int, loss: float) -> None:
            self.meter.sample()
            self.events.progress(step + 1, steps, f"loss {loss:.3f}")

        epochs: list[Epoch] = []
        losses: list[float] = []
        for number in range(request.epochs):
            started = time.perf_counter()
            step_losses = train_epoch(model, trainee, data, number, schedule, after_step)
            losses += step_losses
            epochs.append(Epoch(number + 1, float(np.mean(step_losses)), time.perf_counter() - started))
            self.events.emit("epoch", number=number + 1, loss=epochs[-1].loss, seconds=epochs[-1].seconds)
        check_finite(trainee.weights)
        return trainee.weights, tuple(epochs), tuple(losses)

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
            mirror=request.mirror,
            replay=request.replay,
            budget_bytes=request.budget_bytes,
            budget_s=request.budget_s,
        )


def _too_small(budget_bytes: int, least_bytes: int) -> BudgetError:
    least = -(-least_bytes // _MIB)
    return BudgetError(
        f"{budget_bytes // _MIB} MiB are too little even for the head alone: give at least --budget-mib {least}",
        least_bytes,
    )
