"""Probe: squared distances are those of the activations, in whatever pieces the network runs; what a plan promises."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ondevice import probe
from ondevice.meter import read_resident
from ondevice.probe_parts import Part, blocks, paired_sets
from ondevice.probe_plan import ProbePlan, plan_probe
from ondevice.rows import RowFile
from ondevice.runtime import LoadedModel, interpreter_module
from signatures.build import activations
from signatures.catalogue import Preprocessing
from signatures.errors import BudgetError, CapabilityError
from signatures.graph import Graph, Model, Tensor
from signatures.layers import Layer, find_layers
from signatures.segments import stretch
from signatures.tflite_io import write_model
from tests.signatures.branching import SIDE, Sketch, networks
from tests.signatures.branching import network as branching

PREPROCESSING = Preprocessing((0.01, 0.02, 0.03), (-1.0, -1.5, 0.5))
MIB = 1 << 20
Pixels = NDArray[np.uint8]


def pixels(batches: int, batch: int, side: int = SIDE) -> Pixels:
    return np.random.default_rng(4).integers(0, 256, (batches, batch, side, side, 3), np.uint8)


def probed(network: Graph) -> tuple[Layer, ...]:
    return find_layers(network)[:-1]


def expected(network: Graph, images: Pixels, folder: Path) -> NDArray[np.float64]:
    """From activations of single images, in float64."""
    layers = probed(network)
    signature = activations(network, layers)
    write_model(Model((signature.graph,), (signature,)), folder / "activations.tflite")
    model = LoadedModel(folder / "activations.tflite", 1)
    flat = images.reshape(-1, 1, *images.shape[2:])
    inputs = flat * np.float32(PREPROCESSING.scale) + np.float32(PREPROCESSING.offset)
    values = [model.call("activations", {"x": x.astype(np.float32)}) for x in inputs]
    result = []
    for layer in layers:
        rows = np.stack([value[layer.name].ravel() for value in values]).astype(np.float64)
        clouds = rows.reshape(*images.shape[:2], -1)
        result.append(((clouds[:, :, None] - clouds[:, None]) ** 2).sum(-1))
    return np.stack(result, 1)


def distances(network: Graph, images: Pixels, folder: Path, budget_bytes: int = 1 << 40) -> NDArray[np.float64]:
    return probe.squared_distances(network, probed(network), images, PREPROCESSING, folder, 1, budget_bytes)


def assert_close(got: NDArray[np.float64], want: NDArray[np.float64]) -> None:
    """To float32's rounding of the largest squared norm of a layer, which a distance is a difference of."""
    largest = want.max(axis=(2, 3), keepdims=True)
    assert got.shape == want.shape
    assert got.dtype == np.float64
    assert (np.abs(got - want) <= 1e-5 * largest + 1e-9).all(), (np.abs(got - want) / largest).max()
    np.testing.assert_array_equal(got, got.transpose(0, 1, 3, 2))
    assert not np.einsum("abii->abi", got).any()
    assert (got >= 0).all()


# Distances -----------------------------------------------------------------------------------------------------------


@st.composite
def planned(draw: st.DrawFn) -> tuple[Graph, int, ProbePlan]:
    """A network with residuals and gates, cut anywhere, each segment run in any of the ways that there are for it."""
    network, batch = draw(networks.filter(probed)), draw(st.sampled_from([4, 5, 8]))
    made = stretch(network, [network.ops[layer.op].output for layer in probed(network)])
    inner = draw(st.sets(st.sampled_from(made.places)))
    places = sorted({0, made.places[-1]} | inner)
    parts = []
    for first, end in pairwise(places):
        options = Part(made.segment(first, end), batch, batch, None).options()
        parts.append(options[draw(st.integers(0, len(options) - 1))])
    return network, batch, ProbePlan(tuple(parts), 0)


@settings(max_examples=40)
@given(planned())
def test_distances_are_those_of_the_activations_however_the_network_is_cut(
    case: tuple[Graph, int, ProbePlan],
) -> None:
    network, batch, plan = case
    images = pixels(2, batch)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(probe, "plan_probe", return_value=plan):
        got = distances(network, images, Path(folder))
        assert not list(Path(folder).iterdir())
        assert_close(got, expected(network, images, Path(folder)))


def big(side: int = 64) -> Graph:
    """A few layers whose activations are large against everything else."""
    s = Sketch(1)
    x = s.conv(s.b.input("x", (1, side, side, 3)), 16, 3)
    y = s.b.add(s.conv(s.conv(x, 48, activation=3), 16), x)
    z = s.conv(s.conv(y, 32, 3, stride=2), 8, 3, stride=2)
    return s.b.graph([s.dense(s.b.mean(z, [1, 2]), 5)])


def needed_bytes(network: Graph, batch: int) -> int:
    """What the smallest pieces take."""
    with pytest.raises(BudgetError) as error:
        plan_probe(network, tensors(network), batch, 1, 0, 1, interpreter_module()[0])
    return int(str(error.value).split("--budget-mib ")[1]) * MIB


def tensors(network: Graph) -> list[Tensor]:
    return [network.ops[layer.op].output for layer in probed(network)]


@pytest.mark.parametrize("more_mib", [1, 3, 1000])
def test_a_real_plan_gives_the_same_distances(tmp_path: Path, more_mib: int) -> None:
    network, images = big(), pixels(2, 8, 64)
    seen = []
    want = expected(network, images, tmp_path)
    budget = read_resident().resident_bytes + needed_bytes(network, 8) + (8 + more_mib) * MIB
    got = probe.squared_distances(
        network, probed(network), images, PREPROCESSING, tmp_path, 1, budget, lambda *done: seen.append(done)
    )
    assert_close(got, want)
    assert seen == [(k + 1, len(seen)) for k in range(len(seen))]


def test_batches_may_come_from_a_generator(tmp_path: Path) -> None:
    network, images = branching(["residual"]), pixels(3, 4)
    got = probe.squared_distances(
        network, probed(network), (batch for batch in images), PREPROCESSING, tmp_path, 1, 1 << 40
    )
    np.testing.assert_array_equal(got, distances(network, images, tmp_path))


@pytest.mark.parametrize("images_at_once", [8, 4, 2])
def test_copies_of_an_image_have_no_distance(tmp_path: Path, images_at_once: int) -> None:
    """Or next to none: 1e-6 of the squared distances around them."""
    network, images = branching(["residual", "strided"]), pixels(1, 8)
    images[0, 5] = images[0, 2]
    made = stretch(network, tensors(network))
    part = Part(made.segment(0, made.places[-1]), 8, images_at_once, None)
    with mock.patch.object(probe, "plan_probe", return_value=ProbePlan((part,), 0)):
        got = distances(network, images, tmp_path)
    assert (got[0, :, 2, 5] <= 1e-6 * got[0].mean(axis=(1, 2))).all()


def test_activations_that_are_no_numbers_give_distances_that_are_none(tmp_path: Path) -> None:
    s = Sketch(0)
    x = s.conv(s.b.input("x", (1, SIDE, SIDE, 3)), 4)
    bad = s.b.conv_2d(x, s.b.const(np.full((2, 1, 1, 4), 1e30, np.float32)), None)
    network = s.b.graph([s.dense(s.b.mean(s.b.mul(bad, bad), [1, 2]), 3)])
    got = distances(network, pixels(1, 4), tmp_path)
    assert np.isfinite(got[0, 0]).all()
    assert not np.isfinite(got[0, 1]).all()


def test_nothing_is_left_behind_by_a_failure(tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    network = branching(["residual"])
    with pytest.raises(KeyboardInterrupt):
        probe.squared_distances(network, probed(network), pixels(1, 4), PREPROCESSING, tmp_path, 1, 1 << 40, fail)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    network = branching([])
    with pytest.raises(CapabilityError, match="cannot hold what probing keeps"):
        distances(network, pixels(1, 4), tmp_path / "missing")


# Plans ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.integers(0, 40), st.sampled_from([4, 7, 16]))
def test_a_plan_keeps_its_budget_and_probes_every_layer_once(tenths: int, batch: int) -> None:
    network, runtime = big(), interpreter_module()[0]
    budget = needed_bytes(network, batch) + 100 * MIB + tenths * MIB // 2
    plan = plan_probe(network, tensors(network), batch, 2, 100 * MIB, budget, runtime)
    assert plan.peak_bytes <= budget
    assert plan.peak_bytes == 100 * MIB + max(part.peak_bytes(runtime) for part in plan.parts)
    assert [t for part in plan.parts for t in part.segment.probed] == tensors(network)
    ops = [op for part in plan.parts for op in part.segment.graph.ops]
    assert ops == list(network.ops[: len(ops)])


def test_more_memory_never_makes_more_pieces() -> None:
    network, least = big(128), needed_bytes(big(128), 16)
    runs = []
    for more_mib in (0, 5, 20, 2000):
        plan = plan_probe(network, tensors(network), 16, 2, 0, least + more_mib * MIB, interpreter_module()[0])
        runs.append(sum(part.runs for part in plan.parts))
    assert runs == sorted(runs, reverse=True)
    assert runs[-1] == 1


def test_a_hopeless_budget_says_what_would_do() -> None:
    network, runtime = big(), interpreter_module()[0]
    with pytest.raises(BudgetError, match="the budget is 90 MiB, and probing with batches of 8 takes") as error:
        plan_probe(network, tensors(network), 8, 2, 89 * MIB, 90 * MIB, runtime)
    assert error.value.exit_code == 4
    enough = int(str(error.value).split("--budget-mib ")[1]) * MIB
    plan_probe(network, tensors(network), 8, 2, 89 * MIB, enough, runtime)


@pytest.mark.parametrize("batch", range(2, 14))
@pytest.mark.parametrize("sets", [blocks, paired_sets])
def test_every_image_and_every_pair_is_in_a_set(batch: int, sets: Callable[[int, int], list[range]]) -> None:
    for images in range(2, batch, 2):
        made = sets(batch, images)
        assert all(len(members) == images for members in made)
        assert {i for members in made for i in members} == set(range(batch))
        if sets is paired_sets:
            assert {(i, k) for members in made for i in members for k in members} == {
                (i, k) for i in range(batch) for k in range(batch)
            }


# Rows on disk --------------------------------------------------------------------------------------------------------


def test_rows_come_back_by_the_piece(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(6, 5, 4, 2)).astype(np.float32)
    file = RowFile(tmp_path / "rows", (1, 5, 4, 2), np.float32)
    for rows in ((3, 5), (0, 3)):
        file.write(np.array([4, 1]), rows, values[[4, 1], rows[0] : rows[1]].reshape(2, -1))
    np.testing.assert_array_equal(file.read(np.array([1, 4]), (2, 4)), values[[1, 4], 2:4])
    np.testing.assert_array_equal(file.read(np.array([4]), None), values[[4]])
    with pytest.raises(CapabilityError, match="cut short"):
        file.read(np.array([5]), None)
    file.close()
    assert not list(tmp_path.iterdir())
