from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from keras_lc.errors import CheckpointError, NotFoundError, StoreError
from keras_lc.listing import list_checkpoints
from keras_lc.loader import latest_checkpoint, load_latest, load_named
from keras_lc.store import record
from keras_lc.store.index import INDEX
from keras_lc.store.locate import directory_at
from tests.toy import kinds, load_all, run, same, save, toy_checkpointer, walk

STATES = walk(3)


@pytest.fixture
def url() -> Iterator[str]:
    memory = fsspec.filesystem("memory")
    yield "memory://bucket/training"
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def stored(url: str) -> dict[str, bytes]:
    memory = fsspec.filesystem("memory")
    return {path.rpartition("/")[2]: memory.cat_file(path) for path in memory.find(url)}


def put(url: str, name: str, data: bytes) -> None:
    fsspec.filesystem("memory").pipe_file(f"{url}/{name}", data)


def test_checkpoints_behind_a_url_are_listed_and_restored_as_from_a_disk(url: str) -> None:
    run(url, STATES)
    assert set(stored(url)) == {"cp-0001.weights.h5", "cp-0002.lcd", "cp-0003.lcd", INDEX}
    infos = list_checkpoints(url)
    assert [info.path for info in infos] == [f"{url}/cp-000{i}" for i in (1, 2, 3)]
    assert [info.parent for info in infos] == [None, f"{url}/cp-0001", f"{url}/cp-0002"]
    assert latest_checkpoint(url + "/") == f"{url}/cp-0003"
    for name, state in zip(("cp-0001", "cp-0002.lcd", "cp-0003/"), STATES, strict=True):
        assert same(load_named(f"{url}/{name}").decoder.reconstruction, state)


def test_the_files_are_those_of_a_disk(url: str, tmp_path: Any) -> None:
    run(tmp_path, STATES)
    for path in tmp_path.glob("cp-*"):
        put(url, path.name, path.read_bytes())
    assert all(map(same, load_all(url).values(), STATES))


def test_a_url_of_files_is_a_path(tmp_path: Any) -> None:
    url = f"file://{tmp_path}/training"
    run(url, STATES)
    assert same(load_named(url + "/cp-0003").decoder.reconstruction, STATES[2])
    assert latest_checkpoint(url) == str(tmp_path / "training" / "cp-0003")


def test_nothing_there_is_no_checkpoint(url: str) -> None:
    assert list_checkpoints(url) == []
    assert latest_checkpoint(url) is None
    with pytest.raises(NotFoundError, match="holds none"):
        load_named(f"{url}/cp-0001")


def test_a_file_is_no_directory_and_a_directory_no_checkpoint(url: str) -> None:
    run(url, STATES)
    with pytest.raises(StoreError, match="is a file"):
        list_checkpoints(f"{url}/cp-0002.lcd")
    with pytest.raises(NotFoundError, match="is a directory"):
        load_named(url)


def test_with_the_index_no_header_is_read_and_a_file_written_anew_is(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(url, STATES)
    listed = list_checkpoints(url)
    with monkeypatch.context() as patch:
        patch.setattr(record, "read_frame", lambda file: pytest.fail("a header was read"))
        assert list_checkpoints(url) == listed
    other = walk(1, seed=5)
    run("memory://bucket/other", other)
    put(url, "cp-0001.weights.h5", stored("memory://bucket/other")["cp-0001.weights.h5"])
    assert same(load_named(f"{url}/cp-0001").decoder.reconstruction, other[0])


def test_where_the_storage_tells_no_times_the_index_is_not_believed(url: str) -> None:
    ls = MemoryFileSystem.ls

    def bare(self: Any, path: str, **options: Any) -> list[dict[str, Any]]:
        keys = ("name", "size", "type")
        return [{key: info[key] for key in keys} for info in ls(self, path, **options)]

    with mock.patch.object(MemoryFileSystem, "ls", bare):
        run(url, STATES)
        run("memory://bucket/other", walk(1, seed=5))
        put(url, "cp-0001.weights.h5", stored("memory://bucket/other")["cp-0001.weights.h5"])
        assert same(load_named(f"{url}/cp-0001").decoder.reconstruction, walk(1, seed=5)[0])


def test_a_header_is_read_without_the_payload(url: str) -> None:
    run(url, walk(1, rows=200_000))
    put(url, INDEX, b"")
    asked = []
    cat_file = MemoryFileSystem.cat_file

    def counted(self: Any, path: str, start: int, end: int) -> bytes:
        asked.append(end - start)
        return cat_file(self, path, start=start, end=end)

    with mock.patch.object(MemoryFileSystem, "cat_file", counted):
        assert len(list_checkpoints(url)) == 1
    assert len(asked) <= 2
    assert sum(asked) <= 1 << 17


def test_names_saved_again_prune_and_share_as_on_a_disk(url: str) -> None:
    old, new = walk(4), walk(4, seed=6)
    run(url, old)
    checkpointer = toy_checkpointer(url)
    for count, state in enumerate(new[:3], start=1):
        save(checkpointer, state, f"cp-000{count}")
        found = load_all(url)
        assert all(same(found[f"cp-000{i + 1}"], new[i] if i < count else old[i]) for i in range(4))
    run(url, walk(5, seed=9), "more-", keyframe_every=2, max_to_keep=1)
    assert list(kinds(url)) == ["more-0005"]
    assert set(stored(url)) == {"more-0005.weights.h5", INDEX}


def test_an_altered_file_is_passed_over(url: str) -> None:
    run(url, STATES)
    data = bytearray(stored(url)["cp-0003.lcd"])
    data[-50] ^= 1
    put(url, "cp-0003.lcd", bytes(data))
    with pytest.warns(UserWarning, match=r"cp-0003\.lcd"):
        assert latest_checkpoint(url) == f"{url}/cp-0002"


REQUESTS = ("ls", "isfile", "makedirs", "put_file", "cp_file", "rm_file", "info", "cat_file")


class OutageError(Exception):
    """An error that is none of Python's own, as the packages of some protocols raise."""


def failing(at: int, once: bool) -> tuple[mock._patch_dict | Any, list[int]]:
    """Requests fail from number `at` on; the list holds how many there were."""
    asked = [0]
    patches = mock.patch.multiple(
        MemoryFileSystem,
        **{name: _fails(getattr(MemoryFileSystem, name), asked, at, once) for name in REQUESTS},
    )
    return patches, asked


def _fails(
    function: Callable[..., Any], asked: list[int], at: int, once: bool
) -> Callable[..., Any]:
    def ask(*arguments: Any, **options: Any) -> Any:
        asked[0] += 1
        if asked[0] == at or (0 < at < asked[0] and not once):
            raise OutageError("no answer")
        return function(*arguments, **options)

    return ask


@pytest.mark.filterwarnings("ignore:.*nothing is deleted")
@pytest.mark.parametrize("once", [True, False], ids=["once", "for good"])
@pytest.mark.parametrize("again", [True, False], ids=["names again", "new names"])
def test_a_connection_that_fails_at_any_request_costs_only_that_save(
    url: str, again: bool, once: bool
) -> None:
    memory = fsspec.filesystem("memory")
    prefix = "cp-" if again else "more-"
    states = walk(2, seed=3)

    def attempt(at: int) -> tuple[int, bool]:
        memory.store.clear()
        run(url, STATES)
        checkpointer, failed = toy_checkpointer(url), False
        patches, asked = failing(at, once)
        with patches:
            try:
                save(checkpointer, states[0], prefix + "0001")
            except StoreError:
                failed = True
        save(checkpointer, states[1], prefix + "0002")
        return asked[0], failed

    for at in range(1, attempt(0)[0] + 1):
        _, failed = attempt(at)
        found = load_all(url)
        if not failed:
            assert same(found[prefix + "0001"], states[0])
        assert same(found[prefix + "0002"], states[1])
        assert same(found["cp-0003"], STATES[2])
        latest = load_latest(url)
        assert latest is not None
        assert latest.info.path == f"{url}/{prefix}0002"


def test_reading_over_a_connection_that_fails_is_a_checkpoint_error(url: str) -> None:
    run(url, STATES)
    for at in range(1, 30):
        patches, asked = failing(at, once=False)
        with patches:
            try:
                load_named(f"{url}/cp-0003")
            except CheckpointError:
                continue
        assert asked[0] < at
        return
    pytest.fail("more requests than expected")


def test_a_temporary_file_that_cannot_be_written_is_a_store_error_that_says_where(
    url: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(StoreError, match="TMPDIR"):
        save(toy_checkpointer(url), STATES[0], "cp-0001")
    assert not stored(url)


def test_without_fsspec_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(CheckpointError, match=r"keras-lc\[remote\]"):
        list_checkpoints("memory://x/training")


@pytest.mark.parametrize("url", ["nosuch://x/training", "s3-x://y"])
def test_an_unknown_protocol_is_a_store_error(url: str) -> None:
    with pytest.raises(StoreError, match=url):
        directory_at(url)
