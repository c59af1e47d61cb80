"""The manifest of a bundle: layers, files, signatures, ρ → subset. Written by the host, checked on the device."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preprocessing:
    """Per-channel affine map from pixels to network input: x = pixel · scale + offset.

    `pixel` is 0..255 in RGB order; `scale` and `offset` have one entry per channel.
    """

    scale: tuple[float, float, float]
    offset: tuple[float, float, float]
