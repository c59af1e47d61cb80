"""What each op of a train graph is for: which layer, forward or backward; as far as the graph itself tells.

Tensors of the forward part are called by their layers. Those of the gradients have no names of their own, but what they
read and what needs them says it: an op that only one parameter's gradient needs is that gradient's, and on its way back
the gradient of a layer's input meets the layer's weights and what its activation let pass.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from signatures.graph import Graph, Op, Signature, Tensor
from signatures.layers import weight_slot

FORWARD, LOSS, TO_INPUT, TO_WEIGHT, UPDATE = STAGES = (
    "forward",
    "loss",
    "gradient of input",
    "gradient of weight",
    "backward, update",
)
"""The last: all that comes behind the forward part of a signature that hands out no gradients."""
_PARAMETERS = ("weight", "bias")


@dataclass(frozen=True)
class Role:
    """What an op is for."""

    layer: str
    """Empty where there are no layers."""
    stage: str


def roles(signature: Signature) -> dict[Op, Role]:
    """The role of each op of a signature's graph. Gradients are results called `<layer>/weight` or `<layer>/bias`."""
    graph = signature.graph
    gradients = {tensor: name for name, tensor in signature.outputs.items() if _layer_of(name)}
    forward = _needed_by(graph, [tensor for tensor in signature.outputs.values() if tensor not in gradients])
    read = [t.name for op in graph.ops if op.kind == "READ_VARIABLE" for t in op.outputs]
    found = _forward(graph, forward, {_layer_of(name) for name in (*gradients.values(), *read)} - {""})
    if not gradients:
        return {op: found.get(op, Role("", UPDATE)) for op in graph.ops}
    loss = set()
    if "truth" in signature.inputs:
        truth = signature.inputs["truth"]
        loss = _needed_by(graph, [t for op in graph.ops if truth in op.inputs for t in op.outputs]) - forward
        found |= dict.fromkeys(loss, Role("", LOSS))
    return found | _backward(signature, gradients, found)


def _layer_of(parameter: str) -> str:
    """The layer of a parameter; empty for any other name."""
    layer, _, what = parameter.rpartition("/")
    return layer if what in _PARAMETERS else ""


def _needed_by(graph: Graph, results: Iterable[Tensor]) -> set[Op]:
    wanted = set(results)
    found = set()
    for op in reversed(graph.ops):
        if not wanted.isdisjoint(op.outputs):
            found.add(op)
            wanted.update(t for t in op.inputs if t is not None)
    return found


def _forward(graph: Graph, forward: Collection[Op], trained: Collection[str]) -> dict[Op, Role]:
    """Ops that are no part of a layer go to the one before them."""
    ops = [op for op in graph.ops if op in forward]
    layers = {op.output.name for op in ops if len(op.outputs) == 1 and weight_slot(op) is not None} | set(trained)
    own = [next((name for known in (trained, layers) for name in _prefixes(op) if name in known), "") for op in ops]
    layer = next(filter(None, own), "")
    found = {}
    for op, name in zip(ops, own, strict=True):
        layer = name or layer
        found[op] = Role(layer, FORWARD)
    return found


def _prefixes(op: Op) -> Iterable[str]:
    """a/b/c, a/b, a."""
    name = op.outputs[0].name if op.outputs else ""
    while name:
        yield name
        name = name.rpartition("/")[0]


def _backward(signature: Signature, gradients: Mapping[Tensor, str], known: Mapping[Op, Role]) -> dict[Op, Role]:
    graph = signature.graph
    backward = [op for op in graph.ops if op not in known]
    weights = _weights(signature, known)
    met = {op: next((weights[key] for key in map(_key, op.inputs) if key in weights), "") for op in backward}
    needing, passing = _needs(graph, backward, gradients, met)
    masks = _from_forward_alone(backward, known)
    order = {layer: i for i, layer in enumerate(dict.fromkeys(role.layer for role in known.values() if role.layer))}
    current = max(order, key=lambda layer: order[layer], default="")
    found = {}
    for op in backward:
        names = needing[op]
        if len(names) == 1 and passing[op] <= {_layer_of(*names)}:
            found[op] = Role(_layer_of(*names), TO_WEIGHT)
            continue
        layer = met[op] or masks.get(op, "")
        if order.get(layer, len(order)) < order.get(current, len(order)):
            current = layer
        found[op] = Role(current, TO_INPUT)
    return found


def _weights(signature: Signature, known: Mapping[Op, Role]) -> dict[object, str]:
    """By the key of each layer's weights, constant or not: the layer."""
    found = {_key(tensor): _layer_of(name) for name, tensor in signature.inputs.items() if name.endswith("/weight")}
    for op, role in known.items():
        slot = weight_slot(op)
        if slot is not None and role.stage == FORWARD:
            found[_key(op.input(slot))] = role.layer
    return found


def _key(tensor: Tensor | None) -> object:
    """The same for a layer's constant weights in another shape, or turned round as `gradients.convolution` does it."""
    if tensor is None or tensor.data is None:
        return tensor
    return tensor.name.removesuffix("/adjoint"), tensor.size


def _needs(
    graph: Graph, backward: Collection[Op], gradients: Mapping[Tensor, str], met: Mapping[Op, str]
) -> tuple[dict[Op, set[str]], dict[Op, set[str]]]:
    """Of each backward op: the parameters whose gradients need it, and the layers whose weights lie on the way there,
    its own included.
    """
    readers = graph.consumers()
    needing: dict[Op, set[str]] = {}
    passing: dict[Op, set[str]] = {}
    for op in reversed(graph.ops):
        if op in met:
            later = [reader for t in op.outputs for reader in readers.get(t, ()) if reader in met]
            needing[op] = {gradients[t] for t in op.outputs if t in gradients}.union(*(needing[r] for r in later))
            passing[op] = ({met[op]} - {""}).union(*(passing[r] for r in later))
    return needing, passing


def _from_forward_alone(backward: Collection[Op], known: Mapping[Op, Role]) -> dict[Op, str]:
    """Backward ops that no gradient has reached yet, and the layer of what they read: what an activation let pass."""
    made = {t: role.layer for op, role in known.items() if role.stage == FORWARD for t in op.outputs}
    found: dict[Op, str] = {}
    for op in backward:
        layers = [made[t] for t in op.inputs if t in made]
        if layers and all(t is None or t.data is not None or t in made for t in op.inputs):
            found[op] = layers[0]
            made.update(dict.fromkeys(op.outputs, layers[0]))
    return found
