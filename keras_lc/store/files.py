"""Write once: a reader sees a whole file or none.

A file is written under a temporary name in its own directory, flushed and synced, renamed
into place, and the directory is synced.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from keras_lc.errors import StoreError
from keras_lc.store import process

_TEMPORARY = ".keras_lc-"
_ABANDONED = 24 * 3600  # s without a write, after which nobody can be writing any more


def make_directory(path: Path) -> None:
    """Make a directory and those above it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise StoreError(
            f"checkpoints are to go into {str(path)!r}, but a file of that name is in the way; "
            "choose another directory or move the file."
        ) from error
    except OSError as error:
        raise StoreError(_advice("make the checkpoint directory", path, error)) from error


@contextmanager
def write_once(path: Path) -> Iterator[BinaryIO]:
    """A file to write and read in; it takes its name only when all of it is on the disk.

    Raises:
        StoreError: it cannot be written; a file of that name from before is untouched.
    """
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}@{process.HOST}-{path.name}")
    try:
        with open(temporary, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        raise StoreError(_advice("write", path, error)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def keep_as(path: Path, other: Path) -> None:
    """Give a file a second name, so that the first may go to another file."""
    try:
        os.link(path, other)
    except FileExistsError:
        return
    except OSError:  # a file system without links
        with write_once(other) as copy, open(path, "rb") as file:
            shutil.copyfileobj(file, copy)


def remove(path: Path) -> None:
    """Delete a file; that it is gone already is fine."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(_advice("delete", path, error)) from error


def touch(path: Path) -> None:
    """Give a file the time of now, by the clock of its disk.

    Raises:
        FileNotFoundError: it is gone.
        StoreError: that may not be done.
    """
    try:
        os.utime(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(_advice("write", path, error)) from error


def sync_directory(path: Path) -> None:
    """Make renames in a directory durable, where the system knows how to."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows cannot open a directory
        return
    try:
        with suppress(OSError):  # some network file systems refuse
            os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(directory: Path) -> None:
    """Delete the temporary files of processes that were killed while writing.

    Whether a process of this machine still lives can be asked; those of other machines are
    given a day.
    """
    for path in directory.glob(f"{_TEMPORARY}*@*"):
        number, _, rest = path.name.removeprefix(_TEMPORARY).partition("@")
        with suppress(OSError):
            old = time.time() - path.stat().st_mtime > _ABANDONED
            if old or (rest.startswith(f"{process.HOST}-") and _is_dead(number)):
                path.unlink()


def _is_dead(number: str) -> bool:
    try:
        return process.is_dead(int(number))
    except ValueError:
        return False


def _advice(doing: str, path: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    return (
        f"cannot {doing} {str(path)!r}: {reason}. Check that the directory exists, may be written "
        "and has room; checkpoints saved before are intact."
    )
