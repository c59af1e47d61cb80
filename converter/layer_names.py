"""Layer names: from the paths that converters leave in a file to short ones that a person knows the layers by."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from signatures.builder import GraphBuilder
from signatures.graph import Op
from signatures.layers import weight_slot

_PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum")
_OWN_WORDS = {
    "CONV_2D": ("convolution", "Conv2D", "separable_conv2d"),
    "DEPTHWISE_CONV_2D": ("depthwise",),
    "TRANSPOSE_CONV": ("conv2d_transpose", "conv_transpose"),
    "FULLY_CONNECTED": _PRODUCTS,
    "BATCH_MATMUL": _PRODUCTS,
}
"""How TensorFlow calls the op itself at the end of its path, which tells nothing."""
_INNER = ("Tensordot", "einsum")
"""What TensorFlow calls the steps of one layer in between."""
_DOTTED = re.compile(r"(?:[A-Za-z_]\w*\.)+([A-Za-z]\w*)")
"""A module of torch, package.module.Class_attribute, or a function of TensorFlow, tf.nn.convolution_1."""


def layer_names(layers: Sequence[Op]) -> list[str]:
    """A name for each layer of a network, by the paths in its file: short, and different from every other."""
    return short_names(layer_paths(layers))


def layer_paths(layers: Sequence[Op]) -> list[str]:
    """The path of each layer in the model that its file was made from.

    Converters join the paths of all that they fuse, and of other layers that share a constant: what names a convolution
    or a product may be the layer's own. Another layer may have no choice and claim it, which leaves fewer to choose.
    """
    candidates = [_candidates(op) for op in layers]
    chosen: dict[int, str] = {}
    while sure := {
        i: free[0]
        for i, paths in enumerate(candidates)
        if i not in chosen and len(free := [path for path in paths if path not in chosen.values()] or paths[-1:]) == 1
    }:
        chosen |= sure
    return [chosen.get(i, paths[-1]) for i, paths in enumerate(candidates)]


def _candidates(op: Op) -> list[str]:
    """Paths that may be the layer's own, the likeliest last; at least one."""
    slot = weight_slot(op)
    own = list(_own_paths(op.output.name, op.kind))
    if not own and slot is not None:  # called by its place in the network: Identity, output_0
        own = list(_own_paths(op.input(slot).name, op.kind))
    return list(dict.fromkeys(own)) or [_readable(op.output.name.split(";")[0].removesuffix(":0").split("/"))]


def _own_paths(name: str, kind: str) -> Iterator[str]:
    words = "|".join(_OWN_WORDS[kind])
    for part in name.split(";"):
        *parents, last = part.removesuffix("_dequantize").split("/")
        dotted = _DOTTED.fullmatch(last)
        if dotted and re.match(r"\w*(Conv|Linear)", dotted[1]):
            yield _readable([*parents, *([] if parents and _attribute(dotted[1]) == "convolution" else [last])])
        elif parents and re.fullmatch(rf"(?:{words})\d*", last):
            while len(parents) > 1 and parents[-1] in _INNER:
                parents.pop()
            separable = [last.rstrip("0123456789")] if "separable_conv2d" in (parents[-1], last) else []
            yield _readable([*parents, *separable])


def _readable(segments: Sequence[str]) -> str:
    """A path without the packages that classes and functions come from."""
    return "/".join(_attribute(found[1]) if (found := _DOTTED.fullmatch(s)) else s for s in segments)


def _attribute(name: str) -> str:
    """Class_attribute → attribute, but Class_0 → Class_0: what a list holds has only a number."""
    _, _, attribute = name.partition("_")
    named = name[0].isupper() and attribute.strip("_") and not attribute.isdigit()
    return attribute.strip("_") if named else name


def short_names(paths: Sequence[str]) -> list[str]:
    """The shortest ends of `paths` that differ from the end of every other; equal paths get a number."""
    numbered = GraphBuilder("names")
    unique = [numbered.unique(path or "layer") for path in paths]
    parts = [path.split("/") for path in unique]
    ends = Counter("/".join(p[-length:]) for p in parts for length in range(1, len(p) + 1))
    return [
        next(end for length in range(1, len(p) + 1) if ends[end := "/".join(p[-length:])] == 1 or length == len(p))
        for p in parts
    ]
