"""Which process of which machine, and whether it still lives."""

from __future__ import annotations

import os
import platform
from pathlib import Path

HOST = platform.node() or "localhost"


def started(process: int) -> str | None:
    """When a process of this machine was started, as a text that no other process of the same
    number has; None where the system does not tell."""
    stat = _stat(process)
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return f"{boot} {stat[19]}" if stat else None


def is_dead(process: int, start: str | None = None) -> bool:
    """Whether a process of this machine is known to be gone.

    Args:
        process: its number.
        start: what `started` told of it; a later process of the same number is another.
    """
    if process <= 0:  # other numbers than those of processes mean other things to `kill`
        return True
    if os.name == "nt":  # there, asking would end the process
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # it lives, and is someone else's
        pass
    stat = _stat(process)
    killed = bool(stat) and stat[0] in "ZX"  # and its parent has not asked for it yet
    return killed or (start is not None and started(process) not in (start, None))


def _stat(process: int) -> list[str]:
    """The fields of /proc/<process>/stat from the state on."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
