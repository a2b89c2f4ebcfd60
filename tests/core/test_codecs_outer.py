import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lc.core.codecs import outer
from keras_lc.core.codecs.outer import Outer, Scale
from keras_lc.core.matrix import Matrix
from keras_lc.errors import DamagedError

from .chains import examples
from .traced import at_most

pytestmark = pytest.mark.usefixtures("traced")

REALS = [np.float32, np.float64]


@st.composite
def scales(draw, most=12):
    """Scales of up to `most` components."""
    counts, left = [], draw(st.integers(0, most))
    while left > 0 and len(counts) < 12:
        counts.append(draw(st.integers(0, left)))
        left -= counts[-1]
    area = draw(st.floats(1e-60, 1e60))
    return Scale(area, draw(st.integers(-200, 200)), tuple(counts))


def factors(scale, matrix, largest, seed):
    """Random integers of a magnitude, a few of them zero."""
    rng = np.random.default_rng(seed)
    sides = []
    for length in (matrix.rows, matrix.columns):
        side = rng.integers(-largest, largest, (scale.rank, length), endpoint=True)
        side[rng.random(side.shape) < 0.1] = 0
        sides.append(side.astype(np.int32))
    return Outer(scale, *sides)


def exact_integers(made):
    """The sum of outer products in Python's integers."""
    a, b = (side.astype(object) for side in (made.a, made.b))
    shifts = [int(shift) for shift in made.scale.shifts]
    rows, columns = a.shape[1], b.shape[1]
    total = np.zeros((rows, columns), object)
    for i, shift in enumerate(shifts):
        total = total + np.outer(a[i], b[i]) * 2**shift
    return total.reshape(-1)


@given(
    scales(),
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from([1, 9, 300, 2_000, 40_000, 10**6]),
    st.integers(0, 2**32),
)
@examples(250)
def test_the_sum_is_that_of_python_integers(scale, rows, columns, largest, seed):
    made = factors(scale, Matrix(rows, columns), largest, seed)
    expected = exact_integers(made)
    bound = sum(
        2 ** int(shift) * int(abs(a).max()) * int(abs(b).max())
        for shift, a, b in zip(scale.shifts, made.a, made.b, strict=True)
    )
    if bound >= 2**52:
        with pytest.raises(DamagedError):
            made.integers()
        return
    found = made.integers()
    assert found.shape == (rows * columns,)
    assert found.dtype == (np.float32 if bound < 2**24 else np.float64)
    assert [int(value) for value in found] == list(expected)


@pytest.mark.parametrize(("largest", "real"), [(200, np.float32), (30_000, np.float64)])
def test_a_large_product_is_the_same_however_it_is_added_up(largest, real):
    # wide enough for BLAS to cut it into pieces and to share it among threads
    matrix, scale = Matrix(400, 300), Scale(1.0, 3, (40, 30, 20))
    made = factors(scale, matrix, largest, 0)
    found = made.integers()
    assert found.dtype == real
    left = made.a.astype(np.int64) << scale.shifts[:, None]
    expected = np.einsum("ir,ic->rc", left, made.b.astype(np.int64)).reshape(-1)
    assert np.array_equal(found.astype(np.int64), expected)
    back = Outer(
        Scale(1.0, 3, (90,)), left[::-1].astype(np.int32), np.ascontiguousarray(made.b[::-1])
    )
    assert np.array_equal(back.integers(), found)


def test_sums_up_to_the_last_exact_integer_are_taken_and_larger_ones_refused():
    scale = Scale(1.0, 0, (1,))
    for a, b, real in [(2**12, 2**12 - 1, np.float32), (2**12, 2**12, np.float64)]:
        made = Outer(scale, np.array([[a, -a]], np.int32), np.array([[b]], np.int32))
        assert made.integers().dtype == real
        assert made.integers().tolist() == [a * b, -a * b]
    for a, b in [(2**26, 2**26), (-(2**31), 2**21), (2**31 - 1, -(2**31))]:
        with pytest.raises(DamagedError):
            Outer(scale, np.array([[a]], np.int32), np.array([[b]], np.int32)).integers()


@given(scales(), st.integers(12, 40), st.integers(12, 40), st.integers(0, 2**32))
@examples(150)
def test_symbols_are_read_back(scale, rows, columns, seed):
    matrix = Matrix(rows, columns)
    made = factors(scale, matrix, 1000, seed)
    parts = made.symbols()
    lengths = [count * length for length in (rows, columns) for _, count in scale.classes(length)]
    assert [part.shape for part in parts] == [(length,) for length in lengths]
    read = outer.read(scale, parts, matrix)
    assert read.scale == scale
    for side, other in [(read.a, made.a), (read.b, made.b)]:
        assert np.array_equal(side, other)


@given(scales(), st.integers(12, 2000), st.integers(12, 2000))
@examples(200)
def test_a_scale_is_read_back(scale, rows, columns):
    written = json.loads(json.dumps(scale.write()))
    read = Scale.read(written, Matrix(rows, columns))
    assert read == scale
    assert read.unit == scale.unit == scale.area * 2.0**-scale.top
    assert read.rank == scale.rank == len(scale.shifts)
    for length in (rows, columns):
        assert read.classes(length) == scale.classes(length)


@given(scales(), st.integers(1, 10**7))
@examples(300)
def test_classes_are_runs_of_all_components(scale, length):
    runs = scale.classes(length)
    assert sum(count for _, count in runs) == scale.rank
    assert all(count > 0 and 0 <= octave < outer.CLASSES for octave, count in runs)
    assert all(one[0] > next_[0] for one, next_ in itertools.pairwise(runs))


NAN = float("nan")
HOSTILE = [
    [],
    [1.0],
    [1.0, 0],
    [1.0, 0, [1], 5],
    *[[area, 0, [1]] for area in (NAN, float("inf"), 0.0, -1.0, 1e301, 1e-320, 10**400)],
    *[[area, 0, [1]] for area in ("1", None, [], {}, [1.0])],
    *[[1.0, top, [1]] for top in (1001, -2000, 2**80, 0.5, NAN, float("inf"), "0", None, [])],
    *[[1.0, 0, counts] for counts in (None, 5, {}, "1", [-1], [1.0], [None], ["1"], [[1]], [NAN])],
    *[[1.0, 0, counts] for counts in ([17], [2**62], [10**400], [8, 8, 8], [-1, 17], [1] * 41)],
    [1.0, 0, [0] * 1000],
    [2.0**60, 1040, [1]],
    [1e299, -999, [1]],  # a unit beyond the largest number
]


@pytest.mark.parametrize("params", HOSTILE, ids=lambda params: str(params)[:60])
def test_an_impossible_scale_is_refused_before_memory_is_taken(params):
    with at_most(1 << 20), pytest.raises((DamagedError, ValueError)):
        Scale.read(params, Matrix(16, 16))


@pytest.mark.parametrize("counts", [[], [0], [1]])
def test_a_vector_has_no_factors(counts):
    with pytest.raises(DamagedError):
        Scale.read([1.0, 0, counts], Matrix(1, 0))


def low_rank(rng, rows, columns, rank, decay=1.0):
    """A matrix of exactly this rank, its singular values falling off."""
    left = np.linalg.qr(rng.normal(size=(rows, rank)))[0]
    right = np.linalg.qr(rng.normal(size=(columns, rank)))[0]
    return (left * decay ** np.arange(rank)) @ right.T


def approximation(made):
    return made.integers().astype(np.float64) * made.scale.unit


def water_filled(target, matrix, noise):
    """Error energy of leaving out each component that is not worth its numbers, and of paying
    for the others what the smallest of them is worth."""
    sizes = np.linalg.svd(target.reshape(matrix.rows, matrix.columns), compute_uv=False)
    return float(np.minimum(sizes**2, outer.WORTH * noise * matrix.sides).sum())


@pytest.mark.parametrize("real", REALS)
@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(0, 40),
    st.floats(0.5, 1.0),
    st.floats(1e-4, 3.0),
    st.integers(-60, 60),
    st.sampled_from([0, 1, 500]),
    st.integers(0, 2**32),
)
@examples(120)
def test_the_error_is_that_of_reverse_water_filling(
    real, rows, columns, rank, decay, coarse, exponent, expected, seed
):
    rng, matrix = np.random.default_rng(seed), Matrix(rows, columns)
    rank = min(rank, rows, columns)
    target = low_rank(rng, rows, columns, rank, decay) + 1e-3 * rng.normal(size=(rows, columns))
    target = (target * 2.0**exponent).astype(real).reshape(-1)
    energy = float(np.sum(target.astype(np.float64) ** 2))
    noise = coarse**2 * energy / target.size
    made = outer.encode(target, matrix, noise, expected)
    allowed = water_filled(target.astype(np.float64), matrix, noise)
    if made is None:
        assert energy <= 1.1 * allowed
        return
    assert made.scale == Scale.read(json.loads(json.dumps(made.scale.write())), matrix)
    error = float(np.sum((approximation(made) - target) ** 2))
    assert error <= 1.1 * allowed
    assert error <= 1.1 * energy


@pytest.mark.parametrize("real", REALS)
def test_a_known_rank_is_found_and_the_error_is_near_what_was_asked_for(real):
    rng, matrix = np.random.default_rng(0), Matrix(200, 150)
    noise = 1e-6
    target = 5 * low_rank(rng, 200, 150, 8, 0.7)
    blurred = (target + 1e-4 * rng.normal(size=target.shape)).astype(real).reshape(-1)
    made = outer.encode(blurred, matrix, noise)
    assert made.scale.rank == 8
    error = np.sum((approximation(made) - target.reshape(-1)) ** 2)
    assert error < 2 * noise * 8 * matrix.sides + 2e-8 * target.size


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("expected", [0, 3, 60, 10**6])
def test_more_components_than_expected_are_found(real, expected):
    rng, matrix = np.random.default_rng(1), Matrix(120, 100)
    target = low_rank(rng, 120, 100, 60).astype(real).reshape(-1)
    assert outer.encode(target, matrix, 1e-6, expected).scale.rank == 60


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("fall", [0.3, 0.6, 1.0])
def test_leading_components_are_told_from_many_that_are_hardly_smaller(real, fall):
    rng, matrix = np.random.default_rng(5), Matrix(200, 150)
    left = np.linalg.qr(rng.normal(size=(200, 150)))[0]
    right = np.linalg.qr(rng.normal(size=(150, 150)))[0]
    sizes = np.arange(1, 151) ** -fall
    target = ((left * sizes) @ right.T).astype(real).reshape(-1)
    noise = sizes[12] ** 2 / (outer.WORTH * matrix.sides)
    made = outer.encode(target, matrix, noise)
    error = float(np.sum((approximation(made) - target) ** 2))
    allowed = np.minimum(sizes**2, outer.WORTH * noise * matrix.sides).sum()
    assert error <= allowed


@given(st.integers(1, 120), st.floats(0.3, 1), st.floats(1e-12, 1e12), st.integers(0, 2**32 - 1))
@examples(40)
def test_a_gram_matrix_is_turned_until_it_is_nearly_diagonal(size, fall, scale, seed):
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.standard_normal((size, size)))
    values = scale * np.maximum(fall ** np.arange(size), 1e-9)
    squares, turn = outer._turned(basis * values @ basis.T)
    assert (np.diff(squares) <= 0).all()
    strong = values > 1e-4 * scale  # smaller ones are hardly there
    found = turn[:, : strong.sum()]
    np.testing.assert_allclose(found.T @ found, np.eye(found.shape[1]), atol=1e-6)
    np.testing.assert_allclose(squares[: strong.sum()], values[strong], rtol=0.3)
    np.testing.assert_allclose(squares.sum(), values.sum(), rtol=1e-6)


def test_nothing_is_turned_where_there_is_nothing():
    squares, turn = outer._turned(np.zeros((5, 5)))
    assert not squares.any()
    assert np.isfinite(turn).all()


def test_components_are_in_order_of_their_size():
    rng = np.random.default_rng(2)
    target = low_rank(rng, 90, 80, 30, 0.6).reshape(-1)
    made = outer.encode(target, Matrix(90, 80), 1e-9)
    a, b = made.a.astype(float), made.b.astype(float)
    sizes = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1) * 2.0**made.scale.shifts
    assert len(made.scale.counts) > 3
    assert (sizes[1:] < 1.5 * sizes[:-1]).all()
    largest = sizes[0] * made.scale.unit
    assert 0.7 <= largest / 2.0**made.scale.top <= 1.5


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 50), (50, 1), (2, 2), (30, 20)])
@pytest.mark.parametrize("noise", [0.0, 1e-300, 1e-12, 1.0, float("inf"), float("nan")])
def test_a_matrix_of_zeros_has_no_components(real, rows, columns, noise):
    assert outer.encode(np.zeros(rows * columns, real), Matrix(rows, columns), noise) is None


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("noise", [1e9, float("inf"), float("nan")])
def test_what_is_not_worth_its_numbers_is_left_out(real, noise):
    values = np.random.default_rng(3).normal(size=600).astype(real)
    assert outer.encode(values, Matrix(30, 20), noise) is None


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("size", [1e-30, 1e-15, 1e15, 1e30])
@pytest.mark.parametrize("share", [1e-3, 1e-6, 1e-9, 1e-12])
def test_values_far_above_the_noise_are_kept_as_well_as_integers_can(real, size, share):
    values = np.zeros(30 * 20, real)
    values[[77, 300]] = size, -size
    made = outer.encode(values, Matrix(30, 20), (share * size) ** 2)
    assert made is not None or share < 1e-6
    if made is not None:
        error = np.abs(approximation(made) - values.astype(float)).max()
        assert error <= max(10 * share, 1e-6) * size


def test_the_input_is_left_alone():
    values = np.random.default_rng(4).normal(size=600)
    kept = values.copy()
    values.flags.writeable = False
    outer.encode(values, Matrix(30, 20), 1e-4)
    assert np.array_equal(values, kept)
