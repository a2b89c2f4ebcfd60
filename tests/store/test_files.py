from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from keras_lc.errors import StoreError
from keras_lc.store import files
from tests.disk import disk
from tests.toy import file_names

HOST = platform.node()


def test_a_file_takes_its_name_only_when_all_of_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "cp"
    with files.write_once(path) as file:
        file.write(b"new")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert file_names(tmp_path) == {"cp"}


def test_an_earlier_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "cp"
    path.write_bytes(b"old")
    with files.write_once(path) as file:
        file.write(b"new and longer")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new and longer"


def test_the_file_is_synced_before_its_name_and_the_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cp"
    seen = []

    def fsync(handle: int) -> None:
        is_directory = os.path.sameopenfile(handle, directory)
        seen.append("directory" if is_directory else f"file of {os.fstat(handle).st_size}")

    replace = os.replace
    directory = os.open(tmp_path, os.O_RDONLY)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append("rename"), replace(a, b)))
    with files.write_once(path) as file:
        file.write(b"123")
    os.close(directory)
    assert seen == ["file of 3", "rename", "directory"]


@pytest.mark.parametrize("error", [ValueError, OSError, RuntimeError, KeyboardInterrupt])
def test_when_writing_fails_the_earlier_file_is_intact_and_nothing_temporary_stays(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "cp"
    path.write_bytes(b"old")
    expected = StoreError if error is OSError else error

    def write() -> None:
        with files.write_once(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(expected):
        write()
    assert path.read_bytes() == b"old"
    assert file_names(tmp_path) == {"cp"}


@pytest.mark.parametrize("once", [True, False])
def test_a_disk_that_fails_at_any_request_leaves_the_old_file_or_the_new(
    tmp_path: Path, once: bool
) -> None:
    path = tmp_path / "cp"

    def write(data: bytes) -> None:
        with files.write_once(path) as file:
            file.write(data[:2])
            file.write(data[2:])

    with disk() as counted:
        write(b"old")
    for n in range(1, counted.asked + 1):
        write(b"old")
        failed = False
        with disk(n, once=once):
            try:
                write(b"newer")
            except StoreError:
                failed = True
        assert path.read_bytes() == (b"old" if failed else b"newer")
        assert file_names(tmp_path) == {"cp"}


def test_a_reader_sees_a_whole_file_at_any_time(tmp_path: Path) -> None:
    path = tmp_path / "cp"
    sizes = {byte: 1000 * (byte + 1) for byte in range(5)}
    with files.write_once(path) as file:
        file.write(bytes([0]) * sizes[0])
    done = threading.Event()
    torn: list[bytes] = []

    def read() -> None:
        while not done.is_set():
            data = path.read_bytes()
            if not data or data != data[:1] * sizes[data[0]]:
                torn.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(100):
        with files.write_once(path) as file:
            for _ in range(10):
                file.write(bytes([i % 5]) * (sizes[i % 5] // 10))
                file.flush()
    done.set()
    reader.join()
    assert not torn


def test_temporary_files_of_dead_processes_are_removed_and_others_not(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    live = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    kept = {
        f".keras_lc-{live.pid}@{HOST}-cp.lcd",
        f".keras_lc-{os.getpid()}@{HOST}-cp.lcd",
        f".keras_lc-{dead.pid}@elsewhere-cp.lcd",
        ".keras_lc-notes",
        ".keras_lc-",
        "cp.lcd",
        ".other",
    }
    for name in {f".keras_lc-{dead.pid}@{HOST}-cp.lcd", *kept}:
        (tmp_path / name).write_bytes(b"half")
    files.remove_leftovers(tmp_path)
    live.communicate(b"\n")
    assert file_names(tmp_path) == kept


@pytest.mark.parametrize("owner", ["²", "9" * 30, "9" * 200, "-1", "0", "1e3", "٣"])
def test_an_odd_name_like_a_temporary_one_is_no_error(tmp_path: Path, owner: str) -> None:
    (tmp_path / f".keras_lc-{owner}@{HOST}-cp").touch()
    files.remove_leftovers(tmp_path)


def test_leftovers_are_not_looked_for_in_directories_below(tmp_path: Path) -> None:
    below = tmp_path / f".keras_lc-999999@{HOST}-directory"
    below.mkdir()
    files.remove_leftovers(tmp_path)
    assert below.is_dir()


def test_keeping_a_file_under_another_name_survives_the_loss_of_the_first(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"content")
    files.keep_as(one, other)
    files.keep_as(one, other)
    with files.write_once(one) as file:
        file.write(b"new")
    assert other.read_bytes() == b"content"


def test_without_links_the_other_name_is_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"content")
    files.keep_as(one, other)
    assert other.read_bytes() == b"content"


def test_a_copy_that_failed_half_way_is_not_taken_for_the_file_later(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"content")
    with disk(1), pytest.raises(StoreError):
        files.keep_as(one, other)
    assert not other.exists()
    files.keep_as(one, other)
    assert other.read_bytes() == b"content"


def test_removing_what_is_gone_is_fine_and_what_cannot_be_is_a_store_error(tmp_path: Path) -> None:
    files.remove(tmp_path / "gone")
    (tmp_path / "directory").mkdir()
    with pytest.raises(StoreError, match="directory"):
        files.remove(tmp_path / "directory")


def test_a_file_in_the_way_of_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "file" / "a" / "b"):
        with pytest.raises(StoreError, match="file"):
            files.make_directory(path)


def test_writing_into_a_directory_that_is_gone_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="gone"), files.write_once(tmp_path / "gone" / "cp"):
        pass


def test_a_temporary_file_that_nobody_has_written_for_a_day_is_removed(tmp_path: Path) -> None:
    young, old = (tmp_path / f".keras_lc-1@elsewhere-{name}.lcd" for name in ("a", "b"))
    for path in (young, old):
        path.touch()
    os.utime(old, (time.time() - 90_000,) * 2)
    files.remove_leftovers(tmp_path)
    assert file_names(tmp_path) == {young.name}
