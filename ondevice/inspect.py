"""`python -m ondevice.inspect BUNDLE`: the layers of a bundle, and which of them can train.

Exit codes are those of `python -m ondevice.adapt`: 0 done, 2 usage, 3 bad bundle, 70 our bug.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ondevice.selection import obstacle_note
from signatures.autodiff import obstacle, untrainable
from signatures.catalogue import Bundle, Preprocessing, read_bundle
from signatures.errors import exit_code_of
from signatures.layers import Layer


@dataclass(frozen=True)
class OpCount:
    """How often a network uses an op, and why gradients cannot pass it."""

    kind: str
    count: int
    obstacle: str | None


@dataclass(frozen=True)
class Inspection:
    """What a bundle holds, as far as training goes."""

    network: str
    weights: str
    image: int
    classes: int
    preprocessing: Preprocessing
    head: str
    layers: tuple[Layer, ...]
    obstacles: dict[str, str]
    """By layer name: why it cannot train."""
    ops: tuple[OpCount, ...]


def inspect(bundle: Bundle) -> Inspection:
    """The layers of a bundle, and what keeps them from training."""
    manifest, network = bundle.manifest, bundle.network
    counts = Counter(op.kind for op in network.ops)
    reasons = {op.kind: why for op in network.ops if (why := obstacle(op)) is not None}
    return Inspection(
        network=manifest.network,
        weights=manifest.weights,
        image=manifest.image,
        classes=manifest.classes,
        preprocessing=manifest.preprocessing,
        head=bundle.layers[-1].name,
        layers=bundle.layers,
        obstacles=untrainable(network, bundle.layers),
        ops=tuple(OpCount(kind, count, reasons.get(kind)) for kind, count in counts.most_common()),
    )


def render(found: Inspection) -> str:
    """The inspection for a terminal."""
    scale, offset = found.preprocessing.scale, found.preprocessing.offset
    width = max(5, *(len(layer.name) for layer in found.layers))
    rows = [
        f"{found.network}: {found.image}×{found.image}, {found.classes} classes; weights: {found.weights}",
        f"input = pixel · ({', '.join(f'{v:.6g}' for v in scale)}) + ({', '.join(f'{v:.6g}' for v in offset)})",
        "",
        f"{'layer':{width}}  {'kind':14} {'parameters':>11} {'|a|':>9} {'MACs':>13}",
    ]
    for layer in found.layers:
        mark = "head" if layer.name == found.head else "cannot train" if layer.name in found.obstacles else ""
        rows.append(
            f"{layer.name:{width}}  {layer.kind:14} {layer.parameters:>11,} {layer.activation_size:>9,} "
            f"{layer.macs:>13,} {mark}".rstrip()
        )
    rows += ["", "ops: " + ", ".join(f"{op.kind} {op.count}" for op in found.ops)]
    note = obstacle_note([layer.name for layer in found.layers], found.obstacles)
    rows.append(note or f"all {len(found.layers)} layers can train")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    p = argparse.ArgumentParser(prog="python -m ondevice.inspect", description="Show the layers of a bundle.")
    p.add_argument("bundle", type=Path, help="bundle folder that `make export` wrote")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    options = p.parse_args(arguments)

    def run() -> int:
        found = inspect(read_bundle(options.bundle))
        print(json.dumps(asdict(found)) if options.json else render(found))
        return 0

    return exit_code_of(run)


if __name__ == "__main__":
    sys.exit(main())
