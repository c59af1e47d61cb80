"""Reverse mode over a list of ops, for the tensors wanted and nothing that they do not need."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from signatures.builder import GraphBuilder
from signatures.errors import InputError
from signatures.gradients import rule_of
from signatures.gradients.elementwise import through_activation
from signatures.graph import Op, Tensor


def dependents(ops: Sequence[Op], sources: Collection[Tensor]) -> set[Tensor]:
    """`sources` and every tensor that `ops` compute from them: where gradients have to pass."""
    reached = set(sources)
    for op in ops:
        if not reached.isdisjoint(op.inputs):
            reached.update(op.outputs)
    return reached


def backward(
    b: GraphBuilder, ops: Sequence[Op], seeds: Mapping[Tensor, Tensor], wanted: Collection[Tensor]
) -> dict[Tensor, Tensor]:
    """Emit into `b` the gradients of Σ seeds·tensors with respect to `wanted`.

    `ops` are the forward ops in order; `seeds` gives, for each output, the gradient that arrives there, of the same
    shape. Returns the gradient of each wanted tensor that the outputs depend on. InputError if a gradient has to
    pass an op without a rule.
    """
    live = dependents(ops, wanted)
    gradients = dict(seeds)
    for op in reversed(ops):
        needed = [tensor is not None and tensor in live for tensor in op.inputs]
        if not any(needed) or not any(output in gradients for output in op.outputs):
            continue
        rule = rule_of(op.kind)
        if rule is None or len(op.outputs) != 1:
            raise InputError(
                f"no gradient rule for {op.kind}, which makes {op.outputs[0].name!r}: train only layers behind it"
            )
        arriving = gradients[op.output] if op.output in wanted else gradients.pop(op.output)
        leaving = rule(b, op, through_activation(b, op, arriving), needed)
        for tensor, gradient in zip(op.inputs, leaving, strict=True):
            if tensor is None or gradient is None:
                continue
            assert gradient.shape == tensor.shape, (op.kind, tensor.name, gradient.shape, tensor.shape)
            gradients[tensor] = b.add(gradients[tensor], gradient) if tensor in gradients else gradient
    return {tensor: gradients[tensor] for tensor in wanted if tensor in gradients}
