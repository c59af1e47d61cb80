"""Verify a bundle: every signature runs, agrees with the others, and its gradients agree with finite differences.

A gradient is checked along itself: for each parameter p with gradient g, the loss at p ± h·g/|g| gives
(loss₊ − loss₋)/2h, which must be |g|. Curvature and ReLU kinks within h leave errors that shrink with h, rounding
leaves others that grow: h starts large and is made smaller until the two agree, or rounding takes over.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ondevice.runtime import LoadedModel
from signatures.build import gradient_model
from signatures.catalogue import MODEL, Bundle, TrainEntry
from signatures.errors import InputError
from signatures.graph import Array
from signatures.optimizers import Optimizer
from signatures.subset import Parameter, subset_of
from signatures.tflite_io import write_model

GRADIENT_TOLERANCE = 0.02
"""Relative; for a whole parameter along its gradient."""
AGREEMENT_TOLERANCE = 1e-4
"""Relative, between signatures that compute the same."""
_LOSS_CHANGES = (0.02, 0.002, 0.0002)
"""How far h moves the loss, about. Logits are float32: below this, deep networks give slopes of noise."""
_SEED = 0


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    file: str
    signature: str
    what: str
    error: float
    """Relative."""
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is a number within the tolerance."""
        return bool(self.error <= self.tolerance)


def verify_bundle(bundle: Bundle, threads: int) -> list[Check]:
    """Check every signature of every file of a bundle that `read_bundle` accepted."""
    generator = np.random.default_rng(_SEED)
    checks = _verify_model(bundle, generator, threads)
    for entry in bundle.manifest.train:
        checks += _verify_train(bundle, entry, generator, threads)
    return checks


def table(checks: list[Check]) -> str:
    """The checks as text."""
    rows = [f"{'file':22} {'signature':12} {'check':44} {'error':>9} {'allowed':>8}"]
    for check in checks:
        verdict = "" if check.passed else "  FAILED"
        rows.append(
            f"{check.file:22} {check.signature:12} {check.what:44} {check.error:>9.1e} {check.tolerance:>8.0e}{verdict}"
        )
    failed = sum(not check.passed for check in checks)
    rows.append(f"{len(checks)} checks, {failed} failed")
    return "\n".join(rows)


def _difference(got: Array, expected: Array) -> float:
    """Relative difference of two arrays by their norms."""
    scale = float(np.linalg.norm(expected.astype(np.float64)))
    return float(np.linalg.norm(got.astype(np.float64) - expected)) / (scale or 1.0)


def _images(bundle: Bundle, batch: int, generator: np.random.Generator) -> Array:
    """Smooth random pictures after preprocessing: white noise would drive a network far from where it works."""
    coarse = generator.uniform(0, 255, (batch, 8, 8, 3))
    side = -(-bundle.manifest.image // 8)
    pixels = np.repeat(np.repeat(coarse, side, 1), side, 2)[:, : bundle.manifest.image, : bundle.manifest.image]
    preprocessing = bundle.manifest.preprocessing
    inputs: Array = pixels * np.array(preprocessing.scale) + np.array(preprocessing.offset)
    return inputs.astype(np.float32)


def _verify_model(bundle: Bundle, generator: np.random.Generator, threads: int) -> list[Check]:
    model = LoadedModel(bundle.folder / MODEL, threads)
    head, body = bundle.layers[-1].name, [layer.name for layer in bundle.layers[:-1]]
    batch = bundle.manifest.train[0].batch if bundle.manifest.train else 2
    x = _images(bundle, batch, generator)
    ones = [x[i : i + 1] for i in range(batch)]
    logits = np.concatenate([model.call("infer", {"x": one})["logits"] for one in ones])
    layers: dict[str, list[Array]] = {layer.name: [] for layer in bundle.layers}
    for one in ones:
        for name, value in model.call("activations", {"x": one}).items():
            layers[name].append(value.reshape(1, -1))
    stacked = {name: np.concatenate(rows) for name, rows in layers.items()}
    same = _difference(stacked[head], logits)
    checks = [Check(MODEL, "activations", "the head's activation is infer's output", same, AGREEMENT_TOLERANCE)]
    grams = model.call("gram", {"x": x})
    errors = []
    for name in body:
        centred = stacked[name].astype(np.float64)
        centred -= centred.mean(axis=0)
        errors.append(_difference(grams[name], centred @ centred.T))
    worst = float(np.max(errors))  # NaN if one of them is, unlike max()
    checks.append(Check(MODEL, "gram", f"equals A·Aᵀ of {len(body)} layers, worst", worst, AGREEMENT_TOLERANCE))
    return checks


def _verify_train(bundle: Bundle, entry: TrainEntry, generator: np.random.Generator, threads: int) -> list[Check]:
    model = LoadedModel(bundle.folder / entry.file, threads)
    subset = subset_of(bundle.layers, entry.layers)
    parameters = subset.parameters()
    found, expected = dict(model.results("get_weights")), {p.name: p.shape for p in parameters}
    if found != expected:
        where = bundle.folder / entry.file
        raise InputError(f"{where} trains {', '.join(found)}, not {', '.join(expected)} as its manifest says")
    x = _images(bundle, entry.batch, generator)
    y = generator.integers(0, bundle.manifest.classes, entry.batch).astype(np.int32)
    # A fresh head is all zeros, and so are the gradients behind it: check somewhere else.
    start = {
        p.name: (value + generator.normal(0, 0.02, value.shape)).astype(np.float32)
        for p, value in ((p, model.call("get_weights")[p.name]) for p in parameters)
    }
    model.call("set_weights", start)
    kept = model.call("get_weights")
    copied = float(np.max([_difference(kept[name], value) for name, value in start.items()]))
    checks = [Check(entry.file, "set_weights", "get_weights returns what was set", copied, 0.0)]

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gradients.tflite"
        write_model(gradient_model(bundle.network, subset, entry.batch), path)
        analytic = LoadedModel(path, threads)
        result = analytic.call("gradients", {"x": x, "y": y, **start})
    logits = model.call("infer", {"x": x})["logits"].astype(np.float64)
    error = abs(_cross_entropy(logits, y) / float(result["loss"]) - 1)
    checks.append(Check(entry.file, "infer", "its logits give the gradient graph's loss", error, AGREEMENT_TOLERANCE))
    for p in parameters:
        checks.append(_finite_difference(entry, model, p, start, x, y, result[p.name]))
    checks += _verify_step(entry, model, start, x, y, result)
    return checks


def _cross_entropy(logits: Array, labels: Array) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-log_probability[np.arange(len(labels)), labels].mean())


def _finite_difference(
    entry: TrainEntry, model: LoadedModel, p: Parameter, start: Mapping[str, Array], x: Array, y: Array, g: Array
) -> Check:
    norm = float(np.linalg.norm(g.astype(np.float64)))

    def error(loss_change: float) -> float:
        h = min(loss_change / norm, 0.05 * float(np.linalg.norm(start[p.name])))
        losses = []
        for sign in (1, -1):
            moved = (start[p.name] + sign * h / norm * g).astype(np.float32)
            model.call("set_weights", {**start, p.name: moved})
            losses.append(_cross_entropy(model.call("infer", {"x": x})["logits"].astype(np.float64), y))
        return abs((losses[0] - losses[1]) / (2 * h) / norm - 1)

    smallest = np.inf
    for loss_change in _LOSS_CHANGES if norm > 0 else ():  # a gradient of zeros never passes: nothing would train
        smallest = min(smallest, error(loss_change))
        if smallest <= GRADIENT_TOLERANCE:
            break
    return Check(entry.file, "train", f"gradient of {p.name}", smallest, GRADIENT_TOLERANCE)


def _verify_step(
    entry: TrainEntry, model: LoadedModel, start: Mapping[str, Array], x: Array, y: Array, result: Mapping[str, Array]
) -> list[Check]:
    """The first step, out of rest: w − lr·clip(g), with lr so large that w visibly moves."""
    model.call("set_weights", start)
    gradients = {name: result[name].astype(np.float64) for name in start}
    norm = float(np.sqrt(sum(np.square(g).sum() for g in gradients.values())))
    scale = min(1.0, Optimizer().clip_norm / norm)
    rate = np.array(
        0.1 / max(scale * np.linalg.norm(g) / np.linalg.norm(start[name]) for name, g in gradients.items()), np.float32
    )
    loss = model.call("train", {"x": x, "y": y, "learning_rate": rate})["loss"]
    moved = model.call("get_weights")
    steps = {name: start[name] - float(rate) * scale * g for name, g in gradients.items()}
    worst = float(np.max([_difference(moved[name], step) for name, step in steps.items()]))
    loss_error = abs(float(loss) / float(result["loss"]) - 1)
    return [
        Check(entry.file, "train", "loss before the step", loss_error, AGREEMENT_TOLERANCE),
        Check(entry.file, "train", "the first step moves by lr·clipped gradient", worst, AGREEMENT_TOLERANCE),
    ]
