from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lc.core.matrix import Matrix, view

from .chains import examples


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [
        ((300, 200), 300, 200),
        ((3, 3, 32, 64), 288, 64),
        ((256, 4, 64), 256, 256),
        ((16, 16), 16, 16),
        ((64, 48, 1), 64, 48),
        ((1, 64, 48), 64, 48),
    ],
)
def test_a_tensor_is_seen_as_its_squarest_matrix(shape, rows, columns):
    assert view(shape) == Matrix(rows, columns)
    assert view(shape)
    assert view(shape).sides == rows + columns


@pytest.mark.parametrize(
    "shape", [(), (0,), (5,), (5, 3), (1000, 1), (1, 1000), (0, 9), (15, 16), (10**6, 8)]
)
def test_a_tensor_with_few_values_for_its_sides_is_a_vector(shape):
    assert view(shape) == Matrix(1, 0)
    assert not view(shape)


@given(st.lists(st.integers(0, 40), max_size=5).map(tuple))
@examples(300)
def test_a_view_is_a_cut_of_the_shape_and_the_best_one(shape):
    found = view(shape)
    cuts = [(prod(shape[:i]), prod(shape[i:])) for i in range(1, len(shape))]
    if found:
        assert (found.rows, found.columns) in cuts
        assert found.rows * found.columns == prod(shape)
        assert found.sides == min(map(sum, cuts))
        assert 0 < 8 * found.sides <= prod(shape)
    else:
        assert all(8 * sum(cut) > prod(shape) for cut in cuts if prod(shape))
