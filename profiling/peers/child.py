"""`python -m profiling.peers.child FRAMEWORK FOLDER`: measure a framework on the problem in FOLDER; JSON on stdout."""

from __future__ import annotations

import importlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from profiling.peers.measurement import Measurement
from profiling.peers.problem import Problem, read_problem

FRAMEWORKS = {
    "ours": ("profiling.peers.ours", "measure"),
    "tensorflow": ("profiling.peers.in_tensorflow", "measure"),
    "keras": ("profiling.peers.in_tensorflow", "measure_keras"),
    "pytorch": ("profiling.peers.in_pytorch", "measure"),
    "mnn": ("profiling.peers.in_mnn", "measure"),
    "executorch": ("profiling.peers.in_executorch", "measure"),
    "onnxruntime": ("profiling.peers.in_onnxruntime", "measure"),
}
"""Name → module and function; a module is imported only in the process that measures it."""
KERAS_NETWORK = "mobilenetv2"
"""The network that `keras` has."""


def measure(framework: str, problem: Problem, folder: Path) -> Measurement:
    """Import the framework and measure it, here."""
    module, function = FRAMEWORKS[framework]
    measured: Measurement = getattr(importlib.import_module(module), function)(problem, folder)
    return measured


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    path = Path(sys.argv[2])
    print(json.dumps(asdict(measure(sys.argv[1], read_problem(path), path))))
