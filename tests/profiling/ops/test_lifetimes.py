"""The timeline against brute force: what is alive when, that nothing lies on anything else, and what it adds up to."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from profiling.ops.lifetimes import ARENA, ARGUMENT, SCRATCH, SPACES, WORKSPACE, Timeline, timeline
from signatures.arenas import ALIGNMENT, live_bytes
from signatures.build import inference_model
from signatures.builtin_memory import graph_values
from signatures.graph import Model
from signatures.layers import find_layers
from signatures.memory import footprint
from signatures.micro_batches import suffix_model
from signatures.subset import Subset
from signatures.xnnpack import LITERT, TFLITE214, VARIABLE_OPS, parts
from signatures.xnnpack_memory import EXTRA_BYTES, is_fused, part_values, readers_of
from tests.end_to_end import tiny
from tests.signatures import branching, example_model

NETWORKS = {"tiny": tiny.source().graph, "every block": branching.network(tuple(branching.BLOCKS))}
MODELS: dict[str, tuple[Model, str]] = {
    **{name: (suffix_model(graph, Subset(find_layers(graph)), 2, 4), "gradients") for name, graph in NETWORKS.items()},
    "inference": (inference_model(NETWORKS["tiny"], 4), "infer"),
    "variables": (example_model.training_model(), "train"),
}
CASES = [(name, runtime) for name in MODELS for runtime in (LITERT, TFLITE214)]


def timeline_of(name: str, runtime: str) -> Timeline:
    model, signature = MODELS[name]
    return timeline(model.signature(signature), runtime)


@pytest.mark.parametrize(("name", "runtime"), CASES)
def test_the_peak_is_where_most_is_alive(name: str, runtime: str) -> None:
    lived = timeline_of(name, runtime)
    alive = [sum(v.n_bytes for v in lived.values if v.born <= step <= v.dies) for step in range(len(lived.ops))]
    assert lived.live_bytes().tolist() == alive
    assert (lived.peak_step, max(alive)) == (
        alive.index(max(alive)),
        sum(v.n_bytes for v in lived.alive(lived.peak_step)),
    )


@pytest.mark.parametrize(("name", "runtime"), CASES)
def test_what_is_alive_bounds_the_predicted_arena_and_workspace_from_below(name: str, runtime: str) -> None:
    model, signature = MODELS[name]
    graph = model.signature(signature).graph
    plan, lived = parts(graph, runtime), timeline_of(name, runtime)
    in_parts = [live_bytes(part_values(part, readers_of([graph]))) for part in plan if part.delegated]
    assert lived.live_bytes(ARENA).max() == live_bytes(graph_values(graph, plan))
    assert lived.live_bytes(WORKSPACE).max() == max(in_parts, default=0)
    predicted = footprint(model, [signature], runtime)
    for space, size in ((ARENA, predicted.arena_bytes), (WORKSPACE, predicted.workspace_bytes)):
        top = max((v.place + v.n_bytes for v in lived.values if v.space == space), default=0)
        assert lived.live_bytes(space).max() <= top <= size


@pytest.mark.parametrize(("name", "runtime"), CASES)
def test_nothing_lies_on_anything_that_lives_at_the_same_time(name: str, runtime: str) -> None:
    lived = timeline_of(name, runtime)
    for space in SPACES:
        for one, other in itertools.combinations([v for v in lived.values if v.space == space], 2):
            together = one.born <= other.dies and other.born <= one.dies
            apart = one.place + one.n_bytes <= other.place or other.place + other.n_bytes <= one.place
            assert apart or not together
            assert one.place % ALIGNMENT == 0


@pytest.mark.parametrize(("name", "runtime"), CASES)
def test_every_op_finds_its_operands_alive(name: str, runtime: str) -> None:
    model, signature = MODELS[name]
    graph, lived = model.signature(signature).graph, timeline_of(name, runtime)
    taken = {op for part in parts(graph, runtime) if part.delegated for op in part.ops}
    readers = readers_of([graph])
    # Without bytes here: what XNNPACK does in passing, whose reader goes to what that reads, and variables.
    elsewhere = {op.output for op in taken if op.kind in ("PAD", "TRANSPOSE") and is_fused(op, readers)}
    elsewhere |= {tensor for op in taken if op.kind in VARIABLE_OPS for tensor in op.outputs}
    for step, op in enumerate(lived.ops):
        alive = {(name, v.n_bytes) for v in lived.values if v.born <= step <= v.dies for name in v.names}
        for tensor in op.inputs:
            if tensor is not None and tensor.data is None and tensor not in elsewhere and tensor.n_bytes:
                assert {(tensor.name, tensor.n_bytes), (tensor.name, tensor.n_bytes + EXTRA_BYTES)} & alive


def test_values_know_who_makes_and_reads_them() -> None:
    lived = timeline_of("tiny", LITERT)
    by_name = {name: value for value in lived.values for name in value.names}
    (softmax,) = (i for i, op in enumerate(lived.ops) if op.kind == "SOFTMAX")
    logits = by_name["head"]
    assert (logits.read, logits.dies) == (None, len(lived.ops) - 1)
    assert lived.ops[logits.made or 0].output.name == "head"
    assert by_name["softmax"].made == softmax
    assert (by_name["truth"].made, by_name["truth"].stage, by_name["truth"].born) == (None, ARGUMENT, 0)
    assert all(v.n_bytes > 0 for v in lived.values)
    assert Counter(v.stage for v in lived.values)[SCRATCH] == sum(not v.names for v in lived.values)


@pytest.mark.parametrize(("name", "runtime"), CASES)
def test_spans_are_the_parts(name: str, runtime: str) -> None:
    model, signature = MODELS[name]
    lived, plan = timeline_of(name, runtime), parts(model.signature(signature).graph, runtime)
    assert [(lived.ops[first:end], taken) for first, end, taken in lived.spans] == [(p.ops, p.delegated) for p in plan]
