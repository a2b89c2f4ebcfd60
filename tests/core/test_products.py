import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keras_lc.core.products import dot, product, root_inverse

from .chains import examples


@given(
    st.tuples(*[st.sampled_from([1, 3, 63, 64, 65, 257, 700])] * 3),
    st.sampled_from([np.float32, np.float64]),
    st.booleans(),
    st.integers(0, 2**32),
)
@examples(60)
def test_products_of_integers_are_exact(sides, dtype, turned, seed):
    rows, inner, columns = sides
    rng = np.random.default_rng(seed)
    left, right = rng.integers(-9, 10, (rows, inner)), rng.integers(-9, 10, (inner, columns))
    given = np.asfortranarray(left.astype(dtype)) if turned else left.astype(dtype)
    found = product(given, right.astype(dtype))
    assert found.dtype == dtype
    assert np.array_equal(found, left @ right)


@pytest.mark.parametrize("sides", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0), (300, 0, 700)])
def test_products_of_nothing_are_zeros(sides):
    rows, inner, columns = sides
    found = product(np.ones((rows, inner)), np.ones((inner, columns)))
    assert found.shape == (rows, columns)
    assert not found.any()


@given(st.integers(0, 40_000), st.integers(0, 2**32))
@examples(30)
def test_dots_of_integers_are_exact(size, seed):
    one, other = np.random.default_rng(seed).integers(-9, 10, (2, size))
    assert dot(one.astype(np.float32), other.astype(np.float32)) == int(one @ other)


@given(st.integers(1, 150), st.integers(0, 2**32 - 1))
@example(2, 3666)
@examples(100)
def test_the_inverse_root_makes_a_matrix_that_of_identity(size, seed):
    values = np.random.default_rng(seed).standard_normal((size, 2 * size + 5))
    matrix = values @ values.T
    root = root_inverse(matrix)
    np.testing.assert_allclose(root @ matrix @ root.T, np.eye(size), atol=1e-9)
    assert not np.triu(root, 1).any()
