"""Serve jobs over stdin and stdout: run model files in the interpreter of this Python and send back what they return.

A message is its length (8 bytes, little-endian) and an .npz of that length. A job holds "plan", JSON text: {"model":
path, "calls": [{"signature": name, "inputs": [argument names]}]}, and the k-th argument of call c as array "c_k". The
answer holds "names", JSON text: one list of result names a call, and the arrays in the same way; or "error", a text.
The end of stdin ends the process. Needs NumPy and a TFLite interpreter, nothing of this project: it also runs in an
environment that has only tflite-runtime 2.14.
"""

from __future__ import annotations

import io
import json
import os
import struct
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np


def send(stream: BinaryIO, arrays: Mapping[str, Any]) -> None:
    """Write one message."""
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    stream.write(struct.pack("<Q", packed.tell()) + packed.getbuffer())
    stream.flush()


def receive(stream: BinaryIO) -> dict[str, np.ndarray] | None:
    """Read one message; None at the end of the stream."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    with np.load(io.BytesIO(stream.read(*struct.unpack("<Q", head)))) as arrays:
        return dict(arrays)


def answer(interpreter_class: Any, job: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The calls of a job, one after another on one interpreter: variables live on between them."""
    plan = json.loads(str(job["plan"]))
    names, arrays = [], {}
    try:
        interpreter = interpreter_class(model_path=plan["model"], num_threads=2)
        for c, call in enumerate(plan["calls"]):
            inputs = {name: job[f"{c}_{k}"] for k, name in enumerate(call["inputs"])}
            results = interpreter.get_signature_runner(call["signature"])(**inputs)
            names.append(list(results))
            arrays.update({f"{c}_{k}": np.array(value) for k, value in enumerate(results.values())})
    except (ValueError, RuntimeError) as error:
        return {"error": str(error)}
    return {"names": json.dumps(names), **arrays}


def main() -> None:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tflite_runtime.interpreter import Interpreter

    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what native code prints is no message
    while (job := receive(sys.stdin.buffer)) is not None:
        send(answers, answer(Interpreter, job))


if __name__ == "__main__":
    main()
