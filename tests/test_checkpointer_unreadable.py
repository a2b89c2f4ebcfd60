"""Files that cannot be read for a while, or that others have put there."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from keras_lc.errors import CheckpointError, StoreError
from keras_lc.listing import open_directory
from keras_lc.loader import load_latest
from keras_lc.store import index
from keras_lc.store.directory import LocalDirectory
from keras_lc.store.locate import directory_at
from tests.scenes import SCENES, check
from tests.toy import file_names, kinds, load_all, restored, run, same, save, toy_checkpointer, walk


@pytest.mark.filterwarnings("ignore:.*nothing is deleted")
@pytest.mark.parametrize("once", [True, False], ids=["once", "for good"])
@pytest.mark.parametrize("title", ["delta", "chain dropped", "delta over an old base"])
def test_a_disk_that_cannot_be_read_at_any_time_of_a_save_costs_only_that_save(
    tmp_path: Path, title: str, once: bool
) -> None:
    scene = SCENES[title]
    opened = LocalDirectory.open
    asked = 0

    def failing(at: int) -> Any:
        nonlocal asked
        asked = 0

        def read(self: LocalDirectory, name: str) -> Any:
            nonlocal asked
            asked += 1
            if asked == at or (0 < at < asked and not once):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return opened(self, name)

        return mock.patch.object(LocalDirectory, "open", read)

    n, whole = 0, 1
    while n <= whole:
        directory = tmp_path / str(n)
        checkpointer = scene.prepare(directory)
        before = load_all(directory)
        failed = False
        with failing(n):
            try:
                scene.save(checkpointer)
            except CheckpointError:
                failed = True
        whole = max(whole, asked)
        check(directory, scene, before, saved=None if failed else True)
        save(checkpointer, scene.following, "next")
        latest = load_latest(directory)
        assert latest is not None
        assert Path(latest.info.path).name == "next"
        assert same(latest.decoder.reconstruction, scene.following)
        n += 1


@contextmanager
def unreadable(*names: str) -> Iterator[None]:
    """A disk that does not hand out some files."""
    opened = LocalDirectory.open

    def read(self: LocalDirectory, name: str) -> Any:
        if name in names:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return opened(self, name)

    with mock.patch.object(LocalDirectory, "open", read):
        yield


def test_nothing_is_built_on_a_file_that_cannot_be_read_now(tmp_path: Path) -> None:
    states = walk(6)
    checkpointer = run(tmp_path, states[:5])
    (tmp_path / index.INDEX).unlink()
    checkpointer._seen = None  # nor does it remember
    with unreadable("cp-0003.lcd"), pytest.raises(StoreError, match=r"cp-0003\.lcd"):
        save(checkpointer, states[5], "cp-0006")
    assert all(map(same, load_all(tmp_path).values(), states))
    save(checkpointer, states[5], "cp-0006")
    assert kinds(tmp_path)["cp-0006"] == "delta"
    assert same(restored(tmp_path, "cp-0006"), states[5])


def test_what_is_known_of_a_file_is_not_read_again(tmp_path: Path) -> None:
    states = walk(7)
    checkpointer = run(tmp_path, states[:5])
    (tmp_path / index.INDEX).unlink()
    with unreadable(*(f"cp-000{i}.lcd" for i in range(2, 6)), index.INDEX):
        save(checkpointer, states[5], "cp-0006")
    (tmp_path / "cp-0005.lcd").write_bytes(b"altered")
    with pytest.raises(CheckpointError, match=r"cp-0005\.lcd"):
        save(checkpointer, states[6], "cp-0007")


def test_a_file_that_cannot_be_read_stops_neither_saves_nor_numbers(tmp_path: Path) -> None:
    """What it holds may be the newest, or build on what would be deleted."""
    states = walk(9)
    run(tmp_path, states[:5])
    (tmp_path / index.INDEX).unlink()
    later = toy_checkpointer(tmp_path, max_to_keep=1)
    with unreadable("cp-0004.lcd", "cp-0005.lcd", index.INDEX):
        with pytest.warns(UserWarning, match=r"cp-0005\.lcd"):
            save(later, states[5], "another")
        save(later, states[6], "bis")  # the warning comes once
    assert all(map(same, load_all(tmp_path).values(), states))
    assert [s.name for s in open_directory(directory_at(tmp_path)).listed][-2:] == [
        "another",
        "bis",
    ]
    save(later, states[7], "ter")
    assert load_all(tmp_path).keys() == {"another", "bis", "ter"}


def test_a_file_that_cannot_be_read_is_not_replaced(tmp_path: Path) -> None:
    states = walk(4)
    run(tmp_path, states[:3])
    (tmp_path / index.INDEX).unlink()
    before = (tmp_path / "cp-0001.weights.h5").read_bytes()
    later = toy_checkpointer(tmp_path, max_to_keep=1)
    with unreadable("cp-0001.weights.h5"), pytest.raises(StoreError, match="cp-0001"):
        save(later, states[3], "cp-0001")
    with unreadable("cp-0001.weights.h5"), pytest.warns(UserWarning, match="cp-0001"):
        save(later, states[3], "other")
    assert (tmp_path / "cp-0001.weights.h5").read_bytes() == before
    assert load_all(tmp_path).keys() == {"cp-0001", "cp-0002", "cp-0003", "other"}


def test_files_of_other_programs_stop_neither_saves_nor_pruning(tmp_path: Path) -> None:
    states = walk(6)
    (tmp_path / "mine.weights.h5").write_bytes(b"no checkpoint")
    (tmp_path / "notes.lcd").write_bytes(b"no checkpoint either")
    (tmp_path / "dir.lcd").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.lcd")
    others = file_names(tmp_path)
    with unreadable("mine.weights.h5"):
        run(tmp_path, states, max_to_keep=1)
    assert others < file_names(tmp_path)
    contents = open_directory(directory_at(tmp_path))
    assert [stored.name for stored in contents.listed][-1] == "cp-0006"
    assert same(restored(tmp_path, "cp-0006"), states[5])


def test_a_file_that_becomes_unreadable_during_a_save_lets_nothing_be_deleted(
    tmp_path: Path,
) -> None:
    states = walk(6)
    checkpointer = run(tmp_path, states[:5], max_to_keep=1)
    tidy = checkpointer._tidy

    def later() -> index.Contents:
        checkpointer._seen = None
        with unreadable("cp-0003.lcd", index.INDEX):
            return tidy()

    with (
        mock.patch.object(checkpointer, "_tidy", later),
        pytest.warns(UserWarning, match=r"cp-0003\.lcd"),
    ):
        save(checkpointer, states[5], "cp-0006")
    assert all(map(same, load_all(tmp_path).values(), states))
    assert len(load_all(tmp_path)) == 6
