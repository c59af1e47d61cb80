"""Gram matrices → squared distances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from ondevice.betti_numba.geometry import squared_distances
from signatures.errors import InputError


def test_integer_points_give_exact_distances() -> None:
    points = np.random.default_rng(0).integers(-50, 50, (3, 12, 7))
    gram = (points @ points.transpose(0, 2, 1)).astype(np.float32)
    expected = ((points[:, :, None] - points[:, None]) ** 2).sum(axis=-1)
    np.testing.assert_array_equal(squared_distances(gram), expected)


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        st.tuples(st.integers(1, 3), st.shared(st.integers(1, 6), key="n"), st.shared(st.integers(1, 6), key="n")),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    ),
    st.booleans(),
)
def test_output_is_a_dissimilarity_whatever_finite_matrix_comes(gram: NDArray[np.float64], fortran: bool) -> None:
    before = gram.copy()
    d2 = squared_distances(np.asfortranarray(gram) if fortran else gram)
    assert d2.dtype == np.float64
    assert d2.flags.c_contiguous
    assert (d2 >= 0).all()
    np.testing.assert_array_equal(d2, d2.transpose(0, 2, 1))
    np.testing.assert_array_equal(np.einsum("kii->ki", d2), 0)
    np.testing.assert_array_equal(gram, before)


def test_lopsided_gram_matrix_is_symmetrised() -> None:
    gram = np.array([[[4.0, 1.0], [2.0, 9.0]]])
    np.testing.assert_array_equal(squared_distances(gram), [[[0.0, 10.0], [10.0, 0.0]]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(2, 0, 0), (2, 1, 3)])
def test_bad_values_name_the_matrix(value: float, place: tuple[int, int, int]) -> None:
    gram = np.zeros((5, 4, 4), dtype=np.float32)
    gram[place] = value
    with pytest.raises(InputError, match=r"Gram matrices \[2\] of 5"):
        squared_distances(gram)


def test_bad_value_of_a_single_point_is_found() -> None:
    with pytest.raises(InputError, match=r"\[0\] of 1"):
        squared_distances(np.array([[[np.inf]]]))


def test_overflow_is_an_error() -> None:
    with pytest.raises(InputError, match="too large"):
        squared_distances(np.array([[[1e308, 0.0], [0.0, 1e308]]]))


@pytest.mark.parametrize("shape", [(4, 4), (2, 3, 4), (0, 3, 3), (2, 0, 0), (1, 2, 2, 2)])
def test_wrong_shapes_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected shape \[k, n, n\]"):
        squared_distances(np.zeros(shape))


@pytest.mark.parametrize("dtype", [np.float16, np.int32, np.complex64, bool, object, ">f4"])
def test_wrong_dtypes_are_named(dtype: object) -> None:
    with pytest.raises(InputError, match="expected float32 or float64"):
        squared_distances(np.zeros((1, 2, 2), dtype=dtype))
