"""Ten steps of training with ImageNet weights, real ReLU6 and real images stay equal to TensorFlow's, on both runtimes.

TensorFlow computes in float32 here: with all layers training, values within rounding of a ReLU6 kink part float32 from
float64 by 1e-3 in ten steps, whoever computes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ondevice.dataset import Split, open_dataset, shuffled_batches, to_input
from signatures.build import train_model
from signatures.catalogue import read_bundle
from signatures.optimizers import Optimizer
from signatures.subset import Subset, subset_of
from tests.end_to_end.conftest import BATCH, IMAGE
from tests.oracles import tensorflow_graph
from tests.oracles.other_runtime import Call, Job, Runner

STEPS, RATE, TOLERANCE = 10, 0.01, 1e-3
TOLERANCE_FROM_ZERO = 1e-2
"""For the head's weights where all layers train: they start at zero, so all that is compared there is change."""
Inputs = list[dict[str, np.ndarray]]


def tensorflow_training(network: object, subset: Subset, inputs: Inputs) -> tuple[list[float], dict[str, np.ndarray]]:
    """Losses and final weights of SGD with momentum 0.9 and a gradient norm clipped at 1, step by step."""
    values = tensorflow_graph.variables(network, subset)
    momentum = {p: np.zeros(p.shape) for p in values}
    losses = []
    for step in inputs:
        loss, gradients = tensorflow_graph.loss_and_gradients(network, step["x"], step["y"], values)
        losses.append(loss)
        norm = np.sqrt(sum(np.square(g.astype(np.float64)).sum() for g in gradients.values()))
        for p, variable in values.items():
            momentum[p] = 0.9 * momentum[p] + min(1.0, 1.0 / norm) * gradients[p.name]
            variable.assign(variable.numpy() - RATE * momentum[p])
    return losses, {p.name: v.numpy() for p, v in values.items() if not p.is_bias}


def blotches(count: int, side: int) -> np.ndarray:
    """Random pictures uint8 [count, side, side, 3] of 4-pixel squares: no flat background, where whole areas of a map
    sit on one ReLU6 kink.
    """
    coarse = np.random.default_rng(0).integers(0, 256, (count, side // 4, side // 4, 3), np.uint8)
    return coarse.repeat(4, 1).repeat(4, 2)


@pytest.mark.parametrize("trained", ["b1's pick", "all layers"])
def test_ten_steps_equal_tensorflow(
    run: Runner, trained: str, mobilenet: Path, few_digits: Path, weights: str, tmp_path: Path
) -> None:
    if weights == "random":
        pytest.skip("no ImageNet weights here")
    bundle = read_bundle(mobilenet)
    names = bundle.manifest.train[-1].layers if trained == "b1's pick" else [layer.name for layer in bundle.layers]
    subset = subset_of(bundle.layers, names)
    split = open_dataset(few_digits, IMAGE, tmp_path, 0).train
    if trained == "all layers":
        split = Split(blotches(len(split), IMAGE), split.labels)
    rate = np.array(RATE, np.float32)
    shuffled = [split.take(rows) for epoch in range(2) for rows, _ in shuffled_batches(len(split), BATCH, epoch, 0)]
    inputs = [
        {"x": to_input(images, bundle.manifest.preprocessing), "y": labels, "learning_rate": rate}
        for images, labels in shuffled[:STEPS]
    ]
    assert len(inputs) == STEPS
    model = train_model(bundle.network, subset, BATCH, Optimizer())
    calls = (*(Call("train", step) for step in inputs), Call("get_weights", {}))
    (results,) = run([Job(trained, model, calls)])
    losses, expected = tensorflow_training(bundle.network, subset, inputs)
    np.testing.assert_allclose([float(r["loss"]) for r in results[:STEPS]], losses, rtol=TOLERANCE)
    for name, value in expected.items():
        fresh = trained == "all layers" and name.startswith(bundle.layers[-1].name)
        tolerance = TOLERANCE_FROM_ZERO if fresh else TOLERANCE
        assert np.linalg.norm(results[-1][name] - value) <= tolerance * np.linalg.norm(value), name
