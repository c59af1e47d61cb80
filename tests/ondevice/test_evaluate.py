"""Evaluation: accuracy and cross-entropy against NumPy, image by image in stored order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stnp

from ondevice.dataset import to_input
from ondevice.evaluate import evaluate
from ondevice.packed import Split, read_packed
from ondevice.runtime import LoadedModel
from signatures.build import inference_model
from signatures.graph import Array
from signatures.tflite_io import write_model
from tests.end_to_end import tiny


class Table:
    """In place of a model: the logits of image i are row i; an image's row is its first pixel."""

    def __init__(self, logits: Array) -> None:
        self.logits = logits

    def call(self, name: str, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        assert name == "infer"
        (row,) = np.rint((inputs["x"][:, 0, 0, 0] - tiny.PREPROCESSING.offset[0]) / tiny.PREPROCESSING.scale[0])
        return {"logits": self.logits[int(row)][np.newaxis]}


def numbered(labels: Array) -> Split:
    images = np.zeros((len(labels), 2, 2, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels))
    return Split(images, labels.astype(np.int32))


@given(
    stnp.arrays(np.float32, (9, 4), elements=st.floats(-80, 80, width=32)),
    stnp.arrays(np.int32, 9, elements=st.integers(0, 3)),
)
def test_accuracy_and_loss_are_numpys(logits: Array, labels: Array) -> None:
    result = evaluate(Table(logits), numbered(labels), tiny.PREPROCESSING)
    wide = logits.astype(np.longdouble)
    loss = np.log(np.exp(wide).sum(axis=1)) - wide[np.arange(9), labels]
    assert result.images == 9
    assert result.accuracy == np.mean(logits.argmax(axis=1) == labels)
    assert result.loss == pytest.approx(float(loss.mean()), rel=1e-6, abs=1e-9)


def test_large_logits_do_not_overflow() -> None:
    logits = np.array([[3e38, 0.0], [0.0, -3e38]], np.float32)
    result = evaluate(Table(logits), numbered(np.array([0, 0])), tiny.PREPROCESSING)
    assert (result.accuracy, result.loss) == (1.0, 0.0)


def test_logits_that_are_no_numbers_give_a_loss_that_is_none() -> None:
    logits = np.array([[math.nan, 0.0]], np.float32)
    assert math.isnan(evaluate(Table(logits), numbered(np.array([0])), tiny.PREPROCESSING).loss)


def test_every_image_is_told() -> None:
    told: list[int] = []
    evaluate(Table(np.eye(5, dtype=np.float32)), numbered(np.arange(5)), tiny.PREPROCESSING, told.append)
    assert told == [1, 2, 3, 4, 5]


def test_a_real_file_gives_what_a_bare_interpreter_gives(tmp_path: Path) -> None:
    data = read_packed(tiny.write_pictures(tmp_path / "pictures")).test
    path = tmp_path / "model.tflite"
    write_model(inference_model(tiny.network(len(tiny.CLASSES))), path)
    runner = Interpreter(model_path=str(path)).get_signature_runner("infer")
    inputs = to_input(data.images, tiny.PREPROCESSING)
    logits = np.concatenate([runner(x=x[np.newaxis])["logits"] for x in inputs]).astype(np.float64)
    loss = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(data)), data.labels]
    result = evaluate(LoadedModel(path, 1), data, tiny.PREPROCESSING)
    assert result.accuracy == np.mean(logits.argmax(axis=1) == data.labels)
    assert result.loss == pytest.approx(loss.mean(), rel=1e-6)
