"""Which ops have a gradient rule, and what a rule is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from signatures.builder import GraphBuilder
from signatures.graph import Op, Tensor

Gradients = Sequence[Tensor | None]
Rule = Callable[[GraphBuilder, Op, Tensor, Sequence[bool]], Gradients]
"""rule(builder, op, dy, wanted) → one gradient an input of `op`.

`dy` is the gradient with respect to the op's output before its fused activation; `wanted[i]` says whether the
gradient of input i is needed, and the rule emits nothing for the others (None stands for them, and for a gradient
that is zero everywhere). Gradients have the shape of their input.
"""


@dataclass(frozen=True)
class Entry:
    """One row of the table of rules (docs/ops.md)."""

    rule: Rule
    how: str
    """The gradient in a line: the docstring of the rule."""
    limits: str
    """For which inputs the rule holds only."""
    kernels: str
    """What a runtime cannot do with the op."""


_RULES: dict[str, Entry] = {}
RULES: Mapping[str, Entry] = MappingProxyType(_RULES)
"""Every rule, by op kind."""


def gradient(*kinds: str, limits: str = "", kernels: str = "") -> Callable[[Rule], Rule]:
    """Register the decorated function as the gradient rule of the op `kinds`.

    Its docstring says in one line what the gradient is; for the rest see `Entry`.
    """

    def register(rule: Rule) -> Rule:
        assert rule.__doc__, f"the rule of {kinds} has no docstring"
        for kind in kinds:
            assert kind not in _RULES, kind
            _RULES[kind] = Entry(rule, " ".join(rule.__doc__.split()), limits, kernels)
        return rule

    return register
