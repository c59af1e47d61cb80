"""Training in micro-batches: what the device runs. A train step of a whole batch in one graph is `build.train_model`.

`prefix` computes what crosses a cut; `gradients` takes it for a few images, and the weights, and gives the gradients.
Nothing in a network with folded BatchNorm couples the images of a batch, so gradients of its micro-batches add up to
the batch's. Weights go in and gradients come out as plain tensors; the optimizer and its state are outside. All of
`gradients` fits into one XNNPACK part where the trained layers are pointwise or dense: hence class probabilities minus
`truth`, and no loss, whose ops would cut it in two.
"""

from __future__ import annotations

from signatures.build import gradients_of, logits_of, lowered
from signatures.builder import GraphBuilder
from signatures.graph import Graph, Model, Options, Signature, Tensor
from signatures.replay import Slot, replay
from signatures.subset import Subset


def input_name(position: int) -> str:
    """Name of an input of `gradients`, and of the output of `prefix` that it is fed with: x0, x1 …"""
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


def suffix_model(suffix: Graph, subset: Subset, micro_batch: int, batch: int) -> Model:
    """gradients(x0, x1 …, truth float32 [micro_batch, classes], weights by name) → logits and gradients by name.

    x0 … are the suffix's inputs, the images of the micro-batch one behind the other along the first axis; truth has a
    row for each image, one at its class and zero elsewhere. Weights are those of `subset`, whose ops are the suffix's.
    Gradients are those of the sum of losses over the micro-batch, divided by `batch`; the losses follow from logits
    float32 [micro_batch, classes].
    """
    b = GraphBuilder("gradients")
    xs = [b.input(input_name(i), (micro_batch * t.shape[0], *t.shape[1:])) for i, t in enumerate(suffix.inputs)]
    truth = b.input("truth", (micro_batch, logits_of(suffix).shape[-1]))
    weights = {p: b.input(p.name, p.shape) for p in subset.parameters()}
    substitutes: dict[Slot, Tensor] = {p.slot: weight for p, weight in weights.items()}
    logits = replay(b, suffix, xs, micro_batch, substitutes).by_image(b, logits_of(suffix))
    forward = tuple(b.ops)
    probability = b.emit("SOFTMAX", (logits,), Options("SoftmaxOptions", {"Beta": 1.0}))
    error = b.scale(b.sub(probability, truth), 1.0 / batch, "logits/gradient")
    gradients = gradients_of(b, forward, {logits: error}, weights)
    graph = lowered(b.graph([logits, *gradients.values()]))
    inputs = {**{x.name: x for x in (*xs, truth)}, **{p.name: weight for p, weight in weights.items()}}
    outputs = {"logits": logits, **{p.name: gradient for p, gradient in gradients.items()}}
    return Model((graph,), (Signature("gradients", graph, inputs, outputs),))
