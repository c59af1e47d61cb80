"""Every rule has cases; what has no rule, or cannot have one, is refused with a message that helps."""

from __future__ import annotations

import numpy as np
import pytest
import tflite

from signatures.autodiff import backward
from signatures.builder import GraphBuilder
from signatures.errors import InputError
from signatures.gradients import rule_of
from signatures.graph import Options, Tensor
from signatures.shapes import can_infer
from tests.signatures import (
    test_gradients_convolution,
    test_gradients_dense,
    test_gradients_elementwise,
    test_gradients_pooling,
    test_gradients_shape,
)

MODULES = (
    test_gradients_convolution,
    test_gradients_dense,
    test_gradients_elementwise,
    test_gradients_pooling,
    test_gradients_shape,
)
RULES = sorted(kind for kind in vars(tflite.BuiltinOperator) if rule_of(kind) is not None)


@pytest.mark.parametrize("kind", RULES)
def test_rule_has_cases(kind: str) -> None:
    assert kind in {op.kind for module in MODULES for case in module.CASES for op in case.graph.ops}


@pytest.mark.parametrize("kind", RULES)
def test_what_can_be_differentiated_can_be_batched(kind: str) -> None:
    assert can_infer(kind)


def gradient(b: GraphBuilder, y: Tensor, wanted: Tensor) -> Tensor:
    return backward(b, tuple(b.ops), {y: b.input("seed", y.shape)}, [wanted])[wanted]


def test_op_without_rule_names_itself_and_the_way_out() -> None:
    b = GraphBuilder("g")
    x = b.input("x", (2, 3))
    y = b.unary("TANH", x, "squashed")
    with pytest.raises(InputError, match="no gradient rule for TANH, which makes 'squashed': train only layers behind"):
        gradient(b, y, x)


def test_op_without_rule_is_no_error_where_no_gradient_passes() -> None:
    b = GraphBuilder("g")
    x, w = b.input("x", (2, 3)), b.input("w", (4, 3))
    hidden = b.unary("TANH", x)
    b.unary("TANH", w)
    y = b.fully_connected(hidden, w)
    assert gradient(b, y, w).shape == w.shape


@pytest.mark.parametrize(
    ("kind", "filters"), [("CONV_2D", (4, 3, 3, 2)), ("DEPTHWISE_CONV_2D", (1, 3, 3, 8))], ids=["grouped", "multiplier"]
)
def test_convolutions_without_a_rule(kind: str, filters: tuple[int, ...]) -> None:
    b = GraphBuilder("g")
    x, w = b.input("x", (1, 5, 5, 4)), b.input("w", filters)
    y = (b.conv_2d if kind == "CONV_2D" else b.depthwise_conv_2d)(x, w, None)
    with pytest.raises(InputError, match="no gradient for"):
        gradient(b, y, w)


def test_unknown_fused_activation() -> None:
    b = GraphBuilder("g")
    x = b.input("x", (3,))
    y = b.emit("ADD", (x, b.const(np.ones(3, np.float32))), Options("AddOptions", {"FusedActivationFunction": 4}))
    with pytest.raises(InputError, match="fuses activation 4"):
        gradient(b, y, x)


def test_nothing_is_emitted_for_what_is_not_wanted() -> None:
    """The gradient of the last layer's weights must not carry dy through the rest of the network."""
    b = GraphBuilder("g")
    x = b.input("x", (1, 8, 8, 3))
    first = b.conv_2d(x, b.const(np.ones((4, 3, 3, 3), np.float32)), None)
    w = b.input("w", (2, 1, 1, 4))
    y = b.conv_2d(first, w, None)
    before = len(b.ops)
    gradient(b, y, w)
    assert {op.kind for op in b.ops[before:]} <= {"RESHAPE", "TRANSPOSE", "BATCH_MATMUL", "SUM"}


def test_depthwise_gradient_is_for_xnnpack() -> None:
    """Its delegate declines a depthwise convolution whose depth multiplier is not set."""
    b = GraphBuilder("g")
    x = b.input("x", (1, 8, 8, 3))
    y = b.depthwise_conv_2d(x, b.const(np.ones((1, 3, 3, 3), np.float32)), None)
    gradient(b, y, x)
    multipliers = [op.options.integer("DepthMultiplier") for op in b.ops if op.kind == "DEPTHWISE_CONV_2D"]
    assert multipliers == [1, 1]
