"""What a worker of a study does: each function returns records, and needs nothing but the study's folder."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ondevice.opening import Opened, open_together
from ondevice.packed import Split
from profiling.processes import output_of
from profiling.study.data import FINAL, splits
from profiling.study.policies import POLICIES, WITHOUT_RHO, Choice, choose
from profiling.study.records import Check, Cost, Pick, Training
from signatures.autodiff import untrainable
from signatures.errors import DivergedError

if TYPE_CHECKING:
    from profiling.study.engine import Engine

BUNDLE = "bundle"


@dataclass(frozen=True)
class Subject:
    """One network on one dataset, as it lies in the study's folder."""

    folder: Path
    network: str
    data: str
    batch: int
    epochs: int

    @property
    def bundle(self) -> Path:
        """The exported network."""
        return self.folder / self.network / BUNDLE

    @property
    def data_folder(self) -> Path:
        """The packed images."""
        return self.folder / self.network / self.data

    def opened(self, workspace: Path) -> Opened:
        """The network with a head for the data."""
        return open_together(self.bundle, self.data_folder / FINAL, self.batch, workspace, 0)


def pick(subject: Subject, policies: Sequence[str], rhos: Sequence[float], seed: int) -> list[Pick]:
    """What every policy picks, for one seed."""
    from profiling.ranking.measuring import measure_draw

    criteria = sorted({POLICIES[policy] for policy in policies if policy not in WITHOUT_RHO})
    with tempfile.TemporaryDirectory() as workspace:
        opened = subject.opened(Path(workspace))
        scores = measure_draw(opened, subject.batch, seed, criteria, Path(workspace)).scores
    obstacles = untrainable(opened.network, opened.layers)
    able = [layer.name not in obstacles for layer in opened.body]
    found = []
    for policy in policies:
        for rho in (None,) if policy in WITHOUT_RHO else rhos:
            choice = choose(policy, rho or 1.0, opened.layers, able, scores)
            found.append(Pick(subject.network, subject.data, seed, policy, rho, choice.layers, choice.bias_only))
    return found


def train(subject: Subject, choice: Choice, runs: Sequence[tuple[float, int]]) -> list[Training]:
    """Train `choice` once for each (learning rate, seed), with the engine of the study."""
    fit, validation, test, classes = splits(subject.data_folder)
    engine = _engine(subject, choice, fit, (validation, test))
    return [_trained(engine, subject, choice, len(classes), rate, seed) for rate, seed in runs]


def _engine(subject: Subject, choice: Choice, fit: Split, asked: Sequence[Split]) -> Engine:
    """What trains `choice` on the split `fit`, and then asks the others. Imports TensorFlow."""
    from profiling.study.engine import Engine

    with tempfile.TemporaryDirectory() as workspace:
        opened = subject.opened(Path(workspace))
    return Engine(opened.network, choice, opened.bundle.manifest.preprocessing, fit, asked)


def _trained(engine: Engine, subject: Subject, choice: Choice, classes: int, rate: float, seed: int) -> Training:
    from profiling.study.engine import ENGINE

    started = time.perf_counter()
    results: dict[str, Any] = {
        "diverged": "", "validation_accuracy": 0.0, "test_accuracy": 0.0, "test_loss": None, "predicted": (),
        "first_loss": None, "last_loss": None,
    }  # fmt: skip
    try:
        done = engine.train(rate, seed, subject.epochs, subject.batch, classes)
        of_validation, of_test = done.answers
        quarter = max(1, len(done.losses) // 4)
        results |= {
            "validation_accuracy": of_validation.accuracy,
            "test_accuracy": of_test.accuracy,
            "test_loss": of_test.loss if np.isfinite(of_test.loss) else None,
            "predicted": of_test.predicted,
            "first_loss": float(np.mean(done.losses[:quarter])),
            "last_loss": float(np.mean(done.losses[-quarter:])),
        }
    except DivergedError as error:
        results["diverged"] = str(error)
    return Training(
        network=subject.network,
        data=subject.data,
        layers=choice.layers,
        bias_only=choice.bias_only,
        rate=rate,
        seed=seed,
        parameters=engine.parameters,
        seconds=time.perf_counter() - started,
        engine=ENGINE,
        **results,
    )


def cost(subject: Subject, choice: Choice) -> list[Cost]:
    """What one epoch takes on the device's own path, with one thread."""
    report = _adapted(subject, choice, ["--epochs", "1", "--lr", "0.001"])
    plan, phases = report["plan"], {phase["name"]: phase["seconds"] for phase in report["phases"]}
    return [
        Cost(
            network=subject.network,
            data=subject.data,
            layers=choice.layers,
            bias_only=choice.bias_only,
            images=len(splits(subject.data_folder)[0]),
            threads=report["settings"]["threads"],
            peak_bytes=report["peak_bytes"],
            predicted_bytes=max(plan["prefix_bytes"], plan["train_bytes"], plan["evaluate_bytes"]),
            epoch_s=report["epochs"][0]["seconds"],
            prefix_s=phases.get("prefix", 0.0),
            parameters=report["trained_parameters"],
            train_macs=plan["train_macs"],
            runtime=report["environment"]["runtime"],
        )
    ]


def check(subject: Subject, choice: Choice, policy: str, rho: float | None, rate: float, seed: int) -> list[Check]:
    """The same training on the device's own path and by the engine of the study."""
    report = _adapted(subject, choice, ["--epochs", str(subject.epochs), "--lr", repr(rate), "--seed", str(seed)])
    fit, _, test, classes = splits(subject.data_folder)
    done = _engine(subject, choice, fit, (test,)).train(rate, seed, subject.epochs, subject.batch, len(classes))
    (answers,) = done.answers
    quarter = max(1, len(done.losses) // 4)
    losses = np.array(report["step_losses"])
    return [
        Check(
            network=subject.network,
            data=subject.data,
            policy=policy,
            rho=rho,
            rate=rate,
            seed=seed,
            device_accuracy=report["after"]["accuracy"],
            engine_accuracy=answers.accuracy,
            same_answers=float(np.mean(np.array(report["after"]["predicted"]) == np.array(answers.predicted))),
            loss_difference=float(np.abs(losses - done.losses)[:quarter].max()),
            runtime=report["environment"]["runtime"],
        )
    ]


def _adapted(subject: Subject, choice: Choice, settings: Sequence[str]) -> dict[str, Any]:
    """The report of `ondevice.adapt` in a fresh process. CapabilityError, with what it said, if it fails."""
    body = choice.layers[:-1]
    which = ["--criterion", "bias" if choice.bias_only else "head"]
    if body and not choice.bias_only:
        which = ["--layers", ",".join(body)]
    with tempfile.TemporaryDirectory() as folder:
        said = output_of(
            f"adapting {subject.network} to {subject.data}",
            "-m", "ondevice.adapt", subject.bundle, "--data", subject.data_folder / FINAL, "--out", f"{folder}/run",
            "--threads", "1", "--batch", str(subject.batch), "--json", *which, *settings,
        )  # fmt: skip
    report: dict[str, Any] = json.loads(said)
    return report
