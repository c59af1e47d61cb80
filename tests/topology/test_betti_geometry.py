"""Gram matrices → squared distances, and what is refused as distances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from ondevice.betti_numba.geometry import checked, squared_distances
from signatures.errors import InputError


def test_integer_points_give_exact_distances() -> None:
    points = np.random.default_rng(0).integers(-50, 50, (3, 12, 7))
    gram = (points @ points.transpose(0, 2, 1)).astype(np.float32)
    expected = ((points[:, :, None] - points[:, None]) ** 2).sum(axis=-1)
    np.testing.assert_array_equal(squared_distances(gram), expected)
    np.testing.assert_array_equal(squared_distances(gram[1]), expected[1])


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        st.tuples(st.integers(1, 3), st.shared(st.integers(1, 6), key="n"), st.shared(st.integers(1, 6), key="n")),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    )
)
def test_symmetric_with_zero_diagonal_whatever_finite_matrix_comes(gram: NDArray[np.float64]) -> None:
    before = gram.copy()
    d2 = squared_distances(gram)
    assert d2.dtype == np.float64
    np.testing.assert_array_equal(d2, d2.transpose(0, 2, 1))
    np.testing.assert_array_equal(np.einsum("kii->ki", d2), 0)
    np.testing.assert_array_equal(gram, before)


def test_lopsided_gram_matrix_is_symmetrised() -> None:
    gram = np.array([[[4.0, 1.0], [2.0, 9.0]]])
    np.testing.assert_array_equal(squared_distances(gram), [[[0.0, 10.0], [10.0, 0.0]]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e308])
@pytest.mark.parametrize("place", [(2, 0, 0), (2, 1, 3)])
def test_bad_values_of_a_gram_matrix_are_found_in_its_distances(value: float, place: tuple[int, int, int]) -> None:
    gram = np.zeros((5, 4, 4))
    gram[place] = gram[2, 2, 2] = value
    with pytest.raises(
        InputError, match=r"Matrices \[2\] of 5, counted from 0, hold NaN, infinity or values too large"
    ):
        checked(squared_distances(gram))


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [((1, 0, 2), 3.0, "not symmetric"), ((1, 2, 2), 1e-9, "zeros on the diagonal"), ((1, 1, 1), -1.0, "diagonal")],
)
def test_what_are_no_distances_is_named(place: tuple[int, int, int], value: float, why: str) -> None:
    d2 = np.zeros((3, 4, 4))
    d2[place] = value
    with pytest.raises(InputError, match=rf"Matrices \[1\] of 3, counted from 0, .*{why}"):
        checked(d2)


def test_distances_below_zero_are_refused() -> None:
    with pytest.raises(InputError, match=r"\[0\] of 1, counted from 0, hold values below 0"):
        checked(np.array([[[0.0, -1e-9], [-1e-9, 0.0]]]))


@pytest.mark.parametrize("shape", [(4, 4), (2, 3, 4), (0, 3, 3), (2, 0, 0), (1, 2, 2, 2)])
def test_wrong_shapes_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected shape \[k, n, n\]"):
        checked(np.zeros(shape))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int32, np.complex64, bool, object, ">f8"])
def test_wrong_dtypes_are_named(dtype: object) -> None:
    with pytest.raises(InputError, match="expected float64"):
        checked(np.zeros((1, 2, 2), dtype=dtype))
