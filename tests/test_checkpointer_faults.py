"""A save that a disk or a kill disturbs costs that save alone."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from unittest import mock

import pytest

from keras_lc import workers
from keras_lc.errors import CheckpointError, DamagedError, StoreError
from keras_lc.loader import latest_checkpoint, load_latest
from keras_lc.store import files, index
from tests.disk import disk
from tests.scenes import SCENES, Scene, check, check_others, counted
from tests.toy import (
    halves,
    load_all,
    restored,
    run,
    same,
    save,
    settled,
    temporaries,
    toy_checkpointer,
    walk,
    warned,
)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of small saves, each as when nothing is handed over to threads."""
    monkeypatch.setattr(workers, "THREADS", 1)


def fail(scene: Scene, directory: Path, n: int, once: bool) -> None:
    """A save whose request number `n` fails, or all from that one on."""
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


@pytest.mark.parametrize("title", SCENES)
def test_a_disk_that_fails_at_any_request_costs_only_that_save(tmp_path: Path, title: str) -> None:
    scene = SCENES[title]
    requests = counted(scene, tmp_path / "whole")
    assert requests >= 5
    first = list(SCENES).index(title)  # what fails once in a scene fails for good in the next
    for n in scene.moments(requests):
        fail(scene, tmp_path / str(n), n, once=(first + n) % 2 == 0)


@pytest.mark.slow
@pytest.mark.parametrize("once", [True, False], ids=["once", "for good"])
@pytest.mark.parametrize("title", SCENES)
def test_a_disk_that_fails_at_any_request_once_or_for_good_costs_only_that_save(
    tmp_path: Path, title: str, once: bool
) -> None:
    scene = SCENES[title]
    for n in range(1, counted(scene, tmp_path / "whole") + 1):
        fail(scene, tmp_path / str(n), n, once)


@pytest.mark.parametrize("title", [title for title in SCENES if "shortcut" in title])
def test_scenes_with_shortcuts_have_them(tmp_path: Path, title: str) -> None:
    checkpointer = SCENES[title].prepare(tmp_path)
    before = set(tmp_path.glob("*.lcs"))
    SCENES[title].save(checkpointer)
    written = set(tmp_path.glob("*.lcs")) - before
    assert len(written) == title.startswith("shortcut")
    assert written or before


@pytest.mark.parametrize("title", SCENES)
def test_a_process_killed_at_every_other_request_costs_only_that_save(
    tmp_path: Path, title: str
) -> None:
    scene = SCENES[title]
    first = list(SCENES).index(title) % 2
    moments = scene.moments(counted(scene, tmp_path / "whole"))
    kill(title, tmp_path, [*moments[first::2], moments[-1] + 1])


@pytest.mark.slow
@pytest.mark.parametrize("title", SCENES)
def test_a_process_killed_at_any_request_costs_only_that_save(tmp_path: Path, title: str) -> None:
    kill(title, tmp_path, range(1, counted(SCENES[title], tmp_path / "whole") + 2))


def kill(title: str, tmp_path: Path, moments: Iterable[int]) -> None:
    """A save that dies at each of these requests; at the last one it is over."""
    scene = SCENES[title]
    directories = [tmp_path / str(n) for n in moments]
    root = Path(__file__).parents[1]
    subprocess.run(
        [sys.executable, "-m", "tests.scenes", title, *map(str, directories)], check=True, cwd=root
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


def test_a_disk_that_refuses_from_some_request_on_costs_only_the_saves_until_it_is_back(
    tmp_path: Path,
) -> None:
    def refuse() -> None:
        raise OSError(code, os.strerror(code))

    codes = cycle([errno.EACCES, errno.EROFS, errno.EIO, errno.ESTALE])
    states = walk(8)
    with disk() as whole:
        run(tmp_path / "whole", states[:4])
    for n, code in zip(range(1, whole.asked + 1, 3), codes, strict=False):
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
