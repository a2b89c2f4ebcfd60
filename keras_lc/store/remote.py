"""Directories behind URLs, through fsspec.

A file is written to a local temporary file and then uploaded whole under its final name,
which object stores do in one step: no renames and no links.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from keras_lc.errors import CheckpointError, NotFoundError, StoreError
from keras_lc.store.directory import Directory

_BUFFER = 1 << 16  # what a header is read by, in one request
# How the file systems of fsspec call what changes when a file is written anew.
_CHANGES = ("mtime", "LastModified", "last_modified", "updated", "created", "ETag", "etag")


class RemoteDirectory(Directory):
    """A directory of a file system that fsspec knows.

    Args:
        url: such as `s3://bucket/training`; credentials and options are those of fsspec's own
            configuration.

    Raises:
        StoreError: fsspec, or its package for this protocol, is missing.
    """

    def __init__(self, url: str):
        scheme, mark, rest = url.partition("://")
        self._url = scheme + mark + rest.rstrip("/")
        try:
            import fsspec
        except ImportError as error:
            raise StoreError(
                f"{url!r} is a URL, and those need fsspec: pip install 'keras-lc[remote]'"
            ) from error
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise StoreError(f"{url!r} cannot be used: {error}") from error

    def __str__(self) -> str:
        return self._url

    def child(self, name: str) -> str:
        return self._url + ("" if self._url.endswith("://") else "/") + name

    @property
    def key(self) -> str:
        return self._url

    def exists(self) -> bool:
        with self._asked("look for"):
            return bool(self._fs.isdir(self._root))

    def is_file(self) -> bool:
        with self._asked("look for"):
            return bool(self._fs.isfile(self._root))

    def make(self) -> None:
        with self._asked("make the checkpoint directory"):
            self._fs.makedirs(self._root, exist_ok=True)

    def list(self) -> dict[str, str]:
        with self._asked("read the directory"):
            self._fs.invalidate_cache()
            try:
                infos = self._fs.ls(self._root, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return {}
        return {info["name"].rpartition("/")[2]: _identity(info) for info in infos}

    def gone(self, name: str) -> bool:
        return False

    def open(self, name: str) -> BinaryIO:
        with self._asked("read", name):
            size = self._fs.info(self._at(name))["size"]
        return io.BufferedReader(_Ranges(self, name, size), _BUFFER)

    def range(self, name: str, start: int, end: int) -> bytes:
        """Some bytes of a file, in one request."""
        with self._asked("read", name):
            return bytes(self._fs.cat_file(self._at(name), start=start, end=end))

    @contextmanager
    def write_once(self, name: str) -> Iterator[BinaryIO]:
        try:
            with tempfile.TemporaryDirectory(prefix="keras_lc-") as scratch:
                local = Path(scratch) / "file"
                with open(local, "w+b") as file:
                    yield file
                with self._asked("write", name):
                    self._fs.put_file(str(local), self._at(name))
        except CheckpointError:
            raise
        except OSError as error:
            raise StoreError(
                f"cannot write the temporary file that is to become {self.child(name)!r}: {error}. "
                "Make room, or let TMPDIR name a directory that has some."
            ) from error

    def keep_as(self, name: str, other: str) -> None:
        with self._asked("copy", name):
            if not self._fs.exists(self._at(other)):
                self._fs.cp_file(self._at(name), self._at(other))

    def remove(self, name: str) -> None:
        with self._asked("delete", name), suppress(FileNotFoundError):
            self._fs.rm_file(self._at(name))

    def touch(self, name: str) -> None:
        with self._asked("write", name):
            self._fs.pipe_file(self._at(name), self._fs.cat_file(self._at(name)))

    def modified(self, name: str) -> float:
        """Without a clock all files are of one time."""
        with self._asked("read", name):
            try:
                return float(self._fs.modified(self._at(name)).timestamp())
            except NotImplementedError:
                return 0.0

    def remove_leftovers(self) -> None:
        """Nothing: an upload that was cut short never had a name."""

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextmanager
    def _asked(self, doing: str, name: str | None = None) -> Iterator[None]:
        try:
            yield
        except CheckpointError:
            raise
        except FileNotFoundError as error:
            raise NotFoundError(
                f"there is no {self._url if name is None else self.child(name)!r}."
            ) from error
        except Exception as error:  # each protocol has errors of its own
            target = self._url if name is None else self.child(name)
            raise StoreError(
                f"cannot {doing} {target!r}: {error or type(error).__name__}. Check the URL, "
                "credentials and connection; checkpoints saved before are intact."
            ) from error


class _Ranges(io.RawIOBase):
    """A remote file read by ranges."""

    def __init__(self, directory: RemoteDirectory, name: str, size: int):
        self._directory = directory
        self._name = name
        self._size = size
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, origin + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        end = min(self._size, self._place + len(buffer))
        if end <= self._place:
            return 0
        data = self._directory.range(self._name, self._place, end)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def _identity(info: dict[str, Any]) -> str:
    changes = [str(info[key]) for key in _CHANGES if info.get(key)]
    return " ".join([str(info["size"]), *changes]) if changes else ""
