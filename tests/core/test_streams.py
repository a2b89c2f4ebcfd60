import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_lc.core.streams import CHUNK, SymbolReader, packed_size
from keras_lc.errors import DamagedError

from .chains import examples, pack

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
    tracemalloc.start()
    for position in range(min(len(data), 150)):
        for value in (0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))):
            damaged = bytearray(data)
            damaged[position] = value
            pool = reader(bytes(damaged), 300)
            with suppress(DamagedError):
                assert pool.take(300, symbols.dtype).size == 300
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 26


@given(st.sampled_from([0, 1, 2, 3, 4, 8, 9, 255]), st.binary(max_size=80))
@examples(150)
def test_random_chunks_never_crash(width, body):
    pool = reader(bytes([width]) + len(body).to_bytes(4, "little") + body, 10)
    with suppress(DamagedError):
        assert pool.take(10, np.dtype(np.int64)).size == 10
