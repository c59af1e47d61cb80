"""What an app does with an adapted network, in a few lines of its own: python plain_interpreter.py MODEL DATA MANIFEST.

Prints how many test images of a packed dataset the network gets right. Needs NumPy and a TFLite interpreter.
"""

import json
import sys
from pathlib import Path

import numpy as np

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    from tflite_runtime.interpreter import Interpreter

model, data, manifest = map(Path, sys.argv[1:])
preprocessing = json.loads(manifest.read_text())["preprocessing"]
scale, offset = (np.array(preprocessing[name], np.float32) for name in ("scale", "offset"))
images, labels = np.load(data / "test" / "images.npy"), np.load(data / "test" / "labels.npy")
interpreter = Interpreter(model_path=str(model))
interpreter.allocate_tensors()
(source,), (logits,) = interpreter.get_input_details(), interpreter.get_output_details()
right = 0
for image, label in zip(images, labels):  # noqa: B905 (it is not our reader's code)
    interpreter.set_tensor(source["index"], image[np.newaxis].astype(np.float32) * scale + offset)
    interpreter.invoke()
    right += int(interpreter.get_tensor(logits["index"]).argmax() == label)
print(right)
