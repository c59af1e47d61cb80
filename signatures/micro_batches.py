"""Training in micro-batches: what the device runs. A train step of a whole batch in one graph is `build.train_model`.

`prefix` computes what crosses a cut; `accumulate` adds the gradients of a few images to variables; `apply` makes one
step with what has been added. Nothing in a network with folded BatchNorm couples the images of a batch, so gradients of
its micro-batches add up to the batch's. All that `accumulate` computes fits into one XNNPACK part where the trained
layers are pointwise or dense: hence class probabilities minus `truth`, and no loss, whose ops would cut it in two.
"""

from __future__ import annotations

from collections.abc import Sequence

from signatures.build import gradients_of, logits_of, lowered
from signatures.builder import GraphBuilder
from signatures.graph import Graph, Model, Options, Signature, Tensor
from signatures.optimizers import Optimizer
from signatures.replay import Slot, replay
from signatures.subset import Parameter, Subset
from signatures.variables import emit_step, get_weights, initial_values, read_weights, state_name, zeros

_START_GRAPH = 3
_GRADIENT = "gradient"


def input_name(position: int) -> str:
    """Name of an input of `accumulate`, and of the output of `prefix` that it is fed with: x0, x1 …"""
    return f"x{position}"


def prefix_model(prefix: Graph, batch: int) -> Model:
    """prefix(x float32 [batch, H, W, C]) → x0, x1 …: what crosses the cut, float32 [batch, elements of one image]."""
    b = GraphBuilder("prefix")
    (source,) = prefix.inputs
    x = b.input("x", (batch, *source.shape[1:]))
    replayed = replay(b, prefix, [x], batch)
    outputs = {input_name(i): replayed.by_image(b, tensor) for i, tensor in enumerate(prefix.outputs)}
    graph = lowered(b.graph(list(outputs.values())))
    return Model((graph,), (Signature("prefix", graph, {"x": x}, outputs),))


def suffix_model(suffix: Graph, subset: Subset, micro_batch: int, batch: int, optimizer: Optimizer) -> Model:
    """A train file for the layers `subset` of `suffix`; a batch is `batch` / `micro_batch` calls of `accumulate`.

    accumulate(x0, x1 …, truth float32 [micro_batch, classes]) → logits float32 [micro_batch, classes], from which the
    loss follows; x0 … are the suffix's inputs, the images of the micro-batch one behind the other along the first axis,
    and truth has a row for each image, one at its class and zero elsewhere. apply(learning_rate float32 scalar) makes a
    step with the mean gradient over `batch` images and starts anew at zero. get_weights() → trained tensors, by name.
    """
    parameters = subset.parameters()
    signatures = (
        _accumulate(suffix, parameters, micro_batch, batch),
        _apply(parameters, optimizer),
        get_weights(parameters, _START_GRAPH),
    )
    start = initial_values(suffix, parameters, optimizer, also=(_GRADIENT,))
    graphs = (*(signature.graph for signature in signatures), start)
    assert graphs.index(start) == _START_GRAPH
    return Model(graphs, signatures)


def _accumulate(suffix: Graph, parameters: Sequence[Parameter], micro_batch: int, batch: int) -> Signature:
    b = GraphBuilder("accumulate")
    xs = [b.input(input_name(i), (micro_batch * t.shape[0], *t.shape[1:])) for i, t in enumerate(suffix.inputs)]
    truth = b.input("truth", (micro_batch, logits_of(suffix).shape[-1]))
    b.call_once(_START_GRAPH)
    weights = read_weights(b, parameters)
    substitutes: dict[Slot, Tensor] = {p.slot: weight for p, weight in weights.items()}
    logits = replay(b, suffix, xs, micro_batch, substitutes).by_image(b, logits_of(suffix))
    forward = tuple(b.ops)
    probability = b.emit("SOFTMAX", (logits,), Options("SoftmaxOptions", {"Beta": 1.0}))
    error = b.scale(b.sub(probability, truth), 1.0 / batch, "logits/gradient")
    gradients = gradients_of(b, forward, {logits: error}, weights)
    handles = {p: b.variable(state_name(p, _GRADIENT)) for p in parameters}
    for p, handle in handles.items():
        b.assign(handle, b.add(b.read(handle, p.shape, state_name(p, "before")), gradients[p]))
    inputs = {x.name: x for x in (*xs, truth)}
    return Signature("accumulate", lowered(b.graph([logits])), inputs, {"logits": logits})


def _apply(parameters: Sequence[Parameter], optimizer: Optimizer) -> Signature:
    b = GraphBuilder("apply")
    rate = b.input("learning_rate", ())
    b.call_once(_START_GRAPH)
    handles = {p: b.variable(state_name(p, _GRADIENT)) for p in parameters}
    gradients = {p: b.read(handle, p.shape, state_name(p, _GRADIENT)) for p, handle in handles.items()}
    emit_step(b, optimizer, read_weights(b, parameters), gradients, rate)
    for p, handle in handles.items():
        b.assign(handle, zeros(b, p))
    return Signature("apply", lowered(b.graph([])), {"learning_rate": rate}, {})
