"""Variables of a train file: trained weights and optimizer state, where they start, how a step changes them.

Every graph that touches one calls the graph of initial values once, before anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from signatures.builder import GraphBuilder
from signatures.graph import Graph, Signature, Tensor
from signatures.optimizers import Optimizer, Trained, step
from signatures.subset import Parameter


def initial_values(network: Graph, parameters: Sequence[Parameter], optimizer: Optimizer) -> Graph:
    """The graph that creates all variables: weights as in `network`, optimizer state at zero, counters at one."""
    b = GraphBuilder("initial_values")
    for p in parameters:
        op, slot = p.slot
        b.assign(b.variable(p.name), network.ops[op].input(slot))
        for state in optimizer.slots:
            zeros = b.emit("FILL", (b.ints(p.shape, "shape"), b.scalar(0.0)))
            b.assign(b.variable(_state_name(p, state)), zeros)
    for name in optimizer.counters:
        b.assign(b.variable(name), b.const(np.array(1.0, np.float32)))
    return b.graph([])


def _state_name(parameter: Parameter, slot: str) -> str:
    return f"{parameter.name}/{slot}"


def read_weights(b: GraphBuilder, parameters: Sequence[Parameter]) -> dict[Parameter, Tensor]:
    """The trained weights of the moment."""
    return {p: b.read(b.variable(p.name), p.shape, p.name) for p in parameters}


def emit_step(
    b: GraphBuilder,
    optimizer: Optimizer,
    weights: Mapping[Parameter, Tensor],
    gradients: Mapping[Parameter, Tensor],
    rate: Tensor,
) -> None:
    """Emit one step of the optimizer, which changes weights and state. Every use of a weight has to come before."""
    states = {p: [b.variable(_state_name(p, slot)) for slot in optimizer.slots] for p in weights}
    counters = [b.variable(name) for name in optimizer.counters]
    trained = [
        Trained(
            weight,
            gradients[p],
            tuple(
                b.read(handle, p.shape, _state_name(p, slot))
                for handle, slot in zip(states[p], optimizer.slots, strict=True)
            ),
            decays=not p.is_bias,
        )
        for p, weight in weights.items()
    ]
    powers = [b.read(handle, (), name) for handle, name in zip(counters, optimizer.counters, strict=True)]
    updates, new_powers = step(b, optimizer, trained, powers, rate)
    for p, update in zip(weights, updates, strict=True):
        b.assign(b.variable(p.name), update.value)
        for handle, state in zip(states[p], update.state, strict=True):
            b.assign(handle, state)
    for handle, power in zip(counters, new_powers, strict=True):
        b.assign(handle, power)


def get_weights(parameters: Sequence[Parameter], start_graph: int) -> Signature:
    """get_weights() → the trained tensors, by name."""
    b = GraphBuilder("get_weights")
    b.call_once(start_graph)
    weights = read_weights(b, parameters)
    return Signature("get_weights", b.graph(list(weights.values())), {}, {p.name: w for p, w in weights.items()})


def set_weights(parameters: Sequence[Parameter], start_graph: int) -> Signature:
    """set_weights(the trained tensors, by name)."""
    b = GraphBuilder("set_weights")
    b.call_once(start_graph)
    inputs = {p.name: b.input(p.name, p.shape) for p in parameters}
    for p in parameters:
        b.assign(b.variable(p.name), inputs[p.name])
    return Signature("set_weights", b.graph([]), inputs, {})
