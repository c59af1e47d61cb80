"""Gradient rules, one a function, one op family a file. Importing the package fills the registry."""

from signatures.gradients import convolution, dense, elementwise, pooling, shape
from signatures.gradients.registry import Rule, gradient, rule_of

__all__ = ["Rule", "convolution", "dense", "elementwise", "gradient", "pooling", "rule_of", "shape"]
