import threading
import time

import numpy as np
import pytest

from keras_lc import workers
from keras_lc.background import Background
from keras_lc.core import DeltaDecoder, DeltaEncoder
from keras_lc.errors import OptionError


def ran_in():
    """The threads that items are handed to."""

    def work(item):
        time.sleep(0.001)
        return threading.current_thread()

    with workers.start() as threads:
        return set(workers.ordered(threads, work, range(50)))


@pytest.mark.parametrize("usual", [1, 4])
def test_so_many_threads_are_at_work_as_are_asked_for(usual, monkeypatch):
    monkeypatch.setattr(workers, "THREADS", usual)
    for threads in (2, 3, None):
        with workers.using(threads):
            assert len(ran_in()) == (threads or usual)
            with workers.using(1):
                assert ran_in() == {threading.current_thread()}
            assert len(ran_in()) == (threads or usual)
    assert len(ran_in()) == usual


def test_other_threads_keep_their_number(monkeypatch):
    monkeypatch.setattr(workers, "THREADS", 3)
    found = []
    with workers.using(1):
        other = threading.Thread(target=lambda: found.append(ran_in()))
        other.start()
        other.join()
    assert len(found[0]) == 3


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_and_errors_come_in_their_order(threads):
    def work(item):
        time.sleep(0.002 * (item % 3 == 0))  # so that later ones are done earlier
        if item > 20:
            raise ValueError(item)
        return item

    taken = []
    items = (taken.append(i) or i for i in range(99))
    with workers.using(threads), workers.start() as pool:
        results = workers.ordered(pool, work, items)
        for i in range(21):
            assert next(results) == i
            assert len(taken) <= i + 1 + 2 * threads
        with pytest.raises(ValueError, match=r"^21$"):
            next(results)
        assert list(workers.ordered(pool, work, [])) == []


def test_where_one_thread_is_wanted_none_is_started(monkeypatch):
    def start(thread):
        raise AssertionError(f"{thread.name} was started")

    base = {"w": np.zeros((600, 1000), np.float32), "b": np.zeros(9, np.float32)}
    encoder = DeltaEncoder(base)
    moved = {name: array + np.float32(1) for name, array in base.items()}
    monkeypatch.setattr(threading.Thread, "start", start)
    with workers.using(2), pytest.raises(AssertionError, match="keras_lc-worker"):
        DeltaEncoder(base).encode(moved)
    with workers.using(1):
        DeltaDecoder(base).decode(encoder.encode(moved))
        encoder.whole()
        with workers.start() as pool:
            assert pool.submit(int, "7", base=8).result() == 7
            assert isinstance(pool.submit(int, "x").exception(), ValueError)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_what_is_no_number_of_threads_is_refused(threads):
    with pytest.raises(OptionError, match="threads="), workers.using(threads):
        pass


def test_a_job_in_the_background_leaves_processors_to_the_training(monkeypatch):
    monkeypatch.setattr(workers, "THREADS", 4)
    monkeypatch.setattr(workers, "_BESIDE", 2)
    found = []
    for threaded in (True, False):
        jobs = Background(threaded)
        jobs.submit(lambda: found.append(len(ran_in())))
        jobs.wait()
    assert found == [2, 4]
