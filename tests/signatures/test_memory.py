"""Predicted memory: planners, the cut by what XNNPACK takes, and the peak of a process that does what was predicted."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiling import memory_lab
from signatures.arenas import ALIGNMENT, Lifetime, arena_bytes, live_bytes
from signatures.build import gram
from signatures.cut import cut_before
from signatures.graph import Graph, Model
from signatures.layers import find_layers
from signatures.memory import footprint
from signatures.micro_batches import suffix_model
from signatures.subset import Subset, subset_of
from signatures.tflite_io import write_model
from signatures.xnnpack import LITERT, TFLITE214, parts
from tests.oracles import delegated_parts, other_runtime
from tests.signatures import branching, example_model

REPOSITORY = Path(__file__).parents[2]


@st.composite
def lifetimes(draw: st.DrawFn, at_most: int = 12) -> list[Lifetime]:
    values = []
    for _ in range(draw(st.integers(0, at_most))):
        first = draw(st.integers(0, 10))
        n_bytes = ALIGNMENT * draw(st.integers(0, 20))
        values.append(Lifetime(n_bytes, first, first + draw(st.integers(0, 6)), draw(st.booleans())))
    return values


def smallest_bytes(values: list[Lifetime]) -> int:
    """Of any arena: whatever the order, values go one after the other to the lowest place where they fit."""
    best = sum(value.n_bytes for value in values)
    for order in itertools.permutations(values):
        placed: list[tuple[int, Lifetime]] = []
        for value in order:
            beside = sorted((at, at + v.n_bytes) for at, v in placed if v.first <= value.last and v.last >= value.first)
            place = 0
            for start, end in beside:
                if start - place >= value.n_bytes:
                    break
                place = max(place, end)
            placed.append((place, value))
        best = min(best, max((at + v.n_bytes for at, v in placed), default=0))
    return best


@pytest.mark.parametrize("gap_at_start", [False, True])
@given(values=lifetimes())
def test_an_arena_holds_all_that_lives_at_once(values: list[Lifetime], gap_at_start: bool) -> None:
    assert live_bytes(values) <= arena_bytes(values, gap_at_start) <= sum(value.n_bytes for value in values)


@given(values=lifetimes(5))
def test_an_arena_is_no_smaller_than_the_best(values: list[Lifetime]) -> None:
    assert smallest_bytes(values) <= arena_bytes(values, gap_at_start=True)


def test_a_gap_before_the_first_value_is_used_by_the_newer_planner_alone() -> None:
    values = [Lifetime(320, 0, 1), Lifetime(256, 1, 3), Lifetime(128, 2, 4), Lifetime(64, 3, 3)]
    assert arena_bytes(values, gap_at_start=True) < arena_bytes(values, gap_at_start=False)


def training_graphs() -> dict[str, Model]:
    """Graphs of a network in which some ops are not XNNPACK's, with variables and without."""
    models = {"variables": example_model.training_model()}
    every_block = branching.network(tuple(branching.BLOCKS))
    for name, graph in {"plain": example_model.network(16, 8), "every block": every_block}.items():
        layers = find_layers(graph)
        probe = gram(graph, layers, 4)
        models[f"{name}, gradients"] = suffix_model(graph, Subset(layers), 2, 4)
        models[f"{name}, probe"] = Model((probe.graph,), (probe,))
    return models


MODELS = training_graphs()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("runtime", [LITERT, TFLITE214])
def test_parts_are_those_of_the_interpreter(name: str, runtime: str, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    write_model(MODELS[name], path)
    python = Path(sys.executable) if runtime == LITERT else other_runtime.tflite214_python()
    command = [str(python), str(delegated_parts.__file__), str(path)]
    answer = subprocess.run(command, check=True, capture_output=True).stdout
    assert json.loads(answer) == predicted_parts(MODELS[name].graphs[0], runtime)


def predicted_parts(graph: Graph, runtime: str) -> list[list[str]]:
    """What each delegated part makes for others."""
    readers = graph.consumers()
    predicted = []
    for part in parts(graph, runtime):
        made = [t for op in part.ops for t in op.outputs]
        leaving = [t for t in made if t in graph.outputs or not set(readers.get(t, ())) <= set(part.ops)]
        if part.delegated:
            predicted.append(sorted(t.name for t in leaving))
    return predicted


@pytest.mark.parametrize("runtime", [LITERT, TFLITE214])
@given(network=branching.networks)
def test_every_op_runs_once_and_after_what_it_reads(network: Graph, runtime: str) -> None:
    graph = suffix_model(network, Subset(find_layers(network)), 2, 4).graphs[0]
    order = [op for part in parts(graph, runtime) for op in part.ops]
    known = set(graph.inputs)
    for op in order:
        assert all(tensor is None or tensor.data is not None or tensor in known for tensor in op.inputs)
        known.update(op.outputs)
    assert set(order) == set(graph.ops)
    assert len(order) == len(graph.ops)


@pytest.mark.parametrize("runtime", [LITERT, TFLITE214])
def test_more_images_take_more(runtime: str) -> None:
    graph = example_model.network(32, 16)
    models = [suffix_model(graph, Subset(find_layers(graph)), batch, 16) for batch in (1, 2, 4, 8, 16)]
    peaks = [footprint(model, ["gradients"], runtime).running_bytes for model in models]
    assert peaks == sorted(set(peaks))


def test_fewer_trained_layers_take_less() -> None:
    graph = example_model.network(32, 16)
    names = [layer.name for layer in find_layers(graph)]
    peaks = []
    for first in range(len(names)):
        cut = cut_before(graph, names[first:])
        subset = subset_of(find_layers(cut.suffix), names[first:])
        peaks.append(footprint(suffix_model(cut.suffix, subset, 8, 8), ["gradients"], LITERT).running_bytes)
    assert peaks == sorted(peaks, reverse=True)


@pytest.mark.parametrize("runtime", [LITERT, TFLITE214])
def test_the_peak_of_a_process_is_predicted(runtime: str, tmp_path: Path) -> None:
    python = Path(sys.executable) if runtime == LITERT else other_runtime.tflite214_python()
    graph = example_model.network(128, 64, 10)
    subset = Subset(find_layers(graph))
    for batch in (2, 8):
        model = suffix_model(graph, subset, batch, 8)
        _, _, predicted, measured = memory_lab.measure_model(model, python, tmp_path)
        assert 1 - memory_lab.TOO_LOW <= predicted / measured <= 1.25
