"""The phases of an adaptation in order, each under the memory meter:
open → probe → rank → plan → channels → compile → before → prefix → train → export → evaluate.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ondevice.betti_numba.engine import Topology, first_betti
from ondevice.budgets import Limits, beyond, plan_within, too_small
from ondevice.channels import can_pick, pick_channels
from ondevice.checkpoint import Checkpoints
from ondevice.compiled import TrainFile, train_file
from ondevice.decision import Decision, model_sha256, read_decision, write_decision
from ondevice.evaluate import Evaluation, evaluate
from ondevice.events import Events
from ondevice.evidence import Measured, Probing, measure, probed_channels
from ondevice.limits import SystemLimit, system_limit
from ondevice.meter import Meter, PhaseMemory, keep_large_blocks_apart, read_resident, release_free_memory
from ondevice.opening import Opened, open_together
from ondevice.optimizer import Trainee
from ondevice.outline import RHO_GRID, Outline
from ondevice.pace import Pace, images_a_second
from ondevice.packing import content_sha256
from ondevice.planning import TARGET_BYTES, Cost, Planner
from ondevice.ranking import BIAS, FROM_GRADIENTS, Evidence
from ondevice.replay import Features, Keeping, Pixels, Prefix, keep_rows, room_bytes
from ondevice.report import Report, Settings, TopologyNote, environment, write_report
from ondevice.request import Request
from ondevice.run_folder import ADAPTED, DECISION, REPORT, WEIGHTS, WORK, finish
from ondevice.runtime import LoadedModel, drop_mapped_pages, interpreter_module
from ondevice.selection import Fits, Selection, select
from ondevice.training import Progress, Schedule, TrainingSet, check_trains, train_epoch
from ondevice.weights import write_weights
from signatures.autodiff import untrainable
from signatures.build import inference_model
from signatures.catalogue import MODEL, file_sha256
from signatures.channels import Channels, merged, with_channels
from signatures.cut import Cut, cut_before
from signatures.errors import BudgetError, DivergedError, InputError
from signatures.graph import Graph
from signatures.layers import Layer, find_layers
from signatures.memory import CODE_BYTES
from signatures.micro_batches import prefix_model
from signatures.passes import with_constants
from signatures.subset import Subset, subset_of, values_of
from signatures.tflite_io import write_model

_DRIFT_BYTES = 3 << 20
"""By how much the process grows from phase to phase, of what no model accounts for. Measured."""


class Pipeline:
    """Runs one request. The state that phases share is the meter and the event log; data goes by value."""

    def __init__(self, request: Request, run: Path, cache: Path, events: Events) -> None:
        """`run` holds a work folder, and there what an interrupted run of the same request left; `cache` may not be."""
        self.request = request
        self.folder = run
        self.workspace = run / WORK
        self.cache = cache
        self.events = events
        keep_large_blocks_apart()
        self.runtime, _ = interpreter_module()
        self.meter = Meter()
        self._has_run_a_model = False

    def run(self) -> Report:
        """Adapt, from wherever an interrupted run stopped, and write everything that the run folder holds. Raises
        AdabetError.
        """
        request = self.request
        opened = self._open()
        decision = self._decision(opened)
        plan, channels = decision.plan, decision.channels
        with self._phase("compile"):
            started = time.perf_counter()
            network = with_channels(opened.network, channels)
            cut = cut_before(network, plan.layers)
            compiled = self._compile(opened, cut, plan, channels)
            subset = self._subset(find_layers(network), plan)
            start = values_of(network, subset)
            del network  # with channels, its frozen weights are copies
            compile_seconds = time.perf_counter() - started
        before = self._before(opened, decision)
        features = self._features(opened, cut, plan)
        del cut
        release_free_memory()
        with self._phase("train"):
            trainee = Trainee(request.optimizer, start, subset)
            progress = self._train(opened, compiled, trainee, features, decision)
        adapted = self.workspace / ADAPTED
        with self._phase("export"):
            weights = merged(opened.network, channels, trainee.weights)
            del trainee  # its gradients and its optimizer's state are as large again
            write_weights(weights, self.workspace / WEIGHTS)
            slots = {p.name: p.slot for p in self._subset(opened.layers, plan).parameters()}
            final = with_constants(opened.network, {slots[name]: value for name, value in weights.items()})
        with self._phase("evaluate"):
            after = self._evaluate(opened, final, adapted)
            if not math.isfinite(after.loss):
                rate = request.learning_rate / 10
                raise DivergedError(f"the adapted network's test loss is {after.loss}. Try --lr {rate:.2g}")
        phases = self._phases(decision)
        report = Report(
            settings=self._settings(),
            environment=environment(self.runtime),
            network=opened.bundle.manifest.network,
            weights=opened.bundle.manifest.weights,
            dataset=opened.dataset.description,
            dataset_fingerprint=opened.dataset.fingerprint,
            classes=opened.dataset.classes,
            test_labels=tuple(opened.dataset.test.labels.tolist()),
            selection=decision.selection,
            topology=decision.topology,
            plan=plan,
            train_source=compiled.source,
            compile_seconds=compile_seconds,
            trained_parameters=subset.size,
            before=before,
            after=after,
            epochs=progress.epochs(),
            step_losses=progress.losses,
            phases=phases,
            peak_bytes=max(phase.peak_bytes for phase in phases),
            adapted=str(self.folder / ADAPTED),
            adapted_sha256=file_sha256(adapted),
        )
        write_report(report, self.workspace / REPORT)
        finish(self.folder)
        self.events.emit("done", accuracy=after.accuracy)
        return report

    def outline(self) -> Outline:
        """What `run` would train, what that and every ρ of the grid would cost; nothing trains. Raises AdabetError."""
        opened = self._open()
        evidence = self._measured(opened).evidence
        with self._phase("plan"):
            planner, selection, plan = self._plan(opened, evidence)
            grid = tuple(
                (rho, planner.cost(self._select(opened, evidence, rho).picked, self._target)) for rho in RHO_GRID
            )
        selection = selection.noting_channels(self._channels(opened, selection))
        images = len(opened.dataset.train) // self.request.batch * self.request.batch
        return Outline(selection, plan, grid, images, self.request.budget_bytes)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        with self.meter.phase(name), self.events.phase(name):
            yield
        release_free_memory()
        drop_mapped_pages(self.request.bundle / MODEL)

    def _open(self) -> Opened:
        request = self.request
        with self._phase("open"):
            return open_together(
                request.bundle, request.data, request.batch, self.workspace, request.seed, self.events.progress
            )

    def _decision(self, opened: Opened) -> Decision:
        """What trains and how: as an interrupted run decided, else found out now, and kept."""
        kept = read_decision(self.workspace / DECISION, self.request, opened)
        if kept is not None:
            self._check_system_lets(kept.plan, self._planner(opened), begun=True)
            self.events.emit("resumed", layers=kept.plan.layers)
            return kept
        measured = self._measured(opened)
        with self._phase("plan"):
            _, selection, plan = self._plan(opened, measured.evidence)
        channels = self._channels(opened, selection)
        decision = Decision(
            request=self.request,
            model_sha256=model_sha256(opened),
            dataset_sha256=content_sha256(opened.dataset),
            selection=selection.noting_channels(channels),
            topology=_note(measured.topology),
            plan=plan,
            channels=channels,
            phases=tuple(self.meter.phases),
        )
        write_decision(decision, self.workspace / DECISION)
        return decision

    def _phases(self, decision: Decision) -> tuple[PhaseMemory, ...]:
        """Those so far, of a run that was interrupted too; of a phase that ran more than once, the last."""
        return tuple({phase.name: phase for phase in (*decision.phases, *self.meter.phases)}.values())

    def _before(self, opened: Opened, decision: Decision) -> Evaluation:
        """The network on the test split before it trains. InputError where it does not even compute."""
        if decision.before is not None:
            return decision.before
        with self._phase("before"):
            path = self.workspace / "before.tflite"
            before = self._evaluate(opened, opened.network, path)
            path.unlink()
            if not math.isfinite(before.loss):
                raise InputError(
                    f"before any training, the test loss is {before.loss}: {self.request.bundle} holds broken weights, "
                    f"or {self.request.data} broken images"
                )
        done = replace(decision, before=before, phases=self._phases(decision))
        write_decision(done, self.workspace / DECISION)
        return before

    def _measured(self, opened: Opened) -> Measured:
        request = self.request
        try:
            return measure(request.criterion, opened, self._probing, self._betti_numbers, self._phase, self._after_run)
        except BudgetError as error:
            limit = self._system_limit()
            if limit is not None and (request.budget_bytes is None or limit.n_bytes < request.budget_bytes):
                raise beyond(limit, error.least_bytes, error.least_bytes) from None
            if request.budget_bytes is None or request.criterion in FROM_GRADIENTS:  # they say what else would do
                raise
            least = self._planner(opened).cost((), 0).peak_bytes
            raise too_small(request.budget_bytes, max(least, error.least_bytes)) from None

    @property
    def _probing(self) -> Probing:
        request = self.request
        return Probing(request.batch, request.seed, request.threads, self.workspace, self._limit_bytes)

    def _after_run(self, done: int, total: int) -> None:
        self._has_run_a_model = True
        self.meter.sample()
        self.events.progress(done, total)

    def _betti_numbers(self, distances: NDArray[np.float64]) -> Topology:
        """Of squared distances [k, B, B]. It must not take more memory than the rest of the run."""
        most_bytes = self._limit_bytes or max(TARGET_BYTES, self.meter.peak_bytes)
        return first_betti(distances, self.cache, most_bytes)

    @property
    def _target(self) -> int:
        return min(TARGET_BYTES, self._limit_bytes or TARGET_BYTES)

    @property
    def _limit_bytes(self) -> int | None:
        """What the process may take: the budget, or less where the system does not let it have that; None: anything."""
        system = self._system_limit()
        limits = [self.request.budget_bytes, None if system is None else system.n_bytes]
        return min((limit for limit in limits if limit is not None), default=None)

    def _system_limit(self) -> SystemLimit | None:
        file_bytes = (self.request.bundle / MODEL).stat().st_size  # as large as what is compiled from it, about
        return system_limit(read_resident().resident_bytes + self._code_to_come_bytes, file_bytes)

    @property
    def _code_to_come_bytes(self) -> int:
        """Of the interpreter's code, what is mapped and will be resident once a model ran; 0 after the first."""
        return 0 if self._has_run_a_model else CODE_BYTES

    def _check_system_lets(self, plan: Cost, planner: Planner, begun: bool = False) -> None:
        limit = self._system_limit()
        if limit is not None and plan.peak_bytes > limit.n_bytes:
            raise beyond(limit, plan.peak_bytes, planner.cost((), 0).peak_bytes, begun)

    def _select(self, opened: Opened, evidence: Evidence, rho: float, fits: Fits = lambda names: True) -> Selection:
        request, obstacles = self.request, untrainable(opened.network, opened.layers)
        return select(
            opened.layers, opened.head, evidence, request.criterion, rho, request.seed, obstacles, fits, request.layers
        )

    def _channels(self, opened: Opened, selection: Selection) -> dict[str, tuple[int, ...]]:
        """Of the picked layers, those channels that train; layers are missing of which all do."""
        request = self.request
        picked = [layer for layer in opened.body if layer.name in selection.picked]
        layers = [layer for layer in picked if can_pick(opened.network, layer)]
        if request.rho_channels is None or not layers:
            return {}
        with self._phase("channels"):
            b1 = probed_channels(opened, layers, self._probing, self._betti_numbers, self._after_run)
            found = {name: pick_channels(counts, request.rho_channels) for name, counts in b1.items()}
        return {name: tuple(map(int, channels)) for name, channels in found.items() if channels is not None}

    def _planner(self, opened: Opened) -> Planner:
        request = self.request
        room = room_bytes(self.workspace)
        keeping = Keeping(len(opened.dataset.train), request.replay, request.mirror, room)
        # Planner counts the interpreter's code with each model.
        base_bytes = read_resident().resident_bytes + self._code_to_come_bytes - CODE_BYTES + _DRIFT_BYTES
        return Planner(
            opened.network,
            request.batch,
            request.optimizer,
            self.runtime,
            base_bytes,
            keeping,
            request.criterion == BIAS,
            request.rho_channels,
        )

    def _plan(self, opened: Opened, evidence: Evidence) -> tuple[Planner, Selection, Cost]:
        """The layers that train within the budgets. BudgetError if not even the head does."""
        request, planner = self.request, self._planner(opened)
        limits = Limits(request.budget_bytes, request.budget_s, request.epochs, len(opened.dataset.train))
        selection, plan = plan_within(
            limits,
            planner,
            self._target,
            lambda fits: self._select(opened, evidence, request.rho, fits),
            lambda plan: self._pace(opened, planner, plan),
        )
        self._check_system_lets(plan, planner)
        self.events.emit("picked", layers=selection.picked, plan=asdict(plan))
        return planner, selection, plan

    def _pace(self, opened: Opened, planner: Planner, plan: Cost) -> Pace:
        path = self.workspace / "pace.tflite"
        write_model(inference_model(opened.network), path)
        forward = images_a_second(LoadedModel(path, self.request.threads), "infer", 1)
        cut = cut_before(planner.trained_network(plan.layers), plan.layers)
        compiled = self._compile(opened, cut, plan, planner.some_channels(plan.layers))
        train = images_a_second(LoadedModel(compiled.path, self.request.threads), "gradients", plan.micro_batch)
        path.unlink()
        return Pace(forward * sum(layer.macs for layer in opened.layers), train * plan.train_macs)

    def _subset(self, layers: Sequence[Layer], plan: Cost) -> Subset:
        return subset_of(layers, plan.layers, plan.layers[:-1] if self.request.criterion == BIAS else ())

    def _compile(self, opened: Opened, cut: Cut, plan: Cost, channels: Channels) -> TrainFile:
        request = self.request
        subset = self._subset(find_layers(cut.suffix), plan)
        compiled = train_file(opened.bundle, cut.suffix, subset, plan.micro_batch, request.batch, channels, self.cache)
        self.events.emit("compiled", source=compiled.source, layers=plan.layers)
        return compiled

    def _features(self, opened: Opened, cut: Cut, plan: Cost) -> Features:
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
        self, opened: Opened, compiled: TrainFile, trainee: Trainee, features: Features, decision: Decision
    ) -> Progress:
        """Train the weights that `trainee` holds, from the last checkpoint on where there is one."""
        request, split = self.request, opened.dataset.train
        model = LoadedModel(compiled.path, request.threads)
        check_trains(model, compiled.path, trainee.subset)
        drop_mapped_pages(request.bundle / MODEL)  # where the weights were copied from
        data = TrainingSet(
            features,
            split.labels,
            len(opened.dataset.classes),
            request.batch,
            decision.plan.micro_batch,
            request.mirror,
            request.seed,
        )
        steps = request.epochs * data.steps
        checkpoints = Checkpoints(self.workspace, decision.identity)
        progress = checkpoints.read(trainee)
        if progress.steps:
            self.events.emit("restored", steps=progress.steps)
        for number in range(progress.steps // data.steps, request.epochs):
            began = time.perf_counter()

            def after_step(step: int, loss: float, epoch: int = number) -> None:
                nonlocal progress, began
                ended = time.perf_counter()
                progress, began = progress.after_step(loss, epoch, ended - began), ended
                checkpoints.write(trainee, progress)
                self.meter.sample()
                self.events.progress(step + 1, steps, f"loss {loss:.3f}")

            done = progress.steps - number * data.steps
            train_epoch(model, trainee, data, number, Schedule(request.learning_rate, steps), after_step, done)
            loss = float(np.mean(progress.losses[-data.steps :]))
            self.events.emit("epoch", number=number + 1, loss=loss, seconds=progress.seconds[number])
        return progress

    def _evaluate(self, opened: Opened, network: Graph, path: Path) -> Evaluation:
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
            rho_channels=request.rho_channels,
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


def _note(topology: Topology | None) -> TopologyNote | None:
    if topology is None:
        return None
    return TopologyNote(topology.engine, topology.seconds, topology.worker_peak_bytes, topology.note)
