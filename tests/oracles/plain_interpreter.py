"""Oracle: what a network's file makes of images, one at a time in the interpreter as it comes."""

from __future__ import annotations

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray


def logits(tflite: bytes, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """The only output for each of `inputs`."""
    interpreter = Interpreter(model_content=tflite, num_threads=2)
    interpreter.allocate_tensors()
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for x in inputs:
        interpreter.set_tensor(source["index"], x[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(result["index"])[0].copy())
    return np.stack(found)
