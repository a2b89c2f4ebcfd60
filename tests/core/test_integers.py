import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lc.core.integers import Integers
from keras_lc.errors import DamagedError

from .chains import examples

NARROW, WIDE = np.int16, np.int32


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(-40, 40) | st.integers(-(2**20), 2**20), min_size=3, max_size=3),
            st.integers(0, 8),
        ),
        min_size=1,
        max_size=4,
    )
)
@examples(200)
def test_a_total_is_exact_and_narrow(parts):
    parts = [(np.array(numbers), exponent) for numbers, exponent in parts]
    expected = sum(numbers << exponent for numbers, exponent in parts)
    before = [(Integers.of(numbers), exponent) for numbers, exponent in parts]
    total = Integers.total(before)
    if total is None:
        assert not any(numbers.any() for numbers, _ in parts)
        return
    assert np.array_equal(total.array, expected)
    assert total.array.dtype == (NARROW if np.abs(expected).max() < 2**15 else WIDE)
    assert np.abs(expected).max() <= total.most
    for (numbers, _), (kept, _) in zip(parts, before, strict=True):
        assert np.array_equal(kept.array, numbers)


def test_nothing_adds_up_to_nothing():
    assert Integers.total([]) is None
    assert Integers.total([(Integers.of(np.zeros(3)), 1)] * 2) is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int32, np.int64])
@pytest.mark.parametrize("most", [0, 2**15 - 1, 2**15, 2**24])
def test_integers_are_as_wide_as_they_must_be(dtype, most):
    if np.issubdtype(dtype, np.integer) and most > np.iinfo(dtype).max:
        return
    held = Integers.of(np.array([-most, 1, 0], dtype))
    assert held.most == max(most, 1)
    assert held.array.dtype == (NARROW if most < 2**15 else WIDE)
    assert held.array.tolist() == [-most, 1, 0]


@pytest.mark.parametrize("number", [2.0**31, -(2.0**40), np.inf, np.nan])
def test_what_is_no_integer_of_a_lattice_is_refused(number):
    with pytest.raises(DamagedError):
        Integers.of(np.array([number, 1.0]))


def test_a_total_beyond_the_range_is_refused():
    large = Integers.of(np.array([2**30]))
    with pytest.raises(DamagedError):
        Integers.total([(large, 0), (large, 0)])
    with pytest.raises(DamagedError):
        Integers.total([(large, 1)])
