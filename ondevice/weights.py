"""The trained tensors as a run leaves them: an .npz by parameter name, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from signatures.durable import replacing
from signatures.graph import Array


def write_weights(weights: Mapping[str, Array], path: Path) -> None:
    """Write float32 arrays by name (`<layer>/weight`, `<layer>/bias`) to `path`, replaced atomically."""
    with replacing(path) as file:
        # No allow_pickle=False: NumPy 1 takes that for one more array. Float32 is never pickled.
        np.savez(file, **weights)  # type: ignore[arg-type]
