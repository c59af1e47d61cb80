"""Softmax cross-entropy over int32 class ids."""

from __future__ import annotations

import numpy as np

from signatures.builder import GraphBuilder
from signatures.graph import Options, Tensor


def softmax_cross_entropy(b: GraphBuilder, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss over the batch, a scalar, and its gradient with respect to `logits` [B, C]; labels int32 [B].

    ∂loss/∂logits = (softmax(logits) − onehot(labels)) / B.
    """
    batch, classes = logits.shape
    depth = b.const(np.array(classes, np.int32), "classes")
    options = Options("OneHotOptions", {"Axis": -1})
    truth = b.emit("ONE_HOT", (labels, depth, b.scalar(1.0), b.scalar(0.0)), options, "truth")
    log_probability = b.emit("LOG_SOFTMAX", (logits,), Options("LogSoftmaxOptions"), "log_probability")
    picked = b.sum(b.mul(truth, log_probability), [0, 1])
    loss = b.scale(picked, -1.0 / batch, "loss")
    error = b.sub(b.unary("EXP", log_probability), truth)
    return loss, b.scale(error, 1.0 / batch, "logits/gradient")
