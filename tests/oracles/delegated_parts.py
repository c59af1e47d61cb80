"""Print what each part that XNNPACK got of a model's first graph makes: JSON, a list of tensor names a part, in order.

Runs with the interpreter of whatever Python runs it, and needs nothing of ours.
"""

from __future__ import annotations

import json
import sys


def main(path: str) -> None:
    """Ask the interpreter."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tflite_runtime.interpreter import Interpreter
    interpreter = Interpreter(model_path=path, num_threads=2)
    interpreter.allocate_tensors()
    names = {tensor["index"]: tensor["name"] for tensor in interpreter.get_tensor_details()}
    parts = [op["outputs"] for op in interpreter._get_ops_details() if op["op_name"] == "DELEGATE"]
    print(json.dumps([sorted(names[int(i)] for i in part) for part in parts]))


if __name__ == "__main__":
    main(sys.argv[1])
