"""`python -m signatures.gradients > docs/ops.md`: the table of ops, from the registries."""

from __future__ import annotations

from textwrap import wrap

from signatures.gradients import RULES
from signatures.op_checks import OTHERS
from signatures.shapes import inferred_kinds

HEADER = """# Ops

What the compiler knows of each TFLite op. `python -m signatures.gradients > docs/ops.md` makes this page from the
registry, and a test compares them. x, W and y are an op's inputs and output, dy is the gradient that arrives. Every
rule is tested against TensorFlow's gradient and finite differences on ai-edge-litert 2.3.0 and on tflite-runtime
2.14.0, as far as their kernels go (last column).

What is frozen needs no gradient: before the layers that train may also stand
{others}.
Models with any other op are refused before an interpreter sees them (`signatures/op_checks.py`). Fused activations
(RELU, RELU6, RELU_N1_TO_1) have rules for every op that can fuse them.

| op | gradient | limits | kernels |
|---|---|---|---|
"""
REWRITTEN = {
    "DEQUANTIZE": ("float16 weights become float32 constants on export", "float16 constants"),
    "SHAPE": ("a constant on export: sizes do not change", ""),
    "SPLIT": ("slices, on export", ""),
    "SPLIT_V": ("slices, on export", ""),
    "UNPACK": ("slices, on export", ""),
}
"""What no graph of ours holds any more: how it is rewritten, and its limits."""


def table() -> str:
    """The whole page, in Markdown."""
    rows = {kind: (entry.how, entry.limits, entry.kernels) for kind, entry in RULES.items()}
    rows |= {kind: (how, limits, "") for kind, (how, limits) in REWRITTEN.items()}
    cells = ([kind, *(cell.replace("|", "\\|") for cell in row)] for kind, row in sorted(rows.items()))
    others = sorted({*inferred_kinds(), *OTHERS} - rows.keys())
    header = HEADER.format(others="\n".join(wrap(", ".join(others), 120)))
    return header + "".join(f"| {' | '.join(row)} |\n" for row in cells)


if __name__ == "__main__":
    print(table(), end="")
