"""Networks changed a little, so that for some images no value is near the kink of an activation, and no maximum ties.

A network has a million values; some lie within float32 rounding of a kink, and then whether their gradient passes is a
matter of luck; so it is which of two values gets the gradient of a maximum, where they tie but for rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from signatures.graph import Array, Graph, Op, Tensor
from signatures.passes import with_constants
from signatures.replay import Slot
from signatures.subset import Parameter
from tests.oracles.tensorflow_graph import before_activation, inputs_of
from tests.oracles.tensorflow_ops import ACTIVATION_OPS, ACTIVATIONS, KINKS, activation_of, leads, windows

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
WITH_BIAS = (*CONVOLUTIONS, "FULLY_CONNECTED")
HARD_SWISH_KINKS = (-3.0, 3.0)
SHIFT = 0.2
"""The largest change of a bias that keeps values away from kinks."""
TIE = 5e-5
"""A lead that float32 might turn around, in standard deviations of the map, whose values are up to 2e-5 off."""
CHANGE, TRIES = 0.05, 50
"""By what part the weights of a filter change to end a tie, and how often at most."""
CLIPPED = sorted({kink for kinks in KINKS.values() for kink in kinks})
"""Values that pass no gradient on: which of several such gets it does not matter."""


def away_from_kinks(graph: Graph, x: Array) -> Graph:
    """`graph` with biases and filters changed a little, so that the images `x` meet no kink and no tie of a maximum.

    The bias behind each channel, that of the op itself or of a convolution that feeds it alone, moves to the middle of
    the largest gap among the channel's values. Where channels of a max-pool tie, their filters in the convolution that
    feeds it are drawn anew, near what they were, until none does.
    """
    makers, readers = graph.producers(), graph.consumers()
    places = {op: index for index, op in enumerate(graph.ops)}
    images = [{graph.inputs[0]: tf.constant(image[None], tf.float64)} for image in x]
    random, tries = np.random.default_rng(0), Counter[Op]()
    changed: dict[Slot, Array] = {}

    def own(op: Op) -> dict[int, tf.Tensor]:
        return {slot: tf.constant(v, tf.float64) for (place, slot), v in changed.items() if place == places[op]}

    place = 0
    while place < len(graph.ops):
        op = graph.ops[place]
        source = _filters_behind(op, makers) if op.kind == "MAX_POOL_2D" else None
        tied = _tied_channels(op, images) if source else []
        if source and len(tied):
            tries[op] += 1
            assert tries[op] <= TRIES, f"{op.output.name}: channels {tied} still tie after {TRIES} draws of filters"
            place = places[source]
            filters = changed.get((place, 1), source.input(1).data)
            changed[place, 1] = _redrawn(source, filters, tied, random)
            changed.pop((place, 2), None)
            continue
        kinks = _kinks(op)
        giver = _giver(op, makers, readers) if kinks else None
        if giver is not None:
            before = np.concatenate([_before_kink(op, values, own(op)) for values in images])
            channels = before.reshape(-1, before.shape[-1]).T
            slot = places[giver], 2
            bias = changed.get(slot, giver.input(2).data)
            changed[slot] = (bias + [_to_largest_gap(channel, kinks) for channel in channels]).astype(np.float32)
            if giver is not op:
                for values in images:
                    values[giver.output] += tf.constant(changed[slot].astype(np.float64) - bias)
        for values in images:
            (result,) = before_activation(op, values, own(op))
            values[op.output] = ACTIVATIONS[activation_of(op)](result)
        place += 1
    return with_constants(graph, changed)


def within_rounding(graph: Graph, x: Array, parameters: Mapping[Parameter, tf.Variable]) -> bool:
    """Whether float32 may put a value on the other side of a kink, or turn a maximum around, for an image of `x`.

    It may where that is nearer than TensorFlow's float32 is to its float64 where they differ most in the map.
    """
    for image in x:
        exact, rough = ({graph.inputs[0]: tf.constant(image[None], dtype)} for dtype in ("float64", "float32"))
        for place, op in enumerate(graph.ops):
            own = {p.slot[1]: value for p, value in parameters.items() if p.slot[0] == place}
            bent = []
            for values in (exact, rough):
                given = {slot: tf.cast(value, values[graph.inputs[0]].dtype) for slot, value in own.items()}
                bent.append(_before_kink(op, values, given))
                (result,) = before_activation(op, values, given)
                values[op.output] = ACTIVATIONS[activation_of(op)](result)
            error = np.abs(bent[1] - bent[0]).max()
            if any(np.abs(bent[0] - kink).min() < error for kink in _kinks(op)):
                return True
            if op.kind == "MAX_POOL_2D" and (_leads(op, bent[0]) < 2 * error).any():
                return True
    return False


def _kinks(op: Op) -> Sequence[float]:
    return HARD_SWISH_KINKS if op.kind == "HARD_SWISH" else KINKS[activation_of(op)]


def _giver(op: Op, makers: Mapping[Tensor, Op], readers: Mapping[Tensor, Sequence[Op]]) -> Op | None:
    """The op whose bias shifts the channels that `op` bends."""
    candidates = [op, *(makers[t] for t in op.inputs if t in makers and readers[t] == [op])]
    for found in candidates:
        bias = found.optional(2) if found.kind in WITH_BIAS else None
        if bias is not None and bias.data is not None and (found is op or not activation_of(found)):
            return found
    return None


def _before_kink(op: Op, values: Mapping[Tensor, tf.Tensor], own: Mapping[int, tf.Tensor]) -> Array:
    if op.kind in ("HARD_SWISH", "MAX_POOL_2D"):
        return inputs_of(op, values)[0].numpy()
    (result,) = before_activation(op, values, own)
    return result.numpy()


def _to_largest_gap(values: Array, kinks: Sequence[float]) -> float:
    forbidden = np.concatenate([kink - values for kink in kinks])
    edges = np.sort([-SHIFT, *forbidden[np.abs(forbidden) < SHIFT], SHIFT])
    widest = int(np.argmax(np.diff(edges)))
    return float(edges[widest] + edges[widest + 1]) / 2


def _filters_behind(pool: Op, makers: Mapping[Tensor, Op]) -> Op | None:
    """The convolution whose channels `pool` sees, at most padded or bent on the way."""
    op = makers.get(pool.input(0))
    while op is not None and op.kind in ("PAD", *ACTIVATION_OPS):
        op = makers.get(op.input(0))
    return op if op is not None and op.kind in CONVOLUTIONS and op.input(1).data is not None else None


def _tied_channels(pool: Op, images: Sequence[Mapping[Tensor, tf.Tensor]]) -> Array:
    """The channels in which the two largest values of a window tie, and a gradient would pass."""
    x = np.concatenate([inputs_of(pool, values)[0].numpy() for values in images])
    return np.flatnonzero((_leads(pool, x) < TIE * x.std()).any((0, 1, 2)))


def _leads(pool: Op, x: Array) -> Array:
    """Of the largest value of each window before the second; infinite where no gradient would pass."""
    rows = windows(x, pool.options)
    return np.where(np.isin(rows.max(-1), CLIPPED), np.inf, leads(rows))


def _redrawn(op: Op, filters: Array, channels: Array, random: np.random.Generator) -> Array:
    """`filters` with those of `channels` a little off what the graph has."""
    axis = 3 if op.kind == "DEPTHWISE_CONV_2D" else 0
    given = np.moveaxis(op.input(1).data, axis, 0)[channels]
    result = np.moveaxis(filters.copy(), axis, 0)
    result[channels] = given * (1 + CHANGE * random.normal(size=given.shape))
    return np.ascontiguousarray(np.moveaxis(result, 0, axis))
