"""Tiles cover a tensor, and what is computed of each of them is what is computed of all."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lc.core import tiles
from keras_lc.core.codecs import blocks, exact, first, lattice, outer, second
from keras_lc.core.integers import Integers
from keras_lc.core.matrix import Matrix, view

from .chains import ROOMY, bits, examples, name_of

SHAPES = [(1,), (255,), (256,), (257,), (1500,), (20, 24), (33, 40), (10, 700), (3, 3, 16, 9)]
of_each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
of_each_dtype = pytest.mark.parametrize("dtype", ROOMY, ids=name_of)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 256)


def joined(parts):
    return np.concatenate(list(parts))


def normal(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype).reshape(-1)


@given(st.integers(0, 2000), st.sampled_from([3, 256, 1000]))
@examples(100)
def test_tiles_follow_each_other(size, tile):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE", tile)
        pieces = tiles.cut(size)
    assert joined(np.arange(size)[piece] for piece in pieces).tolist() == list(range(size))
    assert [piece.stop - piece.start for piece in pieces[:-1]] == [tile] * (len(pieces) - 1)
    assert bool(size) == (pieces[-1].start < pieces[-1].stop)


@given(st.integers(0, 3000), st.integers(1, 700))
@examples(100)
def test_a_sample_by_tiles_is_that_of_the_whole(size, step):
    whole = np.arange(size)
    parts = joined(whole[tile][tiles.every(step, tile)] for tile in tiles.cut(size))
    assert np.array_equal(parts, whole[::step])


@of_each_dtype
def test_scales_and_integers_of_blocks_are_those_of_the_whole(dtype):
    live = normal(1500, dtype)
    scales, parts = blocks.scales(live), tiles.cut(live.size)
    own = [blocks.scales(live[part]) for part in parts]
    assert np.array_equal(joined(own), scales)
    k = [blocks.encode(live[part], scale) for part, scale in zip(parts, own, strict=True)]
    assert np.array_equal(joined(k), blocks.encode(live, scales))


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if view(shape)], ids=str)
def test_outer_products_of_tiles_are_those_of_the_whole(shape):
    matrix = view(shape)
    rng = np.random.default_rng(0)
    a, b = (
        rng.integers(-9, 9, (3, side)).astype(np.int32) for side in (matrix.rows, matrix.columns)
    )
    made = outer.Outer(outer.Scale(1.0, 0, (1, 2)), a, b)
    size = matrix.rows * matrix.columns
    assert np.array_equal(joined(made.integers(tile) for tile in tiles.cut(size)), made.integers())
    by_hand = (np.ldexp(a, [[0], [1], [1]]).T @ b).reshape(-1)
    assert np.array_equal(made.integers(), by_hand)


@of_each_shape
def test_rows_and_columns_of_tiles_are_those_of_the_whole(shape):
    matrix = view(shape)
    rows, columns = np.arange(matrix.rows) * 7, np.arange(matrix.columns) * 17
    axes = np.concatenate([rows, columns]).astype(np.int16)
    size = int(np.prod(shape))
    parts = [second.spread(axes, matrix, tile) for tile in tiles.cut(size)]
    whole = rows[:, None] + columns if matrix else np.full(size, rows[0])
    assert np.array_equal(joined(parts), whole.reshape(-1))
    assert [part.size for part in parts] == [t.stop - t.start for t in tiles.cut(size)]


@of_each_shape
@of_each_dtype
@pytest.mark.parametrize("size", [1.0, 1e-4, 1e4])
def test_axes_are_logarithms_of_means(shape, dtype, size, monkeypatch):
    v, matrix = np.abs(normal(shape, dtype) * np.dtype(dtype).type(size)), view(shape)
    v[0] = 0
    wide = v.astype(np.float64).reshape((matrix.rows, -1) if matrix else (1, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        means = [wide.mean(axis=1), wide.mean(axis=0) / wide.mean()]
        quarters = 4 * np.log2(joined(means if matrix else means[:1]))
    for tile in (1, 256, 1 << 16):
        monkeypatch.setattr(second, "TILE", tile)
        monkeypatch.setattr(tiles, "TILE", tile)
        axes = second.axes(v, matrix, float(v.max()))
        assert axes.dtype == np.int16
        some = np.isfinite(quarters)
        assert np.abs(axes - quarters)[some].max(initial=0) < 0.51


@of_each_shape
@of_each_dtype
@pytest.mark.parametrize("zero", [None, 0, -1])
def test_second_moments_of_tiles_are_those_of_the_whole(shape, dtype, zero):
    v, then, matrix = np.abs(normal(shape, dtype)), np.abs(normal(shape, dtype, 1)), view(shape)
    if zero is not None:
        then[zero] = 0
    all_of_it, axes = slice(0, v.size), second.axes(v, matrix, float(v.max()))

    def moved(tile):
        """Moves and values of a tile that begins with exact values, and then follows."""
        before, found = v[tile], []
        for target, drift in ((v, axes), (then, axes - axes)):
            moves = second.moves(target[tile], before, axes, matrix, tile)
            before = second.advance(before, matrix, tile, 1.25, drift, moves)
            some = tiles.every(3, tile)
            assert bits(before.value(some)) == bits(before.value()[some])
            found += [moves, before.value()]
        return found

    parts = [moved(tile) for tile in tiles.cut(v.size)]
    for together, apart in zip(moved(all_of_it), zip(*parts, strict=True), strict=True):
        assert bits(together) == bits(joined(apart))
    assert ((moved(all_of_it)[-1] == 0) == (then == 0)).all()


@of_each_dtype
def test_first_moments_of_tiles_are_those_of_the_whole(dtype):
    m, v, matrix = normal(1500, dtype), np.abs(normal(1500, dtype, 1)), Matrix(1, 0)
    axes = second.axes(v, matrix, float(v.max()))

    def made(tile):
        scale = second.start(v[tile], axes, matrix, tile)
        ratio = first.ratio(m[tile], scale)
        some = tiles.every(7, tile)
        assert bits(first.ratio(m[tile], scale, some)) == bits(ratio[some])
        k = first.encode(ratio.copy(), 0.01)
        return ratio, k, first.advance(k, 0.01, scale, m.dtype, tile).value()

    whole, parts = made(slice(0, 1500)), [made(tile) for tile in tiles.cut(1500)]
    for together, apart in zip(whole, zip(*parts, strict=True), strict=True):
        assert bits(together) == bits(joined(apart))


@of_each_dtype
def test_a_survey_of_tiles_is_that_of_the_whole(dtype):
    real = np.float64 if dtype is np.float64 else np.float32
    anchor, target = normal(1500, dtype), normal(1500, real, 1)
    q = np.random.default_rng(2).integers(-99, 99, 1500).astype(np.int32)
    moment = np.random.default_rng(3).integers(-9, 9, 1500).astype(np.int16)
    for place in (3, 700, -1):
        target[place], moment[place] = 50 + place, -100 - place
        surveys, ways = [], []
        for pieces in ([slice(0, 1500)], tiles.cut(1500)):
            survey = lattice.Survey()
            for piece in pieces:
                held = replace(lattice.start(anchor[piece]), unit=-9, exponent=-5)
                held = replace(held, q=Integers.of(q[piece]))
                survey.look(target[piece], held, moment[piece])
                ways.append(target[piece] - held.position())
            surveys.append(survey)
        assert surveys[0].farthest >= surveys[1].farthest >= np.abs(joined(ways)).max()
        assert replace(surveys[0], farthest=surveys[1].farthest) == surveys[1]
        assert surveys[0].largest == np.abs(target).max()
        assert surveys[0].moment == np.abs(moment).max()
        assert surveys[0].finest == -9
        assert surveys[0].reach == np.abs(q).max() * 2.0**-9


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 700, -1])
def test_a_survey_does_not_forget_what_is_not_finite(bad, place):
    target = normal(1500)
    target[place] = bad
    survey = lattice.Survey()
    for tile in tiles.cut(1500):
        survey.look(target[tile], lattice.start(np.zeros_like(target[tile])), None)
    assert not np.isfinite(survey.largest)
    assert not np.isfinite(survey.farthest)
    assert lattice.follow(target[::7], None, survey, -3) is None


@given(st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.uint32, np.complex64]))
@examples(20)
def test_exact_symbols_of_tiles_are_those_of_the_whole(dtype):
    now, before = ((100 * normal(1500, np.float64, seed)).astype(dtype) for seed in (0, 1))
    parts = tiles.cut(1500)
    for encode, reference in ((exact.difference, before), (exact.plain, None)):
        given = (now,) if reference is None else (now, before)
        symbols = [encode(*(array[part] for array in given)) for part in parts]
        assert np.array_equal(joined(symbols), encode(*given))
        for part, own in zip(parts, symbols, strict=True):
            beside = None if reference is None else before[part]
            assert bits(exact.decode(own, now.dtype, beside).value()) == bits(now[part])
