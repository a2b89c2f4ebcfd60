"""What is said of a save: that it is durable, or that it has failed."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from keras_lc.errors import CheckpointError, StoreError
from keras_lc.listing import CheckpointInfo, list_checkpoints
from keras_lc.loader import load_named
from keras_lc.store import base, lock
from tests.disk import disk
from tests.toy import (
    State,
    kinds,
    load_all,
    restored,
    run,
    same,
    save,
    snapshot,
    temporaries,
    toy_checkpointer,
    walk,
    warned,
)


@pytest.mark.parametrize("background", [True, False])
def test_on_saved_comes_after_the_file_is_durable(tmp_path: Path, background: bool) -> None:
    states, infos, threads = walk(3), [], []

    def on_saved(info: CheckpointInfo) -> None:
        assert load_named(info.path).info == info
        assert all(name.startswith(lock.PREFIX) for name in temporaries(tmp_path))
        infos.append(info)
        threads.append(threading.current_thread() is threading.main_thread())

    run(tmp_path, states, background=background, on_saved=on_saved)
    assert infos == list_checkpoints(tmp_path)
    assert threads == [not background] * 3


def test_on_saved_is_not_called_for_a_save_that_failed(tmp_path: Path) -> None:
    infos: list[CheckpointInfo] = []
    checkpointer = toy_checkpointer(tmp_path, on_saved=infos.append)
    with disk(1), pytest.raises(CheckpointError):
        save(checkpointer, walk(1)[0], "a")
    assert not infos


def full(*_: object, **__: object) -> None:
    raise StoreError("the disk is full")


def submit(checkpointer: Any, state: State, name: str) -> None:
    checkpointer.save(snapshot(state), name, 1)


def test_a_failure_in_the_background_is_raised_at_the_next_wait_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = walk(2)
    checkpointer = toy_checkpointer(tmp_path, background=True)
    with monkeypatch.context() as patch:
        patch.setattr(base, "write", full)
        submit(checkpointer, states[0], "a")
        with pytest.raises(StoreError, match="full"):
            checkpointer.wait()
    checkpointer.wait()
    save(checkpointer, states[1], "b")
    assert same(restored(tmp_path, "b"), states[1])


def test_a_failure_in_the_background_is_raised_at_the_next_save_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = walk(2)
    checkpointer = toy_checkpointer(tmp_path, background=True)
    with monkeypatch.context() as patch:
        patch.setattr(base, "write", full)
        submit(checkpointer, states[0], "a")
        with pytest.raises(StoreError, match="full"):
            submit(checkpointer, states[1], "b")
    save(checkpointer, states[1], "b")
    checkpointer.wait()
    assert list(load_all(tmp_path)) == ["b"]


@pytest.mark.parametrize("background", [True, False])
def test_with_on_error_warn_a_failure_is_a_warning_once_and_saving_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    states = walk(3)
    checkpointer = toy_checkpointer(tmp_path, background=background, on_error="warn")
    with monkeypatch.context() as patch:
        patch.setattr(base, "write", full)
        with warned() as texts:
            submit(checkpointer, states[0], "a")
            checkpointer.wait()
    assert texts == ["a checkpoint was not saved: the disk is full"]
    for name, state in zip("bc", states[1:], strict=True):
        save(checkpointer, state, name)
    assert kinds(tmp_path) == {"b": "base", "c": "delta"}
    assert same(restored(tmp_path, "c"), states[2])


def test_with_on_error_warn_a_directory_that_cannot_be_made_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    checkpointer = toy_checkpointer(tmp_path / "file", on_error="warn")
    with pytest.warns(UserWarning, match="in the way"):
        save(checkpointer, walk(1)[0], "a")


@pytest.mark.parametrize("below", ["", "below", "a/b"])
def test_a_file_where_the_directory_should_be_is_a_store_error(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="in the way"):
        save(toy_checkpointer(tmp_path / "file" / below), walk(1)[0], "a")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_directory_that_may_not_be_written_is_a_store_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        for directory in (tmp_path, tmp_path / "below"):
            with pytest.raises(StoreError, match="directory"):
                save(toy_checkpointer(directory), walk(1)[0], "a")
    finally:
        tmp_path.chmod(0o700)
