"""What of a study is left to do, as data, and its doing: on this machine or on the workers of a Dask cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from profiling.study import tasks
from profiling.study.design import Design, NetworkDesign
from profiling.study.policies import WITHOUT_RHO, Choice
from profiling.study.records import Check, Cost, Pick, Record, Records, Training
from profiling.study.tasks import Subject

CHECKED = (("head", None), ("betti", 0.2), ("last", 0.4), ("fisher", 0.05), ("bias", None))
"""Policy and ρ of the trainings that are repeated on the device's own path."""
Key = tuple[str, str, Choice, float, int]


@dataclass(frozen=True)
class Task:
    """One call of a function of `tasks`."""

    function: Callable[..., Sequence[Record]]
    arguments: tuple[Any, ...]
    label: str


@dataclass(frozen=True)
class Agenda:
    """What is left, from what is recorded. Stages follow each other: a rate is chosen before it is used."""

    STAGES: ClassVar = ("picks", "tuning", "finals", "costs", "checks")
    design: Design
    network: NetworkDesign
    records: Records
    subjects: tuple[Subject, ...]
    """Those of `network`."""

    def picks(self) -> list[Task]:
        """What the policies pick, for each dataset and seed."""
        known = {(p.data, p.seed, p.policy, p.rho) for p in self._picked()}
        found = []
        for subject in self.subjects:
            for seed in self.design.seeds:
                wanted = {(subject.data, seed, policy, rho) for policy, rho in cells(self.design, self.network)}
                if not wanted <= known:
                    arguments = (subject, self.design.policies, self.network.rhos, seed)
                    found.append(Task(tasks.pick, arguments, f"{subject.network} {subject.data} picks, seed {seed}"))
        return found

    def tuning(self) -> list[Task]:
        """Every pick of the first seed with every rate."""
        first = self.design.seeds[0]
        return self._trainings((p, rate) for p in self._picked() if p.seed == first for rate in self.design.rates)

    def finals(self) -> list[Task]:
        """Every pick of the other seeds with the rate that its policy was given."""
        rates = chosen_rates(self.records, self.design)
        others = [p for p in self._picked() if p.seed in self.design.seeds[1:]]
        return self._trainings(
            (p, rates[p.network, p.data, p.policy, p.rho])
            for p in sorted(others, key=lambda p: p.seed)
            if (p.network, p.data, p.policy, p.rho) in rates
        )

    def costs(self) -> list[Task]:
        """What each pick of the first seed takes, on the first dataset."""
        known = {(c.data, c.choice) for c in self.records.of(Cost) if c.network == self.network.name}
        first, subject = self.design.seeds[0], self.subjects[0]
        choices = dict.fromkeys(p.choice for p in self._picked() if p.seed == first and p.data == subject.data)
        return [
            Task(tasks.cost, (subject, choice), f"{subject.network} {subject.data} cost of {len(choice.layers)} layers")
            for choice in choices
            if (subject.data, choice) not in known
        ]

    def checks(self) -> list[Task]:
        """Some trainings on the device's own path, on the first dataset."""
        known = {(c.data, c.policy, c.rho) for c in self.records.of(Check) if c.network == self.network.name}
        rates, first, subject = chosen_rates(self.records, self.design), self.design.seeds[0], self.subjects[0]
        return [
            Task(
                tasks.check,
                (subject, p.choice, p.policy, p.rho, rates[p.network, p.data, p.policy, p.rho], first),
                f"{subject.network} {subject.data} {p.policy} on the device's path",
            )
            for p in self._picked()
            if (p.policy, p.rho) in CHECKED and p.seed == first and p.data == subject.data
            if (p.data, p.policy, p.rho) not in known and (p.network, p.data, p.policy, p.rho) in rates
        ]

    def _picked(self) -> list[Pick]:
        """Of this network, what the design asks for."""
        wanted, data = set(cells(self.design, self.network)), {subject.data for subject in self.subjects}
        return [
            p
            for p in self.records.of(Pick)
            if p.network == self.network.name
            and p.data in data
            and p.seed in self.design.seeds
            and (p.policy, p.rho) in wanted
        ]

    def _trainings(self, wanted: Iterable[tuple[Pick, float]]) -> list[Task]:
        """A task for each choice that lacks a training, with all its rates and seeds: what trains alike trains once."""
        known = {key_of(t) for t in self.records.of(Training)}
        missing: dict[tuple[str, Choice], dict[tuple[float, int], None]] = {}
        for p, rate in wanted:
            if (p.network, p.data, p.choice, rate, p.seed) not in known:
                missing.setdefault((p.data, p.choice), {})[rate, p.seed] = None
        subjects = {subject.data: subject for subject in self.subjects}
        return [
            Task(
                tasks.train,
                (subjects[data], choice, list(runs)),
                f"{self.network.name} {data} {len(choice.layers)} layers, {len(runs)} trainings",
            )
            for (data, choice), runs in missing.items()
        ]


def cells(design: Design, network: NetworkDesign) -> list[tuple[str, float | None]]:
    """Policy and ρ, for all that is compared."""
    return [(p, rho) for p in design.policies for rho in ((None,) if p in WITHOUT_RHO else network.rhos)]


def key_of(training: Training) -> Key:
    """What makes a training the same as another."""
    return training.network, training.data, training.choice, training.rate, training.seed


def chosen_rates(records: Records, design: Design) -> dict[tuple[str, str, str, float | None], float]:
    """By network, dataset, policy and ρ: the rate with the best validation accuracy of the first seed, the smaller of
    equals; where all rates were tried.
    """
    by_key = {key_of(t): t for t in records.of(Training)}
    chosen = {}
    for p in records.of(Pick):
        if p.seed != design.seeds[0]:
            continue
        tried = [by_key.get((p.network, p.data, p.choice, rate, p.seed)) for rate in sorted(design.rates)]
        done = [t for t in tried if t is not None]
        if len(done) == len(design.rates):
            best = max(done, key=lambda t: t.validation_accuracy)  # the first of equals
            chosen[p.network, p.data, p.policy, p.rho] = best.rate
    return chosen


@contextmanager
def workers(count: int, scheduler: str | None) -> Iterator[Any]:
    """A client of `count` processes on this machine, or of the cluster whose scheduler is at an address."""
    from distributed import Client, LocalCluster

    if scheduler is not None:
        with Client(scheduler) as client:
            yield client
        return
    with (
        LocalCluster(
            n_workers=count, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", memory_limit=0
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def perform(client: Any, todo: Sequence[Task], records: Records, until: float, told: Callable[[str], None]) -> bool:
    """Do the tasks in order, and record each as it is done; begin nothing after `until` (time.monotonic). Whether all
    were done.
    """
    from distributed import as_completed

    waiting, labels = iter(todo), {}
    running = as_completed()

    def begin() -> bool:
        task = next(waiting, None) if time.monotonic() < until else None
        if task is not None:
            future = client.submit(task.function, *task.arguments, pure=False, retries=0)
            labels[future.key] = task.label
            running.add(future)
        return task is not None

    for _ in range(2 * max(1, len(client.ncores()))):
        begin()
    done = 0
    for future in running:
        for record in future.result():
            records.add(record)
        done += 1
        told(f"{done} of {len(todo)}: {labels.pop(future.key)}")
        begin()
    return done == len(todo)
