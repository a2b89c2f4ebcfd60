"""One save in flight; what goes wrong in it is brought back to the caller."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for

from keras_lc import workers


class Background:
    """Runs one job at a time, beside the caller or, with `threaded=False`, in its place.

    The interpreter waits for the last job before it exits. A failure that nobody has waited for
    is then a warning.
    """

    def __init__(self, threaded: bool = True):
        self._threaded = threaded
        self._pool: ThreadPoolExecutor | None = None
        self._jobs: list[Future[None]] = []  # the last one, until it has been waited for
        weakref.finalize(self, _report, self._jobs)
        _every.add(self)

    def submit(self, job: Callable[[], None]) -> None:
        """Run a job once the one before has ended; its failure is raised here."""
        self.wait()
        if not self._threaded:
            job()
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "keras_lc")
        self._jobs.append(self._pool.submit(_beside, job))

    def wait(self) -> None:
        """Return when no job is in flight; raise what the last one failed with, once."""
        while self._jobs:
            self._jobs.pop().result()


def _beside(job: Callable[[], None]) -> None:
    with workers.using(workers.beside()):
        job()


def _report(jobs: list[Future[None]]) -> None:
    for job in jobs:
        if error := job.exception():
            warnings.warn(f"a checkpoint was not saved: {error}", stacklevel=2)


def _finish() -> None:
    for background in _every:
        wait_for(background._jobs)


_every = weakref.WeakSet[Background]()
# The last jobs end before `concurrent.futures` refuses work to the pools that they need: it does
# so before `atexit`, in the order that is kept here.
threading._register_atexit(_finish)  # type: ignore[attr-defined]
