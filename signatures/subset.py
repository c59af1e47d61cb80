"""Which parameters train."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from signatures.errors import InputError
from signatures.layers import Layer

WEIGHT, BIAS = 1, 2
"""Input index of the parameter in its op; the same for every weight op of TFLite."""
_ROLES = {WEIGHT: "weight", BIAS: "bias"}


@dataclass(frozen=True)
class Parameter:
    """One trainable tensor: a layer's weight or bias."""

    name: str
    """`<layer>/weight` or `<layer>/bias`: also its name in get_weights, set_weights and checkpoints."""
    slot: tuple[int, int]
    """(op index in the network, input index)."""
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Subset:
    """The layers whose weight and bias train, in model order."""

    layers: tuple[Layer, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Layer names in model order."""
        return tuple(layer.name for layer in self.layers)

    @property
    def id(self) -> str:
        """Twelve hex digits that are the same for the same layers of the same shapes, everywhere and always."""
        text = "\n".join(f"{layer.name} {layer.weight_shape} {layer.bias_shape}" for layer in self.layers)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def parameters(self) -> tuple[Parameter, ...]:
        """The trainable tensors, weight before bias, in model order."""
        return tuple(
            Parameter(f"{layer.name}/{_ROLES[role]}", (layer.op, role), shape)
            for layer in self.layers
            for role, shape in ((WEIGHT, layer.weight_shape), (BIAS, layer.bias_shape))
            if shape is not None
        )


def subset_of(layers: Sequence[Layer], names: Iterable[str]) -> Subset:
    """The subset of `layers` with the given names. InputError if a name is unknown or nothing is chosen."""
    chosen = set(names)
    unknown = chosen - {layer.name for layer in layers}
    if unknown or not chosen:
        raise InputError(f"cannot train {sorted(unknown) or 'nothing'}: the network's layers have other names")
    return Subset(tuple(layer for layer in layers if layer.name in chosen))
