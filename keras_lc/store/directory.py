"""Where checkpoints lie: whole files by name."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from keras_lc.errors import StoreError
from keras_lc.store import files


class Directory(ABC):
    """A directory, which need not exist. A file in it is there whole or not at all.

    When the storage fails, that is an `OSError`, of which `StoreError` is one; when a file to
    be read is not there, a `FileNotFoundError`.
    """

    @abstractmethod
    def __str__(self) -> str:
        """Path or URL."""

    @abstractmethod
    def child(self, name: str) -> str:
        """Path or URL of a file, or of a checkpoint."""

    @property
    @abstractmethod
    def key(self) -> str:
        """The same for the same directory, however it was written."""

    @abstractmethod
    def exists(self) -> bool:
        """Whether there is a directory."""

    @abstractmethod
    def is_file(self) -> bool:
        """Whether there is a file in its place."""

    @abstractmethod
    def make(self) -> None:
        """Make the directory and those above it, as far as they are missing."""

    @abstractmethod
    def list(self) -> dict[str, str]:
        """Names of the files, to an identity that changes whenever a file is written anew;
        it is empty where the storage tells nothing to go by."""

    @abstractmethod
    def gone(self, name: str) -> bool:
        """Whether a file is known to be missing; asked where time counts, so that a storage
        that would have to look far away says no."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """A file to read and to seek in."""

    @abstractmethod
    def write_once(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A file to write and read in; it takes its name when all of it is durable."""

    @abstractmethod
    def keep_as(self, name: str, other: str) -> None:
        """Give a file a second name, so that the first may go to another file."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Delete a file; that it is gone already is fine."""

    @abstractmethod
    def touch(self, name: str) -> None:
        """Make a file as if it had been written just now."""

    @abstractmethod
    def modified(self, name: str) -> float:
        """When a file was written, in seconds by the clock of the storage."""

    @abstractmethod
    def remove_leftovers(self) -> None:
        """Delete what processes left behind that were killed while writing."""


class LocalDirectory(Directory):
    """A directory of a file system."""

    def __init__(self, path: Path):
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def child(self, name: str) -> str:
        return os.path.join(self._path, name)

    @property
    def key(self) -> str:
        return os.path.realpath(self._path)

    def exists(self) -> bool:
        return self._path.is_dir()

    def is_file(self) -> bool:
        return self._path.is_file()

    def make(self) -> None:
        files.make_directory(self._path)

    def list(self) -> dict[str, str]:
        try:
            with os.scandir(self._path) as entries:
                # to open a pipe would wait for whoever writes into it
                plain = (entry for entry in entries if entry.is_file() or entry.is_dir())
                return {entry.name: _identity(entry) for entry in plain}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise StoreError(f"cannot read the directory {str(self)!r}: {error}") from error

    def gone(self, name: str) -> bool:
        return not (self._path / name).exists()

    def open(self, name: str) -> BinaryIO:
        return open(self._path / name, "rb")

    def write_once(self, name: str) -> AbstractContextManager[BinaryIO]:
        return files.write_once(self._path / name)

    def keep_as(self, name: str, other: str) -> None:
        files.keep_as(self._path / name, self._path / other)

    def remove(self, name: str) -> None:
        files.remove(self._path / name)

    def touch(self, name: str) -> None:
        files.touch(self._path / name)

    def modified(self, name: str) -> float:
        return (self._path / name).stat().st_mtime

    def remove_leftovers(self) -> None:
        files.remove_leftovers(self._path)


def _identity(entry: os.DirEntry[str]) -> str:
    try:
        stat = entry.stat()
    except OSError:
        return ""
    # A file written anew has another inode, however coarse the clock of the disk.
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
