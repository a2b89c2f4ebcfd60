import tracemalloc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def traced() -> Iterator[None]:
    """For `at_most`. Once a module: Python 3.11 may crash where tracing starts or stops while a
    thread does (https://github.com/python/cpython/issues/128679)."""
    tracemalloc.start()
    yield
    tracemalloc.stop()
