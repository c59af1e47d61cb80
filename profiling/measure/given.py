"""What scenarios run on: the command line, checked and opened before anything is measured."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ondevice.adapt import parser as adapt_parser
from ondevice.dataset import open_dataset
from ondevice.ranking import RHO
from profiling.measure.record import Settings
from profiling.measure.scenarios import SCENARIOS, Scenario
from profiling.peers.child import KERAS_NETWORK
from profiling.peers.problem import Problem, problem_of, write_problem
from signatures.catalogue import MANIFEST, MODEL, Bundle, file_sha256, read_bundle
from signatures.errors import InputError, UsageError


@dataclass(frozen=True)
class Given:
    """What there is to run on; None where nothing was given."""

    bundle: Path | None
    data: Path | None
    model: Path | None
    threads: int
    arguments: tuple[str, ...]
    """For `ondevice.adapt`."""
    pythons: dict[str, str]
    """By scenario, whose processes another Python runs than this one."""
    digests: dict[str, str]
    """Of bundle, data and model, as far as a scenario takes them."""
    problem: Path
    """The folder that holds what training steps are measured on, where a scenario measures some."""

    def settings(self, scenario: Scenario) -> Settings:
        """What the scenario takes of it."""
        paths = {"bundle": self.bundle, "data": self.data, "model": self.model}
        taken = {name: str(path) if name in scenario.needs else None for name, path in paths.items()}
        return Settings(**taken, threads=self.threads, arguments=self.arguments if scenario.of_adapt else ())

    def inputs(self, scenario: Scenario) -> dict[str, str]:
        """Digests of what the scenario takes of it."""
        return {name: self.digests[name] for name in scenario.needs}

    def command(self, name: str, run: Path) -> list[str]:
        """The process of a scenario, which may make the folder `run`."""
        scenario = SCENARIOS[name]
        places = {"bundle": self.bundle, "data": self.data, "model": self.model, "problem": self.problem, "run": run}
        words = (word.format(**places, threads=self.threads) for word in scenario.command)
        return [self.python(name), *words, *(self.arguments if scenario.of_adapt else ())]

    def python(self, name: str) -> str:
        """What runs a scenario."""
        return self.pythons.get(name, sys.executable)


def check(names: Sequence[str], options: argparse.Namespace, arguments: tuple[str, ...]) -> None:
    """UsageError where the command line makes no sense: scenarios, options of ours, and `arguments` for adapt."""
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown or not names:
        what = f"no scenario is called {unknown[0]!r}" if unknown else "name a scenario"
        raise UsageError(f"{what}; there are {', '.join(SCENARIOS)}")
    for name, least in (("repeats", 1), ("warm_up", 0), ("threads", 1)):
        if getattr(options, name) < least:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {least}")
    there = {name for name in ("bundle", "data", "model") if getattr(options, name) is not None}
    if "bundle" in there:
        there.add("model")
    for name in names:
        missing = [f"--{need}" for need in SCENARIOS[name].needs if need not in there]
        if missing:
            example = "`make demo` leaves .work/demo/bundle and .work/demo/digits"
            raise UsageError(f"{name} needs {' and '.join(missing)}; {example}")
    for name, python in pythons_of(options).items():
        if name not in names or shutil.which(python) is None:
            what = f"{name} is not measured" if name not in names else "there is no such program"
            raise UsageError(f"--python {name}={python}: {what}")
    of_adapt = [name for name in names if SCENARIOS[name].of_adapt]
    if arguments and not of_adapt:
        raise UsageError(
            f"{' '.join(arguments)}: what stands behind -- is for ondevice.adapt, which none of these runs"
        )
    for name in of_adapt:
        _check_adapt(name, arguments)


def pythons_of(options: argparse.Namespace) -> dict[str, str]:
    """What --python says: by scenario, the Python. UsageError."""
    given = [(text, *text.partition("=")) for text in options.python]
    for text, name, _, python in given:
        if not name or not python:
            raise UsageError(f"--python takes SCENARIO=PYTHON, got {text!r}")
    return {name: python for _, name, _, python in given}


def _check_adapt(name: str, arguments: tuple[str, ...]) -> None:
    """Have ondevice.adapt's own parser refuse what it does not know, and us what the scenario sets itself."""
    _, _, *own = (word.format(bundle="B", data="D", run="R", threads=2) for word in SCENARIOS[name].command)
    # Of an option that both set, the last one wins.
    first, last = (vars(adapt_parser().parse_args(words)) for words in ([*arguments, *own], [*own, *arguments]))
    both = [option for option in first if first[option] != last[option]]
    if last["dry_run"] != ("--dry-run" in own):
        both.append("dry_run")
    if both:
        option = both[0].replace("_", "-")
        raise UsageError(f"--{option} may not stand behind --: {name} sets it itself, or an option before -- does")


def open_given(names: Sequence[str], options: argparse.Namespace, arguments: tuple[str, ...], workspace: Path) -> Given:
    """Open what the scenarios take; what training steps are measured on is written to `workspace`.

    Raises InputError, CapabilityError.
    """
    needs = {need for name in names for need in SCENARIOS[name].needs}
    bundle = None if options.bundle is None else read_bundle(options.bundle)
    model = options.model or (None if bundle is None else bundle.folder / MODEL)
    digests, problem = {}, workspace / "problem"
    if bundle is not None:
        network = bundle.manifest.network
        if "step-keras" in names and network != KERAS_NETWORK:
            raise UsageError(f"step-keras measures {KERAS_NETWORK} as Keras has it; the bundle holds {network}")
        digests["bundle"] = _sha256(bundle.folder / MANIFEST)
        if "data" in needs:
            seed = adapt_parser().parse_args(["B", "--data", "D", *arguments]).seed
            digests["data"] = open_dataset(options.data, bundle.manifest.image, workspace, seed).fingerprint
        if any("{problem}" in SCENARIOS[name].command for name in names):
            problem.mkdir()
            write_problem(_problem(bundle, options.threads), problem)
    if "model" in needs and model is not None:
        digests["model"] = _sha256(model)
    return Given(options.bundle, options.data, model, options.threads, arguments, pythons_of(options), digests, problem)


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _problem(bundle: Bundle, threads: int) -> Problem:
    """Train what the bundle's train file for the usual ρ trains; the head alone where it has none."""
    entry = min(bundle.manifest.train, key=lambda entry: abs(entry.rho - RHO), default=None)
    layers = (bundle.layers[-1].name,) if entry is None else entry.layers
    return replace(problem_of(bundle, layers), threads=threads)
