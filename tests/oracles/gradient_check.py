"""Is a gradient rule right? A small forward graph, differentiated by us, by GradientTape and by differences.

Ours runs in float32 on a TFLite runtime; both oracles run in float64 in TensorFlow. Inputs are drawn so that no value
comes near the kink of an activation, where none of the three need agree.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import tensorflow as tf

from signatures.autodiff import backward
from signatures.builder import GraphBuilder
from signatures.graph import Array, Graph, Model, Signature, Tensor
from signatures.passes import dynamic_products
from tests.oracles import tensorflow_graph
from tests.oracles.other_runtime import Call, Job, Results, Runner

TOLERANCE = 1e-5
"""Relative error of a gradient tensor, as a norm. Float32 alone makes about 1e-7 here."""
KINK_MARGIN = 1e-3
STEP = 1e-6
"""Of the central difference: small against the kink margin, large against float64 rounding."""


@dataclass(frozen=True, eq=False)
class Case:
    """A forward graph of float32 inputs and one output, and the inputs to differentiate it by."""

    name: str
    graph: Graph
    wanted: tuple[Tensor, ...]

    @property
    def output(self) -> Tensor:
        (tensor,) = self.graph.outputs
        return tensor

    @cached_property
    def weights(self) -> Array:
        """The gradient that arrives at the output."""
        return self._random(-1).normal(size=self.output.shape).astype(np.float32)

    @cached_property
    def inputs(self) -> dict[Tensor, Array]:
        """Values on both sides of the kinks, and at a distance from them."""
        for attempt in range(400):
            random = self._random(attempt)
            scale = 2.0 / 2 ** (attempt % 4)
            values = {t: random.normal(0, scale, t.shape).astype(np.float32) for t in self.graph.inputs}
            kinks = tensorflow_graph.kinks(self.graph, {t: tf.constant(v, tf.float64) for t, v in values.items()})
            if kinks.distance > KINK_MARGIN and 0.2 < kinks.passing < 0.9:
                return values
        raise AssertionError(f"{self.name}: every draw comes near a kink or leaves a side empty; change the case")

    @cached_property
    def expected(self) -> tuple[Array, list[Array]]:
        """Output and gradients in float64, by GradientTape."""
        return tensorflow_graph.weighted_sum_gradients(self.graph, self.inputs, self.weights, self.wanted)

    @property
    def job(self) -> Job:
        """Our gradient graph, and a call of it: output first, then the gradients in order."""
        b = GraphBuilder(self.name)
        b.ops, b.inputs = list(self.graph.ops), list(self.graph.inputs)
        seed = b.input("seed", self.output.shape)
        gradients = backward(b, self.graph.ops, {self.output: seed}, self.wanted)
        results = [self.output, *(gradients[tensor] for tensor in self.wanted)]
        # A gradient may be the seed itself; two results over one tensor are a thing of their own to test.
        results = [b.mul(t, b.scalar(1.0)) if results.count(t) > 1 or t is seed else t for t in results]
        graph = dynamic_products(b.graph(results))
        arguments = {f"in_{i}": tensor for i, tensor in enumerate(b.inputs)}
        outputs = {f"out_{i}": tensor for i, tensor in enumerate(results)}
        values = {**self.inputs, seed: self.weights}
        call = Call("f", {name: values[tensor] for name, tensor in arguments.items()})
        return Job(self.name, Model((graph,), (Signature("f", graph, arguments, outputs),)), (call,))

    def _random(self, attempt: int) -> np.random.Generator:
        return np.random.default_rng([zlib.crc32(self.name.encode()), attempt + 1])


def run_cases(run: Runner, cases: Sequence[Case]) -> dict[Case, Results]:
    """What every case returns on one runtime; one call of the runner, which may have to start a process."""
    return dict(zip(cases, run([case.job for case in cases]), strict=True))


def check_gradients(case: Case, results: Results) -> None:
    """Output and gradients of a runtime against GradientTape."""
    (got,) = results
    y, gradients = case.expected
    assert relative_error(got["out_0"], y) < TOLERANCE
    for i, (tensor, gradient) in enumerate(zip(case.wanted, gradients, strict=True)):
        error = relative_error(got[f"out_{i + 1}"], gradient)
        assert error < TOLERANCE, f"gradient of {tensor.name}: relative error {error:.1e}"


def check_differences(case: Case) -> None:
    """GradientTape against a central difference along a random direction."""
    _, gradients = case.expected
    random = case._random(1000)
    directions = [random.normal(size=tensor.shape) for tensor in case.wanted]

    def along(step: float) -> float:
        moved = {t: case.inputs[t] + step * d for t, d in zip(case.wanted, directions, strict=True)}
        return tensorflow_graph.weighted_sum(case.graph, {**case.inputs, **moved}, case.weights)

    slope = (along(STEP) - along(-STEP)) / (2 * STEP)
    products = [float(np.sum(g * d)) for g, d in zip(gradients, directions, strict=True)]
    scale = sum(float(np.linalg.norm(g) * np.linalg.norm(d)) for g, d in zip(gradients, directions, strict=True))
    assert scale > 0, "the gradient is zero: the case tests nothing"
    assert abs(slope - sum(products)) < 1e-7 * scale


def relative_error(got: Array, expected: Array) -> float:
    """‖got − expected‖ / ‖expected‖ in float64; infinite where the shapes differ."""
    if got.shape != expected.shape:
        return float("inf")
    difference = float(np.linalg.norm(got.astype(np.float64) - expected))
    return difference / max(float(np.linalg.norm(expected)), np.finfo(np.float64).tiny)
