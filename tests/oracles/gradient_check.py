"""Is a gradient rule right? A small forward graph, differentiated by us, by GradientTape and by differences.

Ours runs in float32 on a TFLite runtime; both oracles run in float64 in TensorFlow. Inputs are drawn so that no value
comes near the kink of an activation, where none of the three need agree.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf

from signatures.autodiff import backward
from signatures.build import lowered
from signatures.builder import GraphBuilder
from signatures.graph import Array, Graph, Model, Op, Signature, Tensor
from signatures.passes import with_single_results
from tests.oracles import tensorflow_graph
from tests.oracles.other_runtime import Call, Job, Results, Runner

TOLERANCE = 1e-5
"""Relative error of a gradient tensor, as a norm. Float32 alone makes about 1e-7 here."""
ROUNDING = 2.0**-23
AMPLIFIED = 16
"""Where a value is what is left of larger ones, float32 is the limit: an error may be this many times what float64
answers to a rounding of the inputs."""
KINK_MARGIN = 1e-3
STEP = 1e-6
"""Of the central difference: small against the kink margin, large against float64 rounding."""

Draw = Callable[[np.random.Generator, float, tuple[int, ...]], Array]
"""Values of an input: draw(random, scale, shape)."""


def normal(random: np.random.Generator, scale: float, shape: tuple[int, ...]) -> Array:
    """On both sides of zero."""
    return random.normal(0, scale, shape)


def wide(random: np.random.Generator, scale: float, shape: tuple[int, ...]) -> Array:
    """Some far out, where exponentials overflow; the first is not, so that a gradient is more than rounding."""
    values = np.array(random.normal(0, scale, shape) * np.where(random.random(shape) < 0.2, 40.0, 1.0))
    values.flat[0] = random.uniform(-1.5, 1.5)
    return values


def wide_rows(random: np.random.Generator, scale: float, shape: tuple[int, ...]) -> Array:
    """Some rows along the last axis far out, as of a classifier that is sure; the first is not."""
    values = random.normal(0, scale, (math.prod(shape[:-1]), shape[-1]))
    values[0] = random.uniform(-0.5, 0.5, shape[-1])
    values[1:] *= np.where(random.random((len(values) - 1, 1)) < 0.2, 40.0, 1.0)
    return values.reshape(shape)


def positive(random: np.random.Generator, _scale: float, shape: tuple[int, ...]) -> Array:
    """From 1/4 to 4: for logarithms, roots, and what is raised to a power."""
    return np.exp2(random.uniform(-2, 2, shape))


def nonzero(random: np.random.Generator, _scale: float, shape: tuple[int, ...]) -> Array:
    """Of both signs, from 1/2 to 2 in magnitude: for divisors."""
    return random.choice((-1.0, 1.0), shape) * np.exp2(random.uniform(-1, 1, shape))


def distinct(random: np.random.Generator, scale: float, shape: tuple[int, ...]) -> Array:
    """No two close to each other: for maxima, where drawing until none tie would take forever."""
    count = math.prod(shape)
    ranks = random.permutation(count) - count / 2 + random.uniform(0, 0.5, count)
    return scale * ranks.reshape(shape) * 3 / count


def whole(random: np.random.Generator, _scale: float, shape: tuple[int, ...]) -> Array:
    """Few different whole numbers: on kinks, and many equal."""
    return random.choice((-2.0, 0.0, 1.0, 6.0), shape)


def zero_or_one(random: np.random.Generator, _scale: float, shape: tuple[int, ...]) -> Array:
    """For what is cast to a condition."""
    return random.integers(0, 2, shape).astype(np.float64)


class NoValuesError(AssertionError):
    """No inputs of a case keep away from its kinks: a constant lies on one, or a range on one side of it."""


@dataclass(frozen=True, eq=False, repr=False)
class Case:
    """A forward graph of float32 inputs and one output, and the inputs to differentiate it by."""

    name: str
    graph: Graph
    wanted: tuple[Tensor, ...]
    draws: Mapping[Tensor, Draw] = field(default_factory=dict)
    """How the values of an input are drawn, if not from a normal distribution."""
    on_kinks: bool = False
    """Whether values may lie on kinks: there is no slope there, only TensorFlow's convention."""

    def __repr__(self) -> str:
        ops = "".join(f"\n  {_described(op)}" for op in self.graph.ops)
        return f"{self.name}, by {', '.join(tensor.name for tensor in self.wanted)}:{ops}\n"

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        printer.text(repr(self))  # Hypothesis would spell out the fields of a dataclass

    @property
    def output(self) -> Tensor:
        (tensor,) = self.graph.outputs
        return tensor

    @cached_property
    def weights(self) -> Array:
        """The gradient that arrives at the output: nowhere so small that another entry's rounding hides it."""
        return nonzero(self._random(-1), 1.0, self.output.shape).astype(np.float32)

    @cached_property
    def inputs(self) -> dict[Tensor, Array]:
        """Values on both sides of the kinks, and at a distance from them."""
        for attempt in range(400):
            random = self._random(attempt)
            scale = 2.0 / 2 ** (attempt % 4)
            draws = {t: self.draws.get(t, normal) for t in self.graph.inputs}
            values = {t: draw(random, scale, t.shape).astype(np.float32) for t, draw in draws.items()}
            if self.on_kinks:
                return values
            kinks = tensorflow_graph.kinks(self.graph, {t: tf.constant(v, tf.float64) for t, v in values.items()})
            if kinks.distance > KINK_MARGIN and 0.2 < kinks.passing < 0.9:
                return values
        raise NoValuesError(f"{self.name}: every draw comes near a kink or leaves a side empty; change the case")

    @cached_property
    def expected(self) -> tuple[Array, list[Array]]:
        """Output and gradients in float64, by GradientTape."""
        return tensorflow_graph.weighted_sum_gradients(self.graph, self.inputs, self.weights, self.wanted)

    @cached_property
    def amplification(self) -> list[float]:
        """How a rounding of all inputs moves the output and the gradients: relative change over relative change.

        The largest of several: two numbers rounded the same way say nothing of their difference.
        """
        random = self._random(2000)
        exact = (self.expected[0], *self.expected[1])

        def rounded(value: Array) -> Array:
            return value.astype(np.float64) * (1 + ROUNDING * random.choice((-1.0, 1.0), value.shape))

        def moved() -> list[float]:
            inputs = {tensor: rounded(value) for tensor, value in self.inputs.items()}
            weights = rounded(self.weights)
            y, gradients = tensorflow_graph.weighted_sum_gradients(self.graph, inputs, weights, self.wanted)
            return [relative_error(a, b) / ROUNDING for a, b in zip((y, *gradients), exact, strict=True)]

        return [max(each) for each in zip(*(moved() for _ in range(8)), strict=True)]

    @property
    def job(self) -> Job:
        """Our gradient graph, and a call of it: output first, then the gradients in order."""
        b = GraphBuilder(self.name)
        forward = with_single_results(self.graph)
        b.ops, b.inputs = list(forward.ops), list(forward.inputs)
        seed = b.input("seed", self.output.shape)
        gradients = backward(b, forward.ops, {self.output: seed}, self.wanted)
        results = [self.output, *(gradients[tensor] for tensor in self.wanted)]
        # A gradient may be the seed itself; two results over one tensor are a thing of their own to test.
        results = [b.mul(t, b.scalar(1.0)) if results.count(t) > 1 or t is seed else t for t in results]
        graph = lowered(b.graph(results))
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
    for i, (name, expected) in enumerate(zip(["output", *(t.name for t in case.wanted)], [y, *gradients], strict=True)):
        result = got[f"out_{i}"]
        error = relative_error(result, expected)
        tolerance = TOLERANCE
        if error >= tolerance and not case.on_kinks:  # on a kink, rounding moves the oracle as far as an error would
            tolerance = max(tolerance, AMPLIFIED * ROUNDING * case.amplification[i])
        what = "output" if i == 0 else f"gradient of {name}"
        assert error < tolerance, f"{what}: relative error {error:.1e}, {result.shape} for {expected.shape}"


def check_differences(case: Case) -> None:
    """GradientTape against a central difference along a random direction."""
    y, gradients = case.expected
    random = case._random(1000)
    directions = [random.normal(size=tensor.shape) for tensor in case.wanted]

    def along(step: float) -> float:
        moved = {t: case.inputs[t] + step * d for t, d in zip(case.wanted, directions, strict=True)}
        return tensorflow_graph.weighted_sum(case.graph, {**case.inputs, **moved}, case.weights)

    slope = (along(STEP) - along(-STEP)) / (2 * STEP)
    products = [float(np.sum(g * d)) for g, d in zip(gradients, directions, strict=True)]
    scale = sum(float(np.linalg.norm(g) * np.linalg.norm(d)) for g, d in zip(gradients, directions, strict=True))
    assert scale > 0, "the gradient is zero: the case tests nothing"
    rounding = 4 * np.finfo(np.float64).eps * float(np.sum(np.abs(case.weights * y))) / STEP
    assert abs(slope - sum(products)) < 1e-7 * scale + rounding, f"slope {slope}, by GradientTape {sum(products)}"


def relative_error(got: Array, expected: Array) -> float:
    """‖got − expected‖ / ‖expected‖ in float64; infinite where the shapes differ."""
    if got.shape != expected.shape:
        return float("inf")
    difference = float(np.linalg.norm(got.astype(np.float64) - expected))
    return difference / max(float(np.linalg.norm(expected)), np.finfo(np.float64).tiny)


def _described(op: Op) -> str:
    """The op on one line: shapes of what it reads, values of integer constants, options."""

    def named(tensor: Tensor | None) -> str:
        if tensor is None:
            return "none"
        if tensor.data is not None and tensor.dtype != "float32":
            return str(tensor.data.tolist())
        return f"{'constant ' * (tensor.data is not None)}{tensor.name}{list(tensor.shape)}"

    made = ", ".join(named(tensor) for tensor in op.outputs)
    return f"{made} = {op.kind}({', '.join(map(named, op.inputs))}) {dict(op.options.fields) or ''}"
