"""Gradient rules, one a function, one op family a file. Importing the package fills the registry."""

from signatures.gradients import (
    activations,
    convolution,
    dense,
    elementwise,
    functions,
    indexing,
    normalisation,
    pooling,
    reduction,
    resampling,
    shape,
)
from signatures.gradients.registry import RULES, Entry, Rule, gradient

__all__ = [
    "RULES",
    "Entry",
    "Rule",
    "activations",
    "convolution",
    "dense",
    "elementwise",
    "functions",
    "gradient",
    "indexing",
    "normalisation",
    "pooling",
    "reduction",
    "resampling",
    "shape",
]
