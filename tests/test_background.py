from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from keras_lc.background import Background
from keras_lc.errors import CheckpointError, StoreError


def fail(error: BaseException) -> Callable[[], None]:
    def job() -> None:
        raise error

    return job


def test_a_job_runs_beside_the_caller() -> None:
    background, go, seen = Background(), threading.Event(), []

    def job() -> None:
        go.wait(30)
        seen.append(threading.current_thread())

    background.submit(job)
    assert not seen
    go.set()
    background.wait()
    assert seen != [threading.current_thread()]


def test_without_a_thread_a_job_runs_in_its_place() -> None:
    background, seen = Background(threaded=False), []
    background.submit(lambda: seen.append(threading.current_thread()))
    assert seen == [threading.current_thread()]
    with pytest.raises(StoreError):
        background.submit(fail(StoreError("x")))
    background.wait()


def test_jobs_run_one_at_a_time_and_in_their_order() -> None:
    background, running, seen = Background(), threading.Lock(), []

    def job(number: int) -> Callable[[], None]:
        def work() -> None:
            assert running.acquire(blocking=False)
            seen.append(number)
            running.release()

        return work

    for number in range(20):
        background.submit(job(number))
    background.wait()
    assert seen == list(range(20))


@pytest.mark.parametrize("error", [StoreError("full"), ValueError("odd"), StopIteration("end")])
def test_a_failure_is_raised_at_the_next_wait_once(error: Exception) -> None:
    background = Background()
    background.submit(fail(error))
    with pytest.raises(type(error), match=str(error)):
        background.wait()
    background.wait()


def test_a_failure_is_raised_at_the_next_submit_once_and_that_job_is_not_run() -> None:
    background, seen = Background(), []
    background.submit(fail(CheckpointError("full")))
    with pytest.raises(CheckpointError, match="full"):
        background.submit(lambda: seen.append(1))
    background.wait()
    assert not seen
    background.submit(lambda: seen.append(2))
    background.wait()
    assert seen == [2]


def test_waiting_for_nothing_is_fine() -> None:
    Background().wait()
    Background(threaded=False).wait()


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


def test_the_interpreter_waits_for_the_last_job() -> None:
    script = (
        "import threading, time\n"
        "from keras_lc.background import Background\n"
        "def job():\n"
        "    threading.main_thread().join(0.2)\n"
        "    print('done')\n"
        "Background().submit(job)\n"
    )
    done = run(script)
    assert done.stdout == "done\n", done.stderr


def test_the_last_job_may_use_pools_of_its_own() -> None:
    script = (
        "import time\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from keras_lc.background import Background\n"
        "def job():\n"
        "    time.sleep(0.3)\n"
        "    with ThreadPoolExecutor(1) as pool:\n"
        "        pool.submit(print, 'done').result()\n"
        "background = Background()\n"
        "background.submit(job)\n"
    )
    done = run(script)
    assert done.stdout == "done\n", done.stderr


@pytest.mark.parametrize("left", ["pass", "raise KeyError('training')"])
def test_a_failure_that_nobody_waited_for_is_told_at_exit(left: str) -> None:
    script = (
        "from keras_lc.background import Background\n"
        "def job():\n"
        "    raise OSError('the disk is full')\n"
        "background = Background()\n"
        "background.submit(job)\n"
        f"{left}\n"
    )
    done = run(script)
    assert "a checkpoint was not saved: the disk is full" in done.stderr
    assert done.returncode == (left != "pass")


def test_a_failure_that_was_raised_is_not_told_again() -> None:
    background = Background()
    background.submit(fail(StoreError("full")))
    with pytest.raises(StoreError):
        background.wait()
    del background  # a warning would be an error here
