"""A machine without an interpreter: exit code 7, what to install, and the same command works once it is there."""

from __future__ import annotations

from tests.abuse.conftest import Abused


def test_no_interpreter(abused: Abused) -> None:
    stubs = abused.commands.folder / "stubs"
    for package in ("ai_edge_litert", "tflite_runtime"):
        (stubs / package).mkdir(parents=True)
        (stubs / package / "__init__.py").write_text(f"raise ImportError('no {package} here')")
    without = Abused(abused.commands.searching(stubs), abused.bundle, abused.data)
    without.refused(
        7, "no TFLite interpreter", "pip install ai-edge-litert", "no ai_edge_litert here; no tflite_runtime here"
    )
    abused.adapt().succeeded()


def test_no_tensorflow_is_needed_on_the_device_and_the_host_says_that_it_needs_it(abused: Abused) -> None:
    stubs = abused.commands.folder / "stubs"
    stubs.mkdir()
    (stubs / "tensorflow.py").write_text("raise ImportError('no TensorFlow here')")
    without = Abused(abused.commands.searching(stubs), abused.bundle, abused.data)
    without.adapt().succeeded()
    export = lambda: without.commands.converter("export", "mobilenetv2", "--weights", "random")  # noqa: E731
    without.refused(7, "no TensorFlow here", by=export)
