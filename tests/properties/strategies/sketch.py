"""Sketch: a case in the making. What every strategy draws: shapes, roles of inputs, activations, axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from hypothesis import reject
from hypothesis import strategies as st

from signatures.builder import NO_ACTIVATION, RELU, RELU6, RELU_N1_TO_1, GraphBuilder
from signatures.graph import Options, OptionValue, Tensor
from signatures.shapes import infer
from tests.oracles.gradient_check import Case, Draw, NoValuesError, normal

T = TypeVar("T")
Shape = tuple[int, ...]

DIFFERENTIATED, INPUT, CONSTANT = "differentiated", "input", "constant"
ACTIVATIONS = (NO_ACTIVATION, RELU, RELU_N1_TO_1, RELU6)
LEAST_FOR_ACTIVATION = 8
"""Elements of an output that may have an activation: with fewer, no draw puts some on either side of its kink."""


class Sketch:
    """A GraphBuilder and Hypothesis' draw; `roles` says what each operand is, and one at least is differentiated."""

    def __init__(self, draw: st.DrawFn, kind: str) -> None:
        self.draw = draw
        seed = draw(st.integers(0, 9999))
        self.b = GraphBuilder(f"{kind.lower()}-{seed}")  # the name is the seed of a case's values
        self.wanted: list[Tensor] = []
        self.draws: dict[Tensor, Draw] = {}
        self._random = np.random.default_rng(seed)

    # What is drawn ----------------------------------------------------------------------------------------------------

    def pick(self, *values: T) -> T:
        return self.draw(st.sampled_from(values))

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def pair(self, low: int, high: int) -> tuple[int, int]:
        return self.integer(low, high), self.integer(low, high)

    def shape(self, low: int, high: int, least: int = 1, most: int = 4) -> Shape:
        """A shape of `low` to `high` axes."""
        sides = st.integers(least, most)
        return tuple(self.draw(st.lists(sides, min_size=low, max_size=high)))

    def axes(self, rank: int) -> tuple[int, ...]:
        """A set of axes that is not empty, some counted from the end."""
        axes = self.draw(st.sets(st.integers(0, rank - 1), min_size=1))
        return tuple(self.either_sign(axis, rank) for axis in axes)

    def axis(self, rank: int) -> int:
        return self.either_sign(self.integer(0, rank - 1), rank)

    def either_sign(self, axis: int, rank: int) -> int:
        return self.pick(axis, axis - rank)

    def roles(self, count: int) -> list[str]:
        """What each of an op's operands is: one at least is to be differentiated."""
        kinds = st.lists(st.sampled_from((DIFFERENTIATED, INPUT, CONSTANT)), min_size=count, max_size=count)
        return self.draw(kinds.filter(lambda roles: DIFFERENTIATED in roles))

    def broadcast_shapes(self, high: int) -> tuple[Shape, Shape]:
        """Two shapes of up to `high` axes that broadcast: equal, or with sides of 1, or one of them shorter."""
        whole = self.shape(0, high)
        shapes = []
        for _ in range(2):
            lead = self.integer(0, len(whole)) if self.flag() else 0
            ones = self.draw(st.sets(st.integers(0, max(len(whole) - 1, 0)))) if self.flag() else set()
            shapes.append(tuple(1 if i in ones else side for i, side in enumerate(whole))[lead:])
        return shapes[0], shapes[1]

    # What it becomes --------------------------------------------------------------------------------------------------

    def x(self, shape: Shape, values: Draw = normal, name: str = "x") -> Tensor:
        """An input to differentiate by."""
        return self.operand(DIFFERENTIATED, name, shape, values)

    def operand(self, role: str, name: str, shape: Shape, values: Draw = normal) -> Tensor:
        if role == CONSTANT:
            return self.b.const(values(self._random, 1.0, shape).astype(np.float32), name)
        tensor = self.b.input(name, shape)
        self.draws[tensor] = values
        if role == DIFFERENTIATED:
            self.wanted.append(tensor)
        return tensor

    def operands(self, shapes: Sequence[Shape], values: Sequence[Draw] = ()) -> list[Tensor]:
        """Operands in the roles that are drawn for them."""
        draws = values or [normal] * len(shapes)
        names = ("x", "y") if len(shapes) == 2 else ("x", "w", "bias")
        return [self.operand(*each) for each in zip(self.roles(len(shapes)), names, shapes, draws, strict=False)]

    def fused(self, kind: str, inputs: Sequence[Tensor | None], table: str, **fields: OptionValue) -> Tensor:
        """The op with a fused activation, where its output is large enough for one."""
        shape, _ = infer(kind, inputs, Options(table, fields))
        if math.prod(shape) >= LEAST_FOR_ACTIVATION:
            fields["FusedActivationFunction"] = self.pick(*ACTIVATIONS)
        return self.b.emit(kind, inputs, Options(table, fields))

    def op(self, kind: str, inputs: Sequence[Tensor | None], table: str = "NONE", **fields: OptionValue) -> Case:
        """The case of one op with these options."""
        return self.case(self.b.emit(kind, inputs, Options(table, fields)))

    def case(self, y: Tensor) -> Case:
        """The case of this graph; another is drawn where a constant leaves no values away from its kinks."""
        case = Case(self.b.name, self.b.graph([y]), tuple(self.wanted), self.draws)
        try:
            assert case.inputs
        except NoValuesError:
            reject()
        return case
