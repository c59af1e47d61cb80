"""The trained tensors on disk: an .npz by parameter name, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from signatures.graph import Array


def write_weights(weights: Mapping[str, Array], path: Path) -> None:
    """Write float32 arrays by name (`<layer>/weight`, `<layer>/bias`) to `path`, replaced atomically."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            # No allow_pickle=False: NumPy 1 takes that for one more array. Float32 is never pickled.
            np.savez(file, **weights)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
