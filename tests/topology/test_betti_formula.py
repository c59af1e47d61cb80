"""The closed form of b1 in NumPy and in Numba against ripser, textbook reduction, and what topology knows."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from persistence_oracles import TIED_KINDS, clouds, distances, projective_plane, reduced_b1, ripser_b1

from ondevice.betti_numba import kernels, numpy_path
from ondevice.betti_numba.geometry import squared_distances


def both(d2: NDArray[np.float64]) -> NDArray[np.int64]:
    """b1 by NumPy, after checking that Numba says the same."""
    b1 = numpy_path.betti_numbers(d2)
    compiled = kernels.betti_numbers(d2)
    assert b1.dtype == compiled.dtype == np.int64
    np.testing.assert_array_equal(compiled, b1)
    return b1


def from_upper(values: list[int], n: int) -> NDArray[np.float64]:
    d = np.zeros((n, n))
    d[np.triu_indices(n, 1)] = values
    return d + d.T


def cycle_distances(n: int) -> NDArray[np.float64]:
    steps = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    return np.minimum(steps, n - steps).astype(np.float64)


@st.composite
def dissimilarities(draw: st.DrawFn, max_n: int = 8, max_value: int = 6) -> NDArray[np.float64]:
    """Symmetric matrices of small integers: many ties, zeros that are not transitive, no triangle inequality."""
    n = draw(st.integers(1, max_n))
    pairs = n * (n - 1) // 2
    return from_upper(draw(st.lists(st.integers(0, max_value), min_size=pairs, max_size=pairs)), n)


lattice_points = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 9), st.integers(1, 3)), elements=st.integers(-3, 3).map(float)
)


@pytest.mark.parametrize("n", [4, 9, 32, 70])
@pytest.mark.parametrize("kind", ["normal", *TIED_KINDS])
def test_agrees_with_ripser(kind: str, n: int) -> None:
    d2 = distances(clouds(kind, n))
    np.testing.assert_array_equal(both(d2), [ripser_b1(matrix) for matrix in d2])


def test_agrees_with_ripser_on_many_generic_clouds() -> None:
    rng = np.random.default_rng(0)
    for n, features in [(5, 2), (12, 3), (20, 40), (32, 2), (32, 300)]:
        d2 = distances(rng.normal(size=(60, n, features)))
        np.testing.assert_array_equal(both(d2), [ripser_b1(matrix) for matrix in d2])


def test_gram_matrix_in_float32_gives_the_b1_of_the_activations() -> None:
    activations = np.maximum(np.random.default_rng(1).normal(size=(40, 32, 900)), 0).astype(np.float32)
    centred = activations - activations.mean(axis=1, keepdims=True)
    d2 = squared_distances(centred @ centred.transpose(0, 2, 1))
    assert d2.dtype == np.float64
    wide = activations.astype(np.float64)
    of_activations = [((cloud[:, None] - cloud[None]) ** 2).sum(axis=-1) for cloud in wide]
    np.testing.assert_array_equal(both(d2), [ripser_b1(matrix) for matrix in of_activations])


@settings(max_examples=300, deadline=None)
@given(dissimilarities())
def test_agrees_with_textbook_reduction_on_any_symmetric_matrix(d: NDArray[np.float64]) -> None:
    assert both(d[None])[0] == reduced_b1(d)


@settings(max_examples=100, deadline=None)
@given(lattice_points)
def test_agrees_with_both_oracles_on_lattice_points(points: NDArray[np.float64]) -> None:
    d2 = distances(points[None])
    assert both(d2)[0] == reduced_b1(d2[0]) == ripser_b1(d2[0])


@settings(max_examples=60, deadline=None)
@given(dissimilarities(max_n=14), st.randoms(use_true_random=False))
def test_order_of_points_does_not_matter(d: NDArray[np.float64], random: Random) -> None:
    order = random.sample(range(len(d)), len(d))
    assert both(d[None]) == both(np.ascontiguousarray(d[np.ix_(order, order)])[None])


@settings(max_examples=60, deadline=None)
@given(dissimilarities(max_n=14))
def test_only_the_order_of_distances_matters(d: NDArray[np.float64]) -> None:
    assert both(d[None]) == both(1e-30 * d[None]) == both(np.expm1(d)[None])


@settings(max_examples=60, deadline=None)
@given(lattice_points, st.integers(-9, 9), st.sampled_from([2.0**-20, 0.5, 4.0, 2.0**40]))
def test_moving_and_scaling_points_changes_nothing(points: NDArray[np.float64], shift: int, scale: float) -> None:
    moved = scale * (points + shift)
    assert both(distances(points[None])) == both(distances(moved[None]))


@settings(max_examples=60, deadline=None)
@given(lattice_points, st.data())
def test_a_copy_of_a_point_changes_nothing(points: NDArray[np.float64], data: st.DataObject) -> None:
    again = points[data.draw(st.integers(0, len(points) - 1))]
    doubled = np.vstack([points, again])
    assert both(distances(points[None])) == both(distances(doubled[None]))


def test_clouds_far_apart_add_up() -> None:
    square = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    several = np.vstack([square + 50.0 * i * i for i in range(4)])  # in a diagonal row, so that one edge joins each two
    assert both(distances(several[None])) == 4


@pytest.mark.parametrize(("n", "expected"), [(3, 0), (4, 1), (5, 1), (6, 1), (7, 1), (12, 1), (33, 1)])
def test_a_cycle_has_one_loop(n: int, expected: int) -> None:
    assert both(cycle_distances(n)[None]) == expected


def test_octahedron_has_none() -> None:
    vertices = np.vstack([np.eye(3), -np.eye(3)])
    assert both(distances(vertices[None])) == 0


def test_rank_is_taken_over_f2() -> None:
    plane = projective_plane()
    assert len(plane) == 31
    assert both(plane[None]) == ripser_b1(plane) == 1


@pytest.mark.parametrize("n", [1, 2, 3])
def test_three_points_or_fewer_have_no_loop(n: int) -> None:
    for kind in ("normal", *TIED_KINDS):
        np.testing.assert_array_equal(both(distances(clouds(kind, n))), np.zeros(6))


@pytest.mark.parametrize("betti_numbers", [numpy_path.betti_numbers, kernels.betti_numbers])
def test_input_may_be_read_only_and_is_left_alone(
    betti_numbers: Callable[[NDArray[np.float64]], NDArray[np.int64]],
) -> None:
    d2 = distances(clouds("grid", 20))
    before = d2.copy()
    d2.setflags(write=False)
    betti_numbers(d2)
    np.testing.assert_array_equal(d2, before)


def test_kernels_refuse_what_they_were_not_compiled_for() -> None:
    d2 = distances(clouds("normal", 6))
    for wrong in (d2.astype(np.float32), np.asfortranarray(d2), d2[0]):
        with pytest.raises(TypeError):
            kernels.betti_numbers(wrong)
