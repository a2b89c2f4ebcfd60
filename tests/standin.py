"""What SLURM does to a job, where there is no SLURM: the same signals, the same variables.

It runs a job script in bash, with an `srun` that starts the ranks here and a `scontrol` that takes
note of a requeue. `tests/cluster.py` is the real one, with the same methods.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

GRACE = 20  # s from the first signals to the last

_SRUN = """#!/usr/bin/env bash
while [[ $1 == -* ]]; do shift; done
for ((rank = 0; rank < ${SLURM_NTASKS:-1}; rank++)); do
  SLURM_PROCID=$rank "$@" &
  echo $! >>"$STEP"
done
most=0
for pid in $(<"$STEP"); do
  wait "$pid"
  code=$?
  ((code > most)) && most=$code
done
exit "$most"
"""
_SCONTROL = """#!/usr/bin/env bash
echo "$*" >>"$REQUESTS"
"""


def until(met: Callable[[], object], what: str, seconds: float = 180) -> None:
    """Wait for something, or raise TimeoutError."""
    end = time.monotonic() + seconds
    while not met():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.1)


def programs(place: Path, **scripts: str) -> Path:
    """A directory of executables, to be put into PATH."""
    place.mkdir(exist_ok=True)
    for name, text in scripts.items():
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    return place


class StandIn:
    """One job at a time.

    Args:
        directory: for its files; jobs run in it.
    """

    pause = 0.02  # s after each step of a job, so that there is time to stop it

    def __init__(self, directory: Path):
        self._directory = directory
        self._programs = programs(directory / "standin", srun=_SRUN, scontrol=_SCONTROL)
        self._step = directory / "step"
        self._requests = directory / "requests"
        self._numbers = itertools.count(1)
        self._attempt = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._signal(signal.SIGKILL, everything=True)

    def submit(self, script: Path, log: Path, nodes: int = 1) -> str:
        """Start a job; its number."""
        self._script, self._log, self._nodes = script, log, nodes
        self._job, self._attempt = str(next(self._numbers)), 0
        self._start()
        return self._job

    def preempt(self, job: str) -> None:
        """Ask the ranks to end, and kill the job after a while; it is requeued in any case."""
        self._stop(signal.SIGTERM)
        if self._process.returncode < 0:
            self._requests.write_text(f"requeue {job}\n")

    def warn(self, job: str) -> None:
        """Signal that the time limit comes near, and kill the job at it."""
        self._stop(signal.SIGUSR1)

    def fail(self, job: str) -> None:
        """Lose the node."""
        self._signal(signal.SIGKILL, everything=True)
        self._process.wait()
        self._requests.write_text(f"requeue {job}\n")

    def again(self, job: str) -> None:
        """Start the job again, which must have been requeued."""
        self._process.wait(GRACE)
        assert self._requests.read_text() == f"requeue {job}\n"
        self._requests.unlink()
        self._attempt += 1
        self._start()

    def finish(self, job: str) -> str:
        """The state in which the job ends."""
        code = self._process.wait(180)
        if self._requests.exists():
            return "REQUEUED"
        return "FAILED" if code else "COMPLETED"

    def _start(self) -> None:
        told = {
            "PATH": f"{self._programs}:{os.environ['PATH']}",
            "SLURM_JOB_ID": self._job,
            "SLURM_NTASKS": str(self._nodes),
            "SLURM_LOCALID": "0",
            "STEP": str(self._step),
            "REQUESTS": str(self._requests),
        }
        if self._attempt:
            told["SLURM_RESTART_COUNT"] = str(self._attempt)
        self._step.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["bash", self._script],
                env=os.environ | told, cwd=self._directory, start_new_session=True,
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def _stop(self, number: signal.Signals) -> None:
        self._signal(signal.SIGCONT)
        self._signal(number)
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL, everything=True)
            self._process.wait()

    def _signal(self, number: signal.Signals, everything: bool = False) -> None:
        """To the ranks, or to the whole job."""
        with suppress(ProcessLookupError):
            if everything:
                os.killpg(self._process.pid, number)
                return
            for process in self._step.read_text().split():
                os.kill(int(process), number)
