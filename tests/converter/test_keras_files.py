"""Keras' files that name code, other files, or more than they hold: refused before Keras reads them. No TensorFlow."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.keras_files import check_keras_file
from signatures.errors import InputError

h5py = pytest.importorskip("h5py")

LAYERS: dict[str, Any] = {
    "module": "keras",
    "class_name": "Functional",
    "config": {"layers": [{"module": "keras.layers", "class_name": "Dense", "config": {"units": 3}}]},
}


def hdf5(fill: Callable[[Any], object] = lambda file: None, config: Any = LAYERS) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        file["layers/dense/kernel"] = np.ones((4, 3), np.float32)
        fill(file)
    return stream.getvalue()


def keras(
    config: Any = LAYERS, weights: bytes | None = None, more: tuple[tuple[str, bytes], ...] = (), compress: int = 0
) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights or hdf5())
        for name, content in more:
            archive.writestr(name, content)
    return stream.getvalue()


def with_layer(**layer: Any) -> dict[str, Any]:
    return {**LAYERS, "config": {"layers": [layer]}}


def huge(file: Any) -> None:
    file.create_dataset("bomb", (1 << 40,), np.float32, chunks=(1 << 20,), compression="gzip")


def external(file: Any) -> None:
    file.create_dataset("stolen", (16,), np.uint8, external=[("/etc/passwd", 0, 16)])


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((4,), np.float32)
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "x", (4,))
    file.create_virtual_dataset("stolen", layout)


def link(file: Any) -> None:
    file["stolen"] = h5py.ExternalLink("/tmp/other.h5", "/x")


LIES: dict[str, tuple[Callable[[], bytes], str]] = {
    "an array of 4 TiB": (lambda: hdf5(huge), "'bomb' in it has shape"),
    "values of another file": (lambda: hdf5(external), "'stolen' in it lies in another file"),
    "views of another file": (lambda: hdf5(virtual), "'stolen' in it lies in another file"),
    "a link to another file": (lambda: hdf5(link), "'stolen' in it is a link"),
    "a Lambda layer": (lambda: keras(with_layer(class_name="Lambda", module="keras.layers")), "names code"),
    "a function of another module": (lambda: keras(with_layer(class_name="system", module="os")), "os.system"),
    "code in an .h5": (lambda: hdf5(config=with_layer(class_name="Lambda")), "names code"),
    "weights in a zip that lie": (lambda: keras(weights=hdf5(link)), "is a link"),
    "a file that leaves": (lambda: keras(more=(("../../x.py", b""),)), "would unpack to '../../x.py'"),
    "a bomb": (lambda: keras(more=(("assets/a", bytes(100 << 20)),), compress=1), "that unpack to"),
    "half a file": (lambda: hdf5()[:2000], "is no Keras model"),
    "half a zip": (lambda: keras()[:300], "is no Keras model"),
    "text": (lambda: b"once upon a time", "neither HDF5 nor a zip file"),
    "nothing": (lambda: b"", "neither HDF5 nor a zip file"),
}


@pytest.mark.parametrize("case", LIES)
def test_files_that_lie(tmp_path: Path, case: str) -> None:
    build, said = LIES[case]
    path = tmp_path / "model.keras"
    path.write_bytes(build())
    with pytest.raises(InputError) as caught:
        check_keras_file(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [hdf5(), keras(), keras(compress=1)], ids=["hdf5", "zip", "compressed"])
def test_plain_files_are_fine(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.h5"
    path.write_bytes(content)
    check_keras_file(path)
