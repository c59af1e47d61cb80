"""Run model files in the interpreter of this Python, and leave what they return: python run_signatures.py FOLDER.

FOLDER/plan.json lists the jobs: {"model": file, "calls": [{"signature": name, "inputs": [argument names]}]}. Arguments
of call c are the arrays "c_0", "c_1" … of FOLDER/<model>.inputs.npz; results go to FOLDER/<model>.outputs.npz in the
same way, their names to FOLDER/<model>.outputs.json. Needs NumPy and a TFLite interpreter, nothing of this project:
it also runs in an environment that has only tflite-runtime 2.14.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def run_calls(interpreter: Any, calls: list[tuple[str, dict[str, np.ndarray]]]) -> list[dict[str, np.ndarray]]:
    """The results of the signature calls, one after another on one interpreter: variables live on between them."""
    return [
        {name: np.array(value) for name, value in interpreter.get_signature_runner(signature)(**inputs).items()}
        for signature, inputs in calls
    ]


def main(folder: Path) -> None:
    from tflite_runtime.interpreter import Interpreter

    for job in json.loads((folder / "plan.json").read_text()):
        path = folder / job["model"]
        with np.load(f"{path}.inputs.npz") as arrays:
            calls = [
                (call["signature"], {name: arrays[f"{c}_{i}"] for i, name in enumerate(call["inputs"])})
                for c, call in enumerate(job["calls"])
            ]
        try:
            results = run_calls(Interpreter(model_path=str(path), num_threads=2), calls)
        except (ValueError, RuntimeError) as error:
            raise SystemExit(f"{job['name']}: {error}") from error
        names = [list(result) for result in results]
        Path(f"{path}.outputs.json").write_text(json.dumps(names))
        values = {f"{c}_{i}": result[name] for c, result in enumerate(results) for i, name in enumerate(names[c])}
        np.savez(f"{path}.outputs.npz", **values)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
