import os
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from keras_lc.capture.buffers import Buffers
from keras_lc.core import pages
from tests.core.chains import bits


@pytest.mark.parametrize("shape", [(), (0,), (3, 5), (400, 300), (300, 0, 7)])
@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.bool_, "U3", ml_dtypes.bfloat16])
def test_a_copy_is_one_and_shares_nothing(shape, dtype):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    copy = pages.copied(array.T)
    assert copy.dtype == array.dtype
    assert copy.shape == array.T.shape
    assert copy.flags.c_contiguous
    assert bits(copy) == bits(array.T)
    assert not np.shares_memory(copy, array)


def test_an_array_is_made_where_the_system_gives_no_more_pages(monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(pages.mmap, "mmap", refuse)
    array = np.arange(100_000.0)
    assert np.array_equal(pages.copied(array), array)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("copy", [pages.copied, lambda array: Buffers().fill([("", array)])[""]])
def test_the_system_has_large_copies_back_at_once(copy):
    def resident():
        pages_in_use = Path("/proc/self/statm").read_text().split()[1]
        return int(pages_in_use) * os.sysconf("SC_PAGE_SIZE")

    np.empty((32 << 20) - 8192, np.uint8)  # from then on, glibc takes as much from a heap
    array = np.ones(1 << 20, np.float32)
    before = resident()
    copies, others = [], []
    for _ in range(8):  # in turn, so that in a heap there would be holes
        copies.append(copy(array))
        others.append(np.ones(20_000))
    assert resident() - before > 7 * array.nbytes
    copies.clear()
    assert resident() - before < array.nbytes
    pages.give_back()
    assert all(other.all() for other in others)
