from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_lc.core.streams import CHUNK, SymbolReader, _dense, packed_size
from keras_lc.errors import DamagedError

from .chains import examples, pack
from .traced import at_most

pytestmark = pytest.mark.usefixtures("traced")

DTYPES = [np.int16, np.int32, np.int64]


def reader(data, total):
    return SymbolReader(memoryview(data), total)


@given(
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: st.lists(hnp.arrays(dtype, st.integers(0, 40)), max_size=6)
    )
)
@examples(150)
def test_a_pool_gives_back_its_parts(parts):
    pool = reader(pack(*parts), sum(part.size for part in parts))
    for part in parts:
        assert np.array_equal(pool.take(part.size, part.dtype), part)
    pool.finish()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 5])
def test_parts_may_end_anywhere_in_a_chunk(size, dtype):
    whole = (np.arange(size) % 251 - 100).astype(dtype)
    whole[size // 3] = np.iinfo(dtype).min
    data = pack(whole[:10], whole[10:10], whole[10:-7], whole[-7:])
    pool = reader(data, size)
    assert np.array_equal(pool.take(size - 3, whole.dtype), whole[:-3])
    assert np.array_equal(pool.take(3, whole.dtype), whole[-3:])
    pool.finish()


def test_a_chunk_takes_the_narrowest_integers():
    for value, width in [(5, 2), (-(2**15), 2), (2**15, 4), (-(2**31), 4), (2**31, 8)]:
        assert pack(np.array([value], np.int64))[0] == width


def test_an_empty_pool_takes_no_bytes():
    assert pack() == pack(np.empty(0, np.int32)) == b""
    empty = reader(b"", 0)
    assert empty.take(0, np.dtype(np.int16)).size == 0
    empty.finish()


def test_packed_size_is_the_size():
    symbols = np.arange(1000, dtype=np.int32)
    assert packed_size(symbols) == len(pack(symbols))


@pytest.mark.parametrize("total", [0, 1, 99, 101, 2 * CHUNK])
def test_another_total_is_damage(total):
    pool = reader(pack(np.arange(100, dtype=np.int16)), total)
    with pytest.raises(DamagedError):
        (pool.take(total, np.dtype(np.int16)), pool.finish())


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_truncation_is_damage(dtype):
    symbols = np.random.default_rng(0).integers(-9000, 9000, 60).astype(dtype)
    data = pack(symbols, symbols)
    for length in range(len(data)):
        with pytest.raises(DamagedError):
            reader(data[:length], 120).take(120, symbols.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_changed_bytes_never_crash(dtype):
    rng = np.random.default_rng(1)
    symbols = rng.integers(-9000, 9000, 300).astype(dtype)
    data = pack(symbols)
    with at_most(1 << 26):
        for position in range(min(len(data), 150)):
            for value in (0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))):
                damaged = bytearray(data)
                damaged[position] = value
                pool = reader(bytes(damaged), 300)
                with suppress(DamagedError):
                    assert pool.take(300, symbols.dtype).size == 300


@given(st.sampled_from([0, 1, 2, 3, 4, 8, 9, 255]), st.binary(max_size=80))
@examples(150)
def test_random_chunks_never_crash(width, body):
    pool = reader(bytes([width]) + len(body).to_bytes(4, "little") + body, 10)
    with suppress(DamagedError):
        assert pool.take(10, np.dtype(np.int64)).size == 10


def joined(form, held, most, others, surplus=b""):
    """A chunk of two chunks."""
    body = held.to_bytes(4, "little") + most + others + surplus
    return bytes([form]) + len(body).to_bytes(4, "little") + body


def sparse(*parts):
    """A chunk of a few symbols and of the zeros before each."""
    return joined(0, *parts)


def fours(*parts):
    """A chunk of bytes that hold four symbols, and of those that no byte can hold."""
    return joined(1, *parts)


def gaps(*zeros, dtype=np.int64):
    """A chunk of numbers that are not narrowed."""
    return _dense(np.array(zeros, dtype))


def refused(data, total=100):
    with at_most(1 << 20), pytest.raises(DamagedError):
        reader(data, total).take(total, np.dtype(np.int32))


@given(
    st.sampled_from(DTYPES),
    st.integers(4000, 6000),
    st.integers(0, 2**32),
    st.sampled_from([0, 1, 30, 31, 32, 33, 40]),
)
@examples(100)
def test_few_symbols_among_zeros_come_back(dtype, size, seed, share):
    rng = np.random.default_rng(seed)
    whole = np.zeros(size, dtype)
    places = rng.permutation(size)[: size * share // 1000]
    info = np.iinfo(dtype)
    whole[places] = rng.choice([1, -1, info.min, info.max], len(places))
    data = pack(whole)
    assert (data[0] == 0) == (size >= 4096 and np.count_nonzero(whole) * 32 <= size)
    pool = reader(data, size)
    assert np.array_equal(pool.take(size, whole.dtype), whole)
    pool.finish()


@given(
    st.integers(1 << 16, (1 << 16) + 9),
    st.integers(0, 2**32),
    st.sampled_from([0, 30, 62, 63, 70]),
    st.sampled_from(DTYPES),
)
@examples(40)
def test_small_symbols_come_back(size, seed, share, dtype):
    rng = np.random.default_rng(seed)
    whole = rng.integers(-1, 2, size).astype(dtype)
    places = rng.permutation(size)[: size * share // 1000]
    whole[places] = rng.choice([2, -2, 7, -(2**15), 2**15 - 1], places.size)
    data = pack(whole)
    assert (data[0] == 1) == (places.size * 16 <= size)
    pool = reader(data, size)
    assert np.array_equal(pool.take(size, whole.dtype), whole)
    pool.finish()


def test_small_symbols_take_hardly_more_than_their_entropy():
    rng = np.random.default_rng(0)
    whole = np.rint(0.45 * rng.normal(size=CHUNK)).astype(np.int16)
    shares = np.unique(whole, return_counts=True)[1] / CHUNK
    entropy = -(shares * np.log2(shares)).sum() * CHUNK / 8
    assert pack(whole)[0] == 1
    assert entropy < len(pack(whole)) < 1.02 * entropy


@pytest.mark.parametrize("places", [[], [0], [-1], [0, 1, 2], [0, -1], [500, 501]])
def test_few_symbols_may_be_anywhere(places):
    whole = np.zeros(4096, np.int16)
    whole[places] = 7
    assert pack(whole)[0] == 0
    assert np.array_equal(reader(pack(whole), 4096).take(4096, whole.dtype), whole)


def test_zeros_take_next_to_nothing():
    assert len(pack(np.zeros(CHUNK, np.int32))) < 100


def test_the_forger_can_make_a_good_chunk_of_few_symbols():
    data = sparse(3, gaps(2, 0, 94, 1), gaps(7, -8, 9))
    found = reader(data, 100).take(100, np.dtype(np.int32))
    assert found.tolist() == [0, 0, 7, -8, *[0] * 94, 9, 0]
    assert not reader(sparse(0, gaps(100), gaps()), 100).take(100, np.dtype(np.int32)).any()


NONE, ONE, PAIR, ALL = gaps(), gaps(1), gaps(1, 98), gaps(100)
FAR = [100, 101, 2**31, 2**62, 2**63 - 1, -1, -2, -(2**63)]


@pytest.mark.parametrize(
    "data",
    [
        sparse(0, b"", b""),
        sparse(0, ALL, b""),
        sparse(0, ALL, NONE, b"\0"),
        sparse(1, PAIR, ONE, ONE),
        sparse(1, PAIR, NONE),
        sparse(1, ONE, ONE),
        sparse(0, NONE, NONE),
        sparse(0, PAIR, ONE),
        sparse(2, PAIR, gaps(1, 1)),
        sparse(1, gaps(1, 2, 95), ONE),
        sparse(1, PAIR, gaps(1, 2)),
        sparse(101, gaps(*[0] * 102), gaps(*[1] * 101)),
        sparse(2**32 - 1, PAIR, ONE),
        sparse(1, sparse(1, gaps(0, 1), gaps(99)), ONE),
        sparse(1, PAIR, sparse(1, gaps(0, 0), ONE)),
        sparse(1, b"\3" + PAIR[1:], ONE),
        sparse(1, PAIR, b"\xff" + ONE[1:]),
        *[b"\0" + len(body).to_bytes(4, "little") + body for body in (b"", b"\0", b"\0" * 3)],
        *[sparse(0, gaps(far), NONE) for far in (0, 1, 99, 101, *FAR[2:])],
        *[sparse(1, gaps(far, 0), ONE) for far in (0, 98, *FAR)],
        *[sparse(1, gaps(0, far), ONE) for far in (0, 98, *FAR)],
        *[sparse(1, gaps(far, 99 - far), ONE) for far in (-1, 100, 101, 2**40)],
        sparse(2, gaps(2**63 - 1, 2**63 - 1, 99), gaps(1, 1)),
        sparse(3, gaps(2**62, 2**62, 2**62, 2**62 + 97), gaps(1, 1, 1)),
    ],
)
def test_a_hostile_chunk_of_few_symbols_is_refused(data):
    refused(data)


# 0, -1, 1, other; other, 0, and what is left
BYTES, OTHERS = gaps(0b11_10_00_01, 0b01_01_01_11, dtype=np.int16), gaps(9, -700, dtype=np.int16)


def test_the_forger_can_make_a_good_chunk_of_fours():
    for total in (6, 7, 8):
        found = reader(fours(2, BYTES, OTHERS), total).take(total, np.dtype(np.int32))
        assert found.tolist() == [0, -1, 1, 9, -700, 0, 0, 0][:total]


@pytest.mark.parametrize(
    "data",
    [
        fours(2, b"", b""),
        fours(2, BYTES, b""),
        fours(2, BYTES, OTHERS, b"\0"),
        fours(1, BYTES, gaps(9, dtype=np.int16)),
        fours(3, BYTES, gaps(9, 9, 9, dtype=np.int16)),
        fours(1, BYTES, OTHERS),
        fours(2, BYTES, gaps(9, -700, dtype=np.int32)),
        fours(2, gaps(0b11_10_00_01, dtype=np.int16), OTHERS),
        fours(2, gaps(0b11_10_00_01, 0b01_01_01_11, 0, dtype=np.int16), OTHERS),
        fours(2, gaps(0b11_10_00_01, 256 + 0b01_01_01_11, dtype=np.int16), OTHERS),
        fours(2, gaps(0b11_10_00_01, 0b01_01_01_11 - 256, dtype=np.int16), OTHERS),
        fours(2, gaps(0b11_10_00_01, 2**63 - 1), OTHERS),
        fours(2**32 - 1, BYTES, OTHERS),
        fours(2, fours(0, BYTES, OTHERS), OTHERS),
        fours(2, sparse(0, gaps(2), gaps()), OTHERS),
        fours(2, BYTES, sparse(0, gaps(2), gaps())),
        fours(2, b"\3" + BYTES[1:], OTHERS),
    ],
)
def test_a_hostile_chunk_of_fours_is_refused(data):
    for total in (6, 8):
        refused(data, total)


def test_every_truncation_of_a_chunk_of_few_symbols_is_damage():
    data = sparse(3, gaps(2, 0, 94, 1), gaps(7, -8, 9))
    for length in range(len(data)):
        refused(data[:length])
        if length >= 5:  # with a length that is right
            refused(b"\0" + (length - 5).to_bytes(4, "little") + data[5:length])


def test_changed_bytes_of_a_chunk_of_few_symbols_never_crash():
    rng = np.random.default_rng(2)
    whole = np.zeros(4100, np.int32)
    whole[rng.permutation(4100)[:60]] = rng.integers(-9000, 9000, 60)
    data = pack(whole)
    assert data[0] == 0
    with at_most(1 << 22):
        for position in range(len(data)):
            for value in (0, 1, 2, 4, 8, 0x7F, 0x80, 0xFF):
                damaged = bytearray(data)
                damaged[position] = value
                with suppress(DamagedError):
                    assert reader(bytes(damaged), 4100).take(4100, whole.dtype).size == 4100


@given(
    st.integers(0, 4),
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 3), max_size=4),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
    st.booleans(),
)
@examples(200)
def test_any_gaps_are_refused_or_right(held, zeros, values, fitting):
    if fitting:
        held, zeros = len(values), [abs(zero) % 4 for zero in [*zeros, 1, 2, 3, 0, 1]]
        zeros = zeros[: held + 1]
    total = max(1, min(held + sum(zeros), 20))
    data = sparse(held, gaps(*zeros), gaps(*values))
    right = held == len(zeros) - 1 == len(values) and min(zeros) >= 0
    right = right and sum(zeros) + held == total
    expected = [
        number
        for zero, value in zip(zeros, [*values, None], strict=False)
        for number in [*[0] * (zero if right else 0), value]
    ][:-1]
    try:
        found = reader(data, total).take(total, np.dtype(np.int64))
    except DamagedError:
        assert not right
    else:
        assert right
        assert found.tolist() == expected
