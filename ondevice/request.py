"""What a run was asked to do: checked once, and kept in its folder, so that `--resume` needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from signatures.optimizers import Optimizer


@dataclass(frozen=True)
class Request:
    """One adaptation, all values checked."""

    bundle: Path
    data: Path
    criterion: str
    layers: tuple[str, ...]
    """Those that train, where the criterion is `NAMED`; else empty."""
    rho: float
    rho_channels: float | None
    """The fraction of their channels that trains of picked layers; None: all."""
    epochs: int
    batch: int
    learning_rate: float
    optimizer: Optimizer
    seed: int
    threads: int
    mirror: bool
    """Whether images are mirrored at random."""
    replay: str
    """float32 or float16: how the prefix's results are kept."""
    budget_bytes: int | None
    """What the process may take at its peak; None for no limit."""
    budget_s: float | None
    """How long prefix and training may take; None for no limit."""
