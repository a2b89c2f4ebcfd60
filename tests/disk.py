"""A disk that fails on demand."""

from __future__ import annotations

import builtins
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from keras_lc.errors import StoreError
from keras_lc.store import files


class Disk:
    """Counts what is asked of it; from request number `fail_at` on it does `act`.

    With `once` it does so for that request alone.
    """

    def __init__(self, fail_at: int, act: Callable[[], None], once: bool):
        self.fail_at = fail_at
        self.act = act
        self.once = once
        self.asked = 0

    def due(self) -> bool:
        self.asked += 1
        return self.asked == self.fail_at or (0 < self.fail_at < self.asked and not self.once)

    def ask(self) -> None:
        if self.due():
            self.act()

    def copy(self, source: Path, target: Path) -> None:
        data = Path(source).read_bytes()
        if self.due():
            Path(target).write_bytes(data[: len(data) // 2])
            self.act()
        shutil.copyfile(source, target)


class DiskFile:
    """A file on a `Disk`; a write that fails has written half."""

    def __init__(self, disk: Disk, file: Any):
        self._disk = disk
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> DiskFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: Any) -> int:
        if self._disk.due():
            view = memoryview(data).cast("B")
            self._file.write(view[: len(view) // 2])
            self._file.flush()
            self._disk.act()
        return self._file.write(data)

    def flush(self) -> None:
        self._disk.ask()
        self._file.flush()


def no_space() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@contextmanager
def disk(
    fail_at: int = 0, act: Callable[[], None] = no_space, once: bool = False
) -> Iterator[Disk]:
    """Puts everything that the store writes onto a `Disk`; without `fail_at` it only counts."""
    toy = Disk(fail_at, act, once)

    def opened(path: Any, mode: str = "r") -> DiskFile:
        toy.ask()
        return DiskFile(toy, builtins.open(path, mode))

    def asking(function: Callable[..., Any]) -> Callable[..., Any]:
        def ask_first(*arguments: Any, **options: Any) -> Any:
            toy.ask()
            return function(*arguments, **options)

        return ask_first

    remove = files.remove

    def removed(path: Path) -> None:
        try:
            toy.ask()
        except OSError as error:
            raise StoreError(f"cannot delete {path}") from error
        remove(path)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(files, "remove", removed))
        stack.enter_context(mock.patch.object(files, "open", opened, create=True))
        stack.enter_context(mock.patch.object(shutil, "copy2", toy.copy))
        stack.enter_context(mock.patch.object(os, "fsync", asking(lambda handle: None)))
        for name in ("replace", "link", "utime"):
            stack.enter_context(mock.patch.object(os, name, asking(getattr(os, name))))
        yield toy
