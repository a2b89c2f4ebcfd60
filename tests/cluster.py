"""A SLURM of one machine for a test: its own keys, ports, configuration and daemons.

    with Cluster() as cluster:
        job = cluster.submit(script, log)
        cluster.preempt(job)
        cluster.again(job)
        assert cluster.finish(job) == "COMPLETED"

Two `slurmd` are two nodes, each with a GPU that is none. A job of the partition `high` takes the
nodes from those of `low`, which have `GRACE` seconds to end. Everything runs as the user who runs
the test, has its files in one temporary directory, and is ended on the way out, whatever happens.
"""

from __future__ import annotations

import getpass
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from standin import GRACE, until

INSTALL = "apt-get install -y slurmctld slurmd slurm-client munge"
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "sinfo", "srun")
_NODES = 2
_GPU = "--gpus-per-node=A40:1"
_CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool-%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,batch_sched_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
MinJobAge=3600
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime={grace}
PartitionName=high Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""
_NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 Gres=gpu:A40:1\n"


def missing() -> list[str]:
    """The programs of SLURM that this machine lacks."""
    return [name for name in _PROGRAMS if _found(name) is None]


class Cluster:
    """Started by `with`, ended at its end."""

    pause = 0.3  # s after each step of a job, so that there is time to stop it

    def __init__(self) -> None:
        self._open = ExitStack()
        self._restarts: dict[str, int] = {}
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._lost: list[str] = []

    def __enter__(self) -> Cluster:
        with ExitStack() as opened:
            # a short path: that of a socket has a limit
            self._place = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
            self._place.chmod(0o711)  # munged refuses others
            opened.callback(self._end_daemons)
            self._authenticate()
            self._configure()
            self._daemon("slurmctld", "-D", "-c")
            opened.callback(self._end_jobs)
            for number in range(_NODES):
                self._node(f"n{number}")
            until(lambda: self._idle() == _NODES, f"the nodes, see {self._place}", 60)
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def submit(self, script: Path, log: Path, nodes: int = 1, test_only: bool = False) -> str:
        """Hand a job script in; the number of the job."""
        options = ["--test-only"] if test_only else ["--parsable", "-o", str(log)]
        return self.ask("sbatch", *options, f"--chdir={script.parent}", str(script)).strip()

    def preempt(self, job: str) -> None:
        """Send a job of higher priority for the same nodes."""
        nodes = self.told(job, "NodeList")
        command = ("--wrap", "sleep 2", "-o", "/dev/null")
        self.ask("sbatch", "-p", "high", "-t", "1", "-w", nodes, "-N", "1-9", _GPU, *command)

    def warn(self, job: str) -> None:
        """Move the time limit to where the warning of the script is due at once."""
        self.ask("scontrol", "update", f"JobId={job}", "TimeLimit=2")

    def fail(self, job: str) -> None:
        """Lose the node with all that runs there, until the job has ended on the other one."""
        node = self.told(job, "NodeList")
        for process in self._processes(f"SLURMD_NODENAME={node}"):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
        self._lost.append(node)

    def again(self, job: str) -> None:
        """Wait for the job to be requeued, and start it without the usual two minutes of delay."""
        self._await_requeue(job)
        self._restarts[job] = self._restarts.get(job, 0) + 1
        self.ask("scontrol", "update", f"JobId={job}", "StartTime=now", "TimeLimit=60")
        until(lambda: self.told(job, "JobState") != "PENDING", f"job {job} to start again")

    def finish(self, job: str) -> str:
        """The state in which the job ends."""
        until(lambda: self.told(job, "JobState") not in ("RUNNING", "COMPLETING"), f"job {job}")
        while self._lost:
            self._node(node := self._lost.pop())
            self.ask("scontrol", "update", f"NodeName={node}", "State=RESUME")
            until(lambda: self._idle() == _NODES, f"node {node} to come back", 60)
        return self.told(job, "JobState")

    def told(self, job: str, word: str) -> str:
        """What `scontrol show job` says of a job, such as its JobState."""
        found = re.search(rf"\b{word}=(\S*)", self.ask("scontrol", "show", "job", job))
        assert found, f"scontrol tells no {word}"
        return found[1]

    def ask(self, program: str, *arguments: str) -> str:
        """What a command of SLURM prints."""
        command = [_found(program) or program, *arguments]
        run = subprocess.run(
            command,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if run.returncode:
            raise RuntimeError(f"{' '.join(command)}: {run.stderr or run.stdout}")
        return run.stdout + run.stderr

    def _environment(self) -> dict[str, str]:
        return os.environ | {"SLURM_CONF": f"{self._place}/slurm.conf"}

    def _await_requeue(self, job: str) -> None:
        before = str(self._restarts.get(job, 0))
        until(lambda: self.told(job, "Restarts") != before, f"job {job} to be requeued")
        until(lambda: self.told(job, "JobState") == "PENDING", f"job {job} to be pending")

    def _idle(self) -> int:
        with suppress(RuntimeError):
            return self.ask("sinfo", "-h", "-N", "-p", "low", "-o", "%T").split().count("idle")
        return 0

    def _authenticate(self) -> None:
        key = self._place / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        files = [
            f"--{name}-file={self._place}/munge.{name}" for name in ("key", "pid", "seed", "log")
        ]
        self._daemon("munged", "--foreground", f"--socket={self._place}/munge.socket", *files)
        until((self._place / "munge.socket").exists, f"munged, see {self._place}", 20)

    def _configure(self) -> None:
        port, *ports = _free_ports(1 + _NODES)
        (self._place / "state").mkdir()
        text = _CONFIGURATION
        text = text.format(port=port, user=getpass.getuser(), place=self._place, grace=GRACE)
        for number, port in enumerate(ports):
            name = f"n{number}"
            (self._place / f"spool-{name}").mkdir()
            text += _NODE.format(name=name, host=socket.gethostname(), port=port)
        (self._place / "slurm.conf").write_text(text)
        gpus = f"NodeName=n[0-{_NODES - 1}] Name=gpu Type=A40 File=/dev/null\n"
        (self._place / "gres.conf").write_text(gpus)

    def _node(self, name: str) -> None:
        self._daemon("slurmd", "-D", "-N", name, SLURMD_NODENAME=name)

    def _daemon(self, name: str, *arguments: str, **variables: str) -> None:
        # ended with this process, even if that is killed
        command = ["setpriv", "--pdeathsig", "TERM", "--", _found(name) or name, *arguments]
        with (self._place / f"{name}.log").open("ab") as log:
            daemon = subprocess.Popen(
                command, env=self._environment() | variables,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
            self._daemons.append(daemon)

    def _end_jobs(self) -> None:
        with suppress(RuntimeError, TimeoutError, subprocess.TimeoutExpired):
            self.ask("scancel", "--user", getpass.getuser())
            until(lambda: self._idle() == _NODES, "the jobs to end", 20)

    def _end_daemons(self) -> None:
        """End all processes that have the configuration of this cluster, jobs among them."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self._processes():
                with suppress(ProcessLookupError):
                    os.kill(process, number)
            with suppress(TimeoutError):
                until(lambda: not self._processes(), "the daemons to end", 10)
        for daemon in self._daemons:
            daemon.wait()

    def _processes(self, *variables: str) -> list[int]:
        """Those of this cluster that have these variables."""
        marks = {one.encode() for one in (f"SLURM_CONF={self._place}/slurm.conf", *variables)}
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdecimal() and marks.issubset(
                    (entry / "environ").read_bytes().split(b"\0")
                ):
                    found.append(int(entry.name))
        return found


def _found(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]
