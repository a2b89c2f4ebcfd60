"""Write once: a reader sees a whole file or none.

A file is written under a temporary name in its own directory, flushed and synced, renamed
into place, and the directory is synced.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from keras_lc.errors import StoreError

_TEMPORARY = ".keras_lc-"


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
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
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
    """Delete the temporary files of processes that were killed while writing."""
    for path in directory.glob(f"{_TEMPORARY}*"):
        owner = path.name.removeprefix(_TEMPORARY).partition("-")[0]
        known = owner.isascii() and owner.isdigit()
        if known and int(owner) != os.getpid() and not _alive(int(owner)):
            with suppress(OSError):
                path.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _advice(doing: str, path: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    return (
        f"cannot {doing} {str(path)!r}: {reason}. Check that the directory exists, may be written "
        "and has room; checkpoints saved before are intact."
    )
