"""What the zoo or a file hands to the exporter: a float32 inference graph, and what the graph does not show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from signatures.catalogue import Preprocessing
from signatures.graph import Graph


@dataclass(frozen=True)
class SourceNetwork:
    """A network to export.

    `graph` takes one float32 image [1, H, W, 3] in RGB after `preprocessing`; BatchNorm is folded, and its layers bear
    the names that a person knows them by. `batchnorm_scale` has, by layer, s = γ/√(σ²+ε) of the BatchNorm that was
    folded into it (W_folded = s·W), float32, one entry per output channel, where there was one and it is known.
    `weights` says in words where the values come from. `file_names` has the layers that a file calls otherwise, by the
    names that it has for them.
    """

    name: str
    graph: Graph
    preprocessing: Preprocessing
    batchnorm_scale: Mapping[str, NDArray[np.float32]]
    weights: str
    file_names: Mapping[str, str] = field(default_factory=dict)
