from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ondevice.runtime import LoadedModel
from profiling.peers.problem import Problem, write_problem
from signatures.build import inference_model
from signatures.graph import Array, Graph
from signatures.layers import find_layers
from signatures.tflite_io import write_model
from tests.end_to_end import tiny
from tests.signatures import example_model

NETWORKS = {"SAME, residual": tiny.network(), "PAD, stride 2": example_model.network()}


@pytest.fixture(params=NETWORKS)
def graph(request: pytest.FixtureRequest) -> Graph:
    return NETWORKS[request.param]


@pytest.fixture
def images(graph: Graph) -> Array:
    shape = (3, *graph.inputs[0].shape[1:])
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.fixture
def logits(graph: Graph, images: Array, tmp_path: Path) -> Array:
    """By the interpreter."""
    write_model(inference_model(graph, len(images)), tmp_path / "infer.tflite")
    return LoadedModel(tmp_path / "infer.tflite", 1).call("infer", {"x": images})["logits"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A problem over the tiny network: its last two layers."""
    folder = tmp_path_factory.mktemp("problem")
    graph = tiny.network()
    names = tuple(layer.name for layer in find_layers(graph)[-2:])
    write(graph, names, folder)
    return folder


@pytest.fixture(scope="module", params=NETWORKS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A problem over each network: all its layers, strided and depthwise ones among them."""
    folder = tmp_path_factory.mktemp("whole")
    graph = NETWORKS[request.param]
    write(graph, tuple(layer.name for layer in find_layers(graph)), folder)
    return folder


def write(graph: Graph, layers: tuple[str, ...], folder: Path) -> None:
    write_model(inference_model(graph), folder / "model.tflite")
    side = graph.inputs[0].shape[1]
    path = str(folder / "model.tflite")
    write_problem(Problem("tiny", path, tiny.PREPROCESSING, layers, side, classes=3, batch=8, epochs=2), folder)
