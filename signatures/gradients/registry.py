"""Which ops have a gradient rule, and what a rule is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from signatures.builder import GraphBuilder
from signatures.graph import Op, Tensor

Rule = Callable[[GraphBuilder, Op, Tensor, Sequence[bool]], Sequence[Tensor | None]]
"""rule(builder, op, dy, wanted) → one gradient an input of `op`.

`dy` is the gradient with respect to the op's output before its fused activation; `wanted[i]` says whether the
gradient of input i is needed, and the rule emits nothing for the others (None stands for them). Gradients have
the shape of their input.
"""

_RULES: dict[str, Rule] = {}


def gradient(*kinds: str) -> Callable[[Rule], Rule]:
    """Register the decorated function as the gradient rule of the op `kinds`."""

    def register(rule: Rule) -> Rule:
        for kind in kinds:
            assert kind not in _RULES, kind
            _RULES[kind] = rule
        return rule

    return register


def rule_of(kind: str) -> Rule | None:
    """The rule of op `kind`, or None."""
    return _RULES.get(kind)
