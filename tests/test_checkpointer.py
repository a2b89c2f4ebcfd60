from __future__ import annotations

import errno
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lc.capture import Snapshot
from keras_lc.core.presets import Balanced
from keras_lc.errors import CheckpointError, DamagedError, OptionError, StoreError
from keras_lc.listing import CheckpointInfo, list_checkpoints, open_directory
from keras_lc.loader import latest_checkpoint, load_latest, load_named
from keras_lc.store import base, chain, files, index, lock
from keras_lc.store.directory import LocalDirectory
from keras_lc.store.locate import directory_at
from tests.toy import (
    LAYOUT,
    SCENES,
    Scene,
    State,
    disk,
    file_names,
    halves,
    kinds,
    load_all,
    run,
    same,
    save,
    snapshot,
    temporaries,
    toy_checkpointer,
    walk,
    warned,
)


def restored(directory: Path, name: str) -> Mapping[str, np.ndarray]:
    return load_named(directory / name).decoder.reconstruction


def check(directory: Path, scene: Scene, before: dict[str, State], saved: bool | None) -> None:
    """Every earlier checkpoint is what it was; `saved` says whether the new one must be there,
    None that it may."""
    found = load_all(directory)
    kept = list(before)[-scene.max_to_keep :] if scene.max_to_keep else list(before)
    if saved or scene.name in found:
        kept = kept[1:] if scene.max_to_keep else kept
    for name in kept:
        allowed = [before[name]]
        if name == scene.name and not saved:
            allowed.append(scene.disturbed)
        elif name == scene.name:
            allowed = [scene.disturbed]
        assert any(same(found[name], state) for state in allowed), name
    for name, state in found.items():
        allowed = [before[name]] if name in before else []
        allowed += [scene.disturbed] if name == scene.name else []
        assert any(same(state, one) for one in allowed), name
    if saved:
        assert same(found[scene.name], scene.disturbed)


def settled(directory: Path) -> None:
    """Nothing temporary, and no file that nothing needs."""
    assert not temporaries(directory)
    contents = index.scan(directory_at(directory))
    needed = {
        one.digest
        for stored in contents.listed
        for one in [stored, *chain.ancestry(contents, stored)]
    }
    assert {stored.digest for stored in contents.stored} <= needed
    last = {shortcut.parent: shortcut.digest for shortcut in contents.shortcuts}
    assert {shortcut.digest for shortcut in contents.shortcuts} <= needed | set(last.values())
    assert last.keys() <= contents.by_digest.keys()


def counted(scene: Scene, directory: Path) -> int:
    with disk():
        checkpointer = scene.prepare(directory)
    with disk() as whole:
        scene.save(checkpointer)
    return whole.asked


@pytest.mark.parametrize("once", [True, False], ids=["once", "for good"])
@pytest.mark.parametrize("title", SCENES)
def test_a_disk_that_fails_at_any_request_costs_only_that_save(
    tmp_path: Path, title: str, once: bool
) -> None:
    scene = SCENES[title]
    requests = counted(scene, tmp_path / "whole")
    assert requests >= 5
    for n in scene.moments(requests):
        directory = tmp_path / str(n)
        with disk():
            checkpointer = scene.prepare(directory)
        before = load_all(directory)
        failed = False
        with disk(n, once=once):
            try:
                scene.save(checkpointer)
            except CheckpointError:
                failed = True
        if directory.exists():
            assert not halves(directory), n
        check(directory, scene, before, saved=None if failed else True)
        with disk():
            save(checkpointer, scene.following, "next", codec=scene.codec)
        assert same(restored(directory, "next"), scene.following), n
        latest = load_latest(directory)
        assert latest is not None
        assert Path(latest.info.path).name == "next"
        settled(directory)
        if not scene.max_to_keep:
            check_others(directory, scene, before)


@pytest.mark.parametrize("title", [title for title in SCENES if "shortcut" in title])
def test_scenes_with_shortcuts_have_them(tmp_path: Path, title: str) -> None:
    checkpointer = SCENES[title].prepare(tmp_path)
    before = set(tmp_path.glob("*.lcs"))
    SCENES[title].save(checkpointer)
    written = set(tmp_path.glob("*.lcs")) - before
    assert len(written) == title.startswith("shortcut")
    assert written or before


def check_others(directory: Path, scene: Scene, before: dict[str, State]) -> None:
    for name, state in before.items():
        found = restored(directory, name)
        assert same(found, state) or (name == scene.name and same(found, scene.disturbed)), name


@pytest.mark.parametrize("title", SCENES)
def test_a_process_killed_at_any_request_costs_only_that_save(tmp_path: Path, title: str) -> None:
    scene = SCENES[title]
    requests = counted(scene, tmp_path / "whole")
    directories = [tmp_path / str(n) for n in [*scene.moments(requests), requests + 1]]
    root = Path(__file__).parents[1]
    subprocess.run(
        [sys.executable, "-m", "tests.toy", title, *map(str, directories)], check=True, cwd=root
    )
    with disk():
        scene.prepare(tmp_path / "before")
    before = load_all(tmp_path / "before")
    assert same(restored(directories[-1], scene.name), scene.disturbed)
    for directory in directories:
        check(directory, scene, before, saved=None)
        if before:
            assert latest_checkpoint(directory)
        with disk():
            save(toy_checkpointer(directory), scene.following, "next")
        assert same(restored(directory, "next"), scene.following)
        assert not temporaries(directory)
        if not scene.max_to_keep:
            check_others(directory, scene, before)


@pytest.mark.parametrize("title", ["delta over an old delta", "base over an old delta"])
def test_a_disk_without_links_keeps_copies(tmp_path: Path, title: str) -> None:
    scene = SCENES[title]
    with mock.patch.object(os, "link", side_effect=PermissionError(1, "not permitted")):
        checkpointer = scene.prepare(tmp_path)
        before = load_all(tmp_path)
        scene.save(checkpointer)
        check(tmp_path, scene, before, saved=True)


def test_when_old_files_cannot_be_deleted_later_checkpoints_still_restore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = walk(8)
    checkpointer = toy_checkpointer(tmp_path, keyframe_every=2, max_to_keep=1)
    stuck = False
    remove = files.remove

    def sometimes(path: Path) -> None:
        if stuck:
            raise StoreError("cannot delete")
        remove(path)

    monkeypatch.setattr(files, "remove", sometimes)
    for i, state in enumerate(states):
        stuck = i in (2, 5)  # a base, a delta
        name = f"cp-{i}"
        try:
            save(checkpointer, state, name)
        except CheckpointError:
            assert stuck
        found = load_all(tmp_path)
        for place, arrays in found.items():
            assert same(arrays, states[int(place[-1])])
    assert same(restored(tmp_path, "cp-7"), states[7])


def test_a_failure_after_the_file_is_durable_does_not_spoil_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = walk(5)
    checkpointer = toy_checkpointer(tmp_path)
    tidy = checkpointer._tidy
    for i, state in enumerate(states):
        broken = i in (0, 2)

        def fail() -> index.Contents:
            raise StoreError("the directory is not there for a moment")

        monkeypatch.setattr(checkpointer, "_tidy", fail if broken else tidy)
        if broken:
            with pytest.raises(CheckpointError):
                save(checkpointer, state, f"cp-{i}")
        else:
            save(checkpointer, state, f"cp-{i}")
    for i in (1, 3, 4):
        assert same(restored(tmp_path, f"cp-{i}"), states[i])
    assert all(same(arrays, states[int(name[-1])]) for name, arrays in load_all(tmp_path).items())


def test_a_second_run_over_the_same_names_leaves_the_rest_of_the_first_intact(
    tmp_path: Path,
) -> None:
    old, new = walk(4), walk(4, seed=6)
    run(tmp_path, old)
    checkpointer = toy_checkpointer(tmp_path)
    for count, state in enumerate(new, start=1):
        save(checkpointer, state, f"cp-000{count}", count)
        found = load_all(tmp_path)
        for i in range(4):
            expected = new[i] if i < count else old[i]
            assert same(found[f"cp-000{i + 1}"], expected)
        retired = {name for name in file_names(tmp_path) if "~" in name}
        assert len(retired) == (count if count < 4 else 0)
        settled(tmp_path)
    assert len(file_names(tmp_path)) == 5
    assert kinds(tmp_path) == {"cp-0001": "base"} | {f"cp-000{i}": "delta" for i in (2, 3, 4)}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=9))
@settings(deadline=None, max_examples=40)
def test_whatever_is_saved_over_whatever_each_name_restores_its_newest_state(
    tmp_path_factory: pytest.TempPathFactory, saves: list[tuple[str, bool]]
) -> None:
    directory = tmp_path_factory.mktemp("any")
    newest: dict[str, State] = {}
    with disk():
        checkpointer = toy_checkpointer(directory, keyframe_every=3)
        for (name, again), state in zip(saves, walk(9), strict=False):
            if again:
                checkpointer = toy_checkpointer(directory, keyframe_every=3)
            save(checkpointer, state, name)
            newest[name] = state
            found = load_all(directory)
            assert found.keys() == newest.keys()
            for key, arrays in newest.items():
                assert same(found[key], arrays)
                assert same(restored(directory, key), arrays)
            settled(directory)


def test_of_a_base_and_a_delta_of_one_name_the_newer_wins(tmp_path: Path) -> None:
    states = walk(3)
    run(tmp_path, states[:2])
    delta = (tmp_path / "cp-0002.lcd").read_bytes()
    save(toy_checkpointer(tmp_path), states[2], "cp-0002")
    assert kinds(tmp_path) == {"cp-0001": "base", "cp-0002": "base"}
    (tmp_path / "cp-0002.lcd").write_bytes(delta)  # as if killed before it was deleted
    assert len(list_checkpoints(tmp_path)) == 2
    assert same(restored(tmp_path, "cp-0002"), states[2])
    assert same(load_all(tmp_path)["cp-0002"], states[2])


def test_a_constant_name_always_restores_its_newest_and_the_directory_does_not_grow(
    tmp_path: Path,
) -> None:
    checkpointer = toy_checkpointer(tmp_path)
    for state in walk(5):
        save(checkpointer, state, "best")
        assert same(restored(tmp_path, "best"), state)
        assert file_names(tmp_path) == {"best.weights.h5", "checkpoint.json"}


def test_two_runs_may_share_a_directory(tmp_path: Path) -> None:
    states = walk(8)
    every, best = toy_checkpointer(tmp_path), toy_checkpointer(tmp_path)
    for i in range(4):
        save(every, states[2 * i], f"cp-{i}")
        save(best, states[2 * i + 1], "best")
    found = load_all(tmp_path)
    assert same(found.pop("best"), states[7])
    assert all(same(found[f"cp-{i}"], states[2 * i]) for i in range(4))
    assert kinds(tmp_path) == {"cp-0": "base", "best": "base"} | dict.fromkeys(
        ("cp-1", "cp-2", "cp-3"), "delta"
    )


@pytest.mark.parametrize(
    "name", ["run~00000001", "a~deadbeef", "x.lcd", "x.weights.h5", "x~", "a..", "~"]
)
def test_a_name_of_any_look_is_saved_and_found(tmp_path: Path, name: str) -> None:
    states = walk(3)
    checkpointer = toy_checkpointer(tmp_path)
    save(checkpointer, states[0], "first")
    save(checkpointer, states[1], name)
    save(checkpointer, states[2], "third")
    assert len(list_checkpoints(tmp_path)) == 3
    assert same(restored(tmp_path, "third"), states[2])
    assert same(dict(list(load_all(tmp_path).values())[1]), states[1])


@pytest.mark.parametrize("name", [".hidden", "..a"])
def test_a_name_that_begins_with_a_dot_is_saved_and_found_or_refused(
    tmp_path: Path, name: str
) -> None:
    states = walk(2)
    checkpointer = toy_checkpointer(tmp_path)
    save(checkpointer, states[0], "first")
    try:
        save(checkpointer, states[1], name)
    except CheckpointError:
        assert file_names(tmp_path) == {"first.weights.h5", "checkpoint.json"}
    else:
        assert same(restored(tmp_path, name), states[1])


def test_a_base_comes_every_so_many_checkpoints(tmp_path: Path) -> None:
    run(tmp_path, walk(7), keyframe_every=3)
    expected = ["base", "delta", "delta", "base", "delta", "delta", "base"]
    assert list(kinds(tmp_path).values()) == expected
    run(tmp_path / "all", walk(3), keyframe_every=1)
    assert set(kinds(tmp_path / "all").values()) == {"base"}


def test_tensors_that_change_begin_a_base(tmp_path: Path) -> None:
    states = walk(2) + walk(2, rows=5)
    states += [state | {"weights/1": state["weights/1"].astype(np.float64)} for state in walk(2)]
    run(tmp_path, states)
    assert list(kinds(tmp_path).values()) == ["base", "delta"] * 3
    for (_, found), state in zip(load_all(tmp_path).items(), states, strict=True):
        assert same(found, state)


def test_a_delta_that_does_not_pay_is_followed_by_a_base(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    states = [
        state | {"weights/2": rng.integers(0, 2**32, (300, 300), np.uint32).view(np.float32)}
        for state in walk(3)
    ]
    run(tmp_path, states)
    assert list(kinds(tmp_path).values()) == ["base", "delta", "base"]


def test_a_base_that_is_gone_begins_a_base_and_a_lost_delta_is_said_once(tmp_path: Path) -> None:
    states = walk(6)
    checkpointer = run(tmp_path, states[:1])
    (tmp_path / "cp-0001.weights.h5").unlink()
    save(checkpointer, states[1], "cp-0002")
    assert kinds(tmp_path) == {"cp-0002": "base"}
    save(checkpointer, states[2], "cp-0003")
    save(checkpointer, states[3], "cp-0004")
    (tmp_path / "cp-0003.lcd").unlink()
    with pytest.raises(DamagedError, match=r"cp-0003\.lcd"):
        save(checkpointer, states[4], "cp-0005")
    save(checkpointer, states[4], "cp-0005")
    save(checkpointer, states[5], "cp-0006")
    assert same(restored(tmp_path, "cp-0005"), states[4])
    assert same(restored(tmp_path, "cp-0006"), states[5])


def test_a_base_swapped_during_training_is_never_built_on(tmp_path: Path) -> None:
    states = walk(4)
    run(tmp_path / "other", walk(1, seed=9))
    checkpointer = run(tmp_path / "ours", states[:2])
    swapped = (tmp_path / "other/cp-0001.weights.h5").read_bytes()
    (tmp_path / "ours/cp-0001.weights.h5").write_bytes(swapped)
    with pytest.raises(DamagedError, match=r"cp-0001\.weights\.h5"):
        save(checkpointer, states[2], "cp-0003")
    save(checkpointer, states[3], "cp-0004")
    assert same(restored(tmp_path / "ours", "cp-0004"), states[3])
    with pytest.raises(DamagedError):
        restored(tmp_path / "ours", "cp-0002")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EIO, errno.ESTALE])
def test_a_disk_that_refuses_from_some_request_on_costs_only_the_saves_until_it_is_back(
    tmp_path: Path, code: int
) -> None:
    def refuse() -> None:
        raise OSError(code, os.strerror(code))

    states = walk(8)
    with disk() as whole:
        run(tmp_path / "whole", states[:4])
    for n in range(1, whole.asked + 1, 5):
        directory = tmp_path / str(n)
        checkpointer = toy_checkpointer(directory, on_error="warn")
        with disk(n, refuse), warned() as texts:
            for i in range(4):
                save(checkpointer, states[i], f"cp-{i}")
        other = [t for t in texts if os.strerror(code) not in t and "cannot delete" not in t]
        assert not other
        for i in range(4, 8):
            save(checkpointer, states[i], f"cp-{i}")
        found = load_all(directory)
        assert all(same(arrays, states[int(name[-1])]) for name, arrays in found.items())
        assert list(found)[-4:] == ["cp-4", "cp-5", "cp-6", "cp-7"]
        settled(directory)


@pytest.mark.parametrize("limit", [0, 100, 5_000, 17_000])
def test_a_disk_that_takes_no_more_bytes_of_a_file_costs_only_that_save(
    tmp_path: Path, limit: int
) -> None:
    """The real thing: the system refuses to let a file grow."""
    resource = pytest.importorskip("resource")
    states = walk(3)
    checkpointer = run(tmp_path, states[:1])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for name, options in (("delta", {}), ("base", {"keyframe_every": 1})):
        target = toy_checkpointer(tmp_path, **options) if options else checkpointer
        if name == "delta" and limit > 1000:
            continue
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(StoreError):
                save(target, states[1], name)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list(load_all(tmp_path)) == ["cp-0001"]
        assert not temporaries(tmp_path)
    save(checkpointer, states[2], "cp-0003")
    assert same(restored(tmp_path, "cp-0001"), states[0])
    assert same(restored(tmp_path, "cp-0003"), states[2])


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("again", ["gone", "empty", "another run"])
def test_a_directory_deleted_between_saves_begins_anew(
    tmp_path: Path, again: str, background: bool
) -> None:
    states, directory = walk(6), tmp_path / "training"
    checkpointer = toy_checkpointer(directory, background=background)
    for i in range(3):
        checkpointer.save(described(checkpointer, states[i], f"cp-{i}"), f"cp-{i}", 1)
        checkpointer.wait()  # its lock is held
    shutil.rmtree(directory)
    if again == "empty":
        directory.mkdir()
    elif again == "another run":
        run(directory, walk(2, seed=5))
    for i in range(3, 6):
        save(checkpointer, states[i], f"cp-{i}")
    found = load_all(directory)
    assert [kinds(directory)[f"cp-{i}"] for i in range(3, 6)] == ["base", "delta", "delta"]
    assert all(same(found[f"cp-{i}"], states[i]) for i in range(3, 6))
    assert not temporaries(directory)


def described(checkpointer: Any, state: State, name: str) -> Snapshot:
    taken = snapshot(state)
    return replace(taken, layout=LAYOUT) if checkpointer.base_due(name, taken) else taken


@pytest.mark.parametrize("title", ["delta", "base over an old base", "delta onto a pack"])
def test_a_directory_deleted_at_any_moment_of_a_save_costs_no_later_one(
    tmp_path: Path, title: str
) -> None:
    scene = SCENES[title]
    for n in scene.moments(counted(scene, tmp_path / "whole")):
        directory = tmp_path / str(n)
        with disk():
            checkpointer = scene.prepare(directory)
        with disk(n, lambda at=directory: shutil.rmtree(at), once=True), suppress(CheckpointError):
            scene.save(checkpointer)
        with disk():
            try:
                save(checkpointer, scene.following, "next")
            except DamagedError:  # it noticed only now that what it built on is gone
                save(checkpointer, scene.following, "next")
        assert same(restored(directory, "next"), scene.following), n
        settled(directory)


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
    with unreadable("cp-0003.lcd"), pytest.raises(StoreError, match=r"cp-0003\.lcd"):
        save(checkpointer, states[5], "cp-0006")
    assert all(map(same, load_all(tmp_path).values(), states))
    save(checkpointer, states[5], "cp-0006")
    assert kinds(tmp_path)["cp-0006"] == "delta"
    assert same(restored(tmp_path, "cp-0006"), states[5])


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
        with unreadable("cp-0003.lcd", index.INDEX):
            return tidy()

    with (
        mock.patch.object(checkpointer, "_tidy", later),
        pytest.warns(UserWarning, match=r"cp-0003\.lcd"),
    ):
        save(checkpointer, states[5], "cp-0006")
    assert all(map(same, load_all(tmp_path).values(), states))
    assert len(load_all(tmp_path)) == 6


UNPRIVILEGED = """
import os, shutil, sys, tempfile
from pathlib import Path
from tests.toy import load_all, run, same, save, temporaries, toy_checkpointer, walk, warned
from keras_lc.errors import StoreError

states = walk(9)
base = Path(tempfile.mkdtemp())
run(base / "first", states[:2])  # loads all that is loaded late
base.chmod(0o777)
if os.geteuid() == 0:
    os.seteuid(65534)
directory = base / "training"
checkpointer = run(directory, states[:2])
patient = toy_checkpointer(directory, on_error="warn")
save(patient, states[2], "best")
directory.chmod(0o500)
for i in range(2):
    try:
        save(checkpointer, states[3], "cp-0003")
    except StoreError as error:
        assert "training" in str(error), error
    else:
        raise SystemExit("it could be written")
    with warned() as texts:
        save(patient, states[4], "best")
    assert len(texts) == 1, texts
directory.chmod(0o700)
save(checkpointer, states[5], "cp-0003")
save(patient, states[6], "best")
found = load_all(directory)
assert [found.keys()] == [{"cp-0001", "cp-0002", "cp-0003", "best"}], found.keys()
for name, i in (("cp-0001", 0), ("cp-0002", 1), ("cp-0003", 5), ("best", 6)):
    assert same(found[name], states[i]), name
assert not temporaries(directory)
shutil.rmtree(directory)
os.seteuid(os.getuid())
shutil.rmtree(base)
print("fine")
"""


@pytest.mark.skipif(os.name == "nt", reason="permissions are others there")
def test_permission_that_is_lost_half_way_and_given_back() -> None:
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED], capture_output=True, text=True, cwd=root
    )
    assert done.stdout == "fine\n", done.stderr


class ToySource:
    """What `adopt` asks: a state that stands at some step."""

    def __init__(self, state: State, step: int | None = None):
        self._snapshot = snapshot(state, step)

    @property
    def step(self) -> int:
        return self._snapshot.step

    def snapshot(self) -> Snapshot:
        return self._snapshot

    def described(self, snapshot: Snapshot) -> Snapshot:
        return snapshot


@pytest.mark.parametrize("codec", ["lossless", "balanced"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_run_that_goes_on_from_a_restored_state_writes_a_delta_to_it(
    tmp_path: Path, at: int, codec: str
) -> None:
    states = walk(5)
    run(tmp_path, states[:3], codec=codec)
    before = load_all(tmp_path)
    checkpointer = toy_checkpointer(tmp_path, codec=codec)
    checkpointer.adopt(ToySource(before[f"cp-000{at}"]))
    save(checkpointer, states[3], "more-1", codec="lossless")
    save(checkpointer, states[4], "more-2", codec="lossless")
    first, second = list_checkpoints(tmp_path)[-2:]
    assert (first.kind, first.parent) == ("delta", str(tmp_path / f"cp-000{at}"))
    assert (second.kind, second.parent) == ("delta", first.path)
    found = load_all(tmp_path)
    assert all(same(found[name], before[name]) for name in before)
    assert same(found["more-1"], states[3])
    assert same(found["more-2"], states[4])


@pytest.mark.parametrize(
    "source",
    [
        ToySource(walk(2, seed=1)[1]),
        ToySource(walk(2)[1], step=7),
        ToySource(walk(2, rows=5)[1]),
        ToySource(walk(2)[1] | {"weights/1": np.zeros(4, np.float32)}),
    ],
    ids=["other weights", "other step", "other shapes", "one weight"],
)
def test_a_run_that_goes_on_from_anything_else_writes_a_base(
    tmp_path: Path, source: ToySource
) -> None:
    run(tmp_path, walk(2))
    checkpointer = toy_checkpointer(tmp_path)
    checkpointer.adopt(source)
    state = dict(source.snapshot().arrays)
    save(checkpointer, state, "more")
    assert kinds(tmp_path)["more"] == "base"
    assert same(restored(tmp_path, "more"), state)


def test_only_a_checkpoint_of_this_run_is_adopted(tmp_path: Path) -> None:
    states = walk(3)
    run(tmp_path, states[:2])
    checkpointer = toy_checkpointer(tmp_path, owns=lambda name: name.startswith("other"))
    checkpointer.adopt(ToySource(states[1]))
    save(checkpointer, states[2], "more")
    assert kinds(tmp_path)["more"] == "base"


def test_a_damaged_checkpoint_or_none_at_all_is_not_adopted(tmp_path: Path) -> None:
    states = walk(3)
    checkpointer = toy_checkpointer(tmp_path / "none")
    checkpointer.adopt(ToySource(states[1]))
    save(checkpointer, states[2], "more")
    assert kinds(tmp_path / "none") == {"more": "base"}
    run(tmp_path, states[:2])
    path = tmp_path / "cp-0002.lcd"
    path.write_bytes(path.read_bytes()[:-40] + bytes(40))
    checkpointer = toy_checkpointer(tmp_path)
    checkpointer.adopt(ToySource(states[1]))
    save(checkpointer, states[2], "more")
    assert kinds(tmp_path)["more"] == "base"
    assert same(restored(tmp_path, "more"), states[2])


def test_the_chain_that_was_adopted_counts_towards_the_next_base(tmp_path: Path) -> None:
    states = walk(5)
    run(tmp_path, states[:2], keyframe_every=3)
    checkpointer = toy_checkpointer(tmp_path, keyframe_every=3)
    checkpointer.adopt(ToySource(states[1]))
    for state in states[2:]:
        save(checkpointer, state, f"more-{int(state['optimizer/0'])}")
    assert list(kinds(tmp_path).values()) == ["base", "delta", "delta", "base", "delta"]


@pytest.mark.parametrize("codec", ["balanced", "lc", Balanced(tolerance=0.3), {"*": "balanced"}])
def test_one_save_may_be_exact_in_the_middle_of_a_lossy_chain(tmp_path: Path, codec: Any) -> None:
    states = walk(6, rows=40)
    checkpointer = toy_checkpointer(tmp_path, codec=codec)
    seen = {}
    for i, state in enumerate(states):
        save(checkpointer, state, f"cp-{i}", codec="lossless" if i == 3 else None)
        seen[f"cp-{i}"] = {
            name: array.copy() for name, array in restored(tmp_path, f"cp-{i}").items()
        }
    assert list(kinds(tmp_path).values()) == ["base", *["delta"] * 5]
    assert same(seen["cp-0"], states[0])
    assert same(seen["cp-3"], states[3])
    assert not same(seen["cp-4"], states[4])
    found = load_all(tmp_path)
    for i, state in enumerate(states):
        assert same(found[f"cp-{i}"], seen[f"cp-{i}"])
        for name in ("weights/2", "seeds/0", "optimizer/0"):
            assert np.array_equal(seen[f"cp-{i}"][name], state[name])
        assert np.abs(seen[f"cp-{i}"]["weights/0"] - state["weights/0"]).max() < 0.5


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


def test_the_directory_is_made_at_the_first_save(tmp_path: Path) -> None:
    checkpointer = toy_checkpointer(tmp_path / "a b" / "ü")
    assert not (tmp_path / "a b").exists()
    save(checkpointer, walk(1)[0], "x y")
    assert same(restored(tmp_path / "a b" / "ü", "x y"), walk(1)[0])


def test_logs_are_stored_as_numbers_finite_or_not(tmp_path: Path) -> None:
    logs = {"loss": np.float32(0.5), "nan": np.nan, "inf": -np.inf, "text": "abc", "n": 3}
    save(toy_checkpointer(tmp_path), walk(1)[0], "a", epoch=2, batch=7, logs=logs)
    (info,) = list_checkpoints(tmp_path)
    assert (info.epoch, info.batch, info.step) == (2, 7, 1)
    assert np.isnan(info.logs.pop("nan"))
    assert info.logs == {"loss": 0.5, "inf": -np.inf, "n": 3.0}


@pytest.mark.parametrize(
    "options",
    [
        {"codec": "zip"},
        {"codec": {"*": "zip"}},
        {"codec": 5},
        {"keyframe_every": 0},
        {"keyframe_every": 1.5},
        {"max_to_keep": 0},
        {"max_to_keep": "2"},
        {"on_error": "ignore"},
    ],
    ids=str,
)
def test_an_option_that_is_not_understood_is_refused_at_once(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(OptionError):
        toy_checkpointer(tmp_path, **options)


def test_clocks_that_go_back_do_not_change_the_order(tmp_path: Path) -> None:
    states = walk(3)
    run(tmp_path, states)
    for i, name in enumerate(("cp-0001.weights.h5", "cp-0002.lcd", "cp-0003.lcd")):
        os.utime(tmp_path / name, ns=(10**9 * (9 - i), 10**9 * (9 - i)))
    assert latest_checkpoint(tmp_path) == str(tmp_path / "cp-0003")


def test_leftovers_of_a_killed_run_are_cleared_by_the_next_run(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    leftover = tmp_path / f".keras_lc-{dead.pid}@{platform.node()}-cp-0001.weights.h5"
    leftover.write_bytes(b"half")
    assert list_checkpoints(tmp_path) == []
    run(tmp_path, walk(1))
    assert not leftover.exists()


Finder = Callable[[Path], object]


@pytest.mark.parametrize("find", [list_checkpoints, latest_checkpoint])
def test_reading_changes_nothing_on_disk(tmp_path: Path, find: Finder) -> None:
    run(tmp_path, walk(3))
    (tmp_path / "checkpoint.json").unlink()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    find(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_max_to_keep_does_not_count_the_checkpoints_of_another_run(tmp_path: Path) -> None:
    states = walk(4)
    run(tmp_path, states)
    other = toy_checkpointer(
        tmp_path, max_to_keep=1, keyframe_every=1, owns=lambda name: name.startswith("best")
    )
    for i, state in enumerate(states):
        save(other, state, f"best-{i}")
    assert sorted(kinds(tmp_path)) == ["best-3", "cp-0001", "cp-0002", "cp-0003", "cp-0004"]
