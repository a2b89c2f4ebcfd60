"""One save in flight; what goes wrong in it is brought back to the caller."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Runs one job at a time, beside the caller or, with `threaded=False`, in its place.

    The interpreter waits for the last job before it exits.
    """

    def __init__(self, threaded: bool = True):
        self._threaded = threaded
        self._pool: ThreadPoolExecutor | None = None
        self._job: Future[None] | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Run a job once the one before has ended; its failure is raised here."""
        self.wait()
        if not self._threaded:
            job()
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "keras_lc")
        self._job = self._pool.submit(job)

    def wait(self) -> None:
        """Return when no job is in flight; raise what the last one failed with, once."""
        job, self._job = self._job, None
        if job is not None:
            job.result()
