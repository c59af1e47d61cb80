"""What has no gradient rule, or cannot have one, is refused with a message that helps; no rule does more than asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from signatures.autodiff import backward
from signatures.builder import GraphBuilder
from signatures.errors import InputError
from signatures.gradients import RULES
from signatures.gradients.__main__ import table
from signatures.graph import Options, Tensor
from signatures.shapes import can_infer

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", sorted(RULES))
def test_what_can_be_differentiated_can_be_batched(kind: str) -> None:
    assert can_infer(kind)


def test_the_page_of_ops_is_made_from_the_registry() -> None:
    """`python -m signatures.gradients > docs/ops.md`."""
    assert (ROOT / "docs" / "ops.md").read_text() == table()


SIGN_BIT = 5
"""The last of the schema's ActivationFunctionType."""


def gradient(b: GraphBuilder, y: Tensor, wanted: Tensor) -> Tensor:
    return backward(b, tuple(b.ops), {y: b.input("seed", y.shape)}, [wanted])[wanted]


def test_op_without_rule_names_itself_and_the_way_out() -> None:
    b = GraphBuilder("g")
    x = b.input("x", (2, 3))
    y = b.emit("CUMSUM", (x, b.ints(1)), Options("CumsumOptions"), "summed")
    with pytest.raises(InputError, match="no gradient rule for CUMSUM, which makes 'summed': train only layers behind"):
        gradient(b, y, x)


def test_op_without_rule_is_no_error_where_no_gradient_passes() -> None:
    b = GraphBuilder("g")
    x, w = b.input("x", (2, 3)), b.input("w", (4, 3))
    hidden = b.emit("CUMSUM", (x, b.ints(1)), Options("CumsumOptions"))
    b.emit("CUMSUM", (w, b.ints(1)), Options("CumsumOptions"))
    y = b.fully_connected(hidden, w)
    assert gradient(b, y, w).shape == w.shape


def test_unknown_fused_activation() -> None:
    b = GraphBuilder("g")
    x = b.input("x", (3,))
    y = b.emit(
        "ADD", (x, b.const(np.ones(3, np.float32))), Options("AddOptions", {"FusedActivationFunction": SIGN_BIT})
    )
    with pytest.raises(InputError, match="fuses activation 5"):
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
