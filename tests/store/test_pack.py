from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import fsspec
import numpy as np
import pytest

import keras_lc
from keras_lc.errors import (
    CheckpointError,
    DamagedError,
    FormatError,
    LockedError,
    NotFoundError,
    StoreError,
)
from keras_lc.listing import list_checkpoints
from keras_lc.loader import latest_checkpoint, load_named
from keras_lc.report.integrity import verify
from keras_lc.store import files, index, record
from keras_lc.store.index import INDEX
from keras_lc.store.locate import directory_at
from keras_lc.store.pack import pack
from tests.disk import disk
from tests.store.test_lock import holder
from tests.toy import (
    HEADER,
    ToySource,
    as_record,
    copied,
    file_names,
    halves,
    kinds,
    load_all,
    memory_growth,
    run,
    same,
    save,
    snapshot,
    temporaries,
    toy_checkpointer,
    walk,
    warned,
)

STATES = walk(9)
NAMES = [f"cp-000{i}" for i in range(1, 7)]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bases with two deltas each, packed."""
    directory = tmp_path_factory.mktemp("pack") / "training"
    run(directory, STATES[:6], keyframe_every=3)
    pack(directory)
    return directory


@pytest.fixture
def directory(packed: Path, tmp_path: Path) -> Path:
    return copied(packed, tmp_path / "training")


def holds(directory: Path, names: list[str] = NAMES) -> bool:
    found = load_all(directory)
    return list(found) == names and all(
        same(found[name], STATES[int(name[-1]) - 1]) for name in names
    )


def at(directory: Path, name: str) -> dict[str, np.ndarray]:
    return dict(load_named(directory / name).decoder.reconstruction)


def place(directory: Path, name: str) -> index.Stored:
    stored = index.scan(directory_at(directory)).stored
    return next(one for one in stored if one.name == name)


def test_the_deltas_of_each_base_become_one_file(tmp_path: Path) -> None:
    run(tmp_path, STATES[:6], keyframe_every=3)
    before = list_checkpoints(tmp_path)
    records = [(tmp_path / f"{name}.lcd").read_bytes() for name in ("cp-0002", "cp-0003")]
    assert pack(tmp_path) == [str(tmp_path / "cp-0001.lcp"), str(tmp_path / "cp-0004.lcp")]
    assert file_names(tmp_path) == {
        "cp-0001.weights.h5", "cp-0001.lcp", "cp-0004.weights.h5", "cp-0004.lcp", INDEX,
    }  # fmt: skip
    assert (tmp_path / "cp-0001.lcp").read_bytes() == b"".join(records)
    assert list_checkpoints(tmp_path) == before
    assert holds(tmp_path)
    assert same(at(tmp_path, "cp-0003.lcd"), STATES[2])
    assert latest_checkpoint(tmp_path) == str(tmp_path / "cp-0006")
    assert verify(tmp_path).ok
    assert verify(tmp_path).checked == 6


def test_packing_what_is_packed_changes_nothing(directory: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert pack(directory) == []
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == before


def test_the_index_is_not_needed_and_with_it_no_header_is_read(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = list_checkpoints(directory)
    with monkeypatch.context() as patch:
        patch.setattr(record, "read_frame", lambda file: pytest.fail("a header was read"))
        assert list_checkpoints(directory) == listed
    (directory / INDEX).unlink()
    assert list_checkpoints(directory) == listed
    assert holds(directory)


def test_a_run_goes_on_from_a_pack_and_packing_again_adds_to_it(directory: Path) -> None:
    checkpointer = toy_checkpointer(directory)
    checkpointer.adopt(ToySource(STATES[5]))
    save(checkpointer, STATES[6], "cp-0007")
    names = [*NAMES, "cp-0007"]
    assert kinds(directory)["cp-0007"] == "delta"
    assert list_checkpoints(directory)[-1].parent == str(directory / "cp-0006")
    assert holds(directory, names)
    assert pack(directory) == [str(directory / "cp-0004.lcp")]
    assert not (directory / "cp-0007.lcd").exists()
    assert holds(directory, names)
    save(checkpointer, STATES[7], "cp-0008")  # its last delta has moved
    assert kinds(directory)["cp-0008"] == "delta"
    assert holds(directory, [*names, "cp-0008"])


def test_packing_after_each_save_is_possible_within_the_run(tmp_path: Path) -> None:
    checkpointer = toy_checkpointer(tmp_path, background=True, on_saved=lambda info: pack(tmp_path))
    for i, state in enumerate(STATES[:6]):
        save(checkpointer, state, NAMES[i])
    assert holds(tmp_path)
    assert list(kinds(tmp_path).values()) == ["base"] + 5 * ["delta"]
    assert len(file_names(tmp_path)) == 3


def test_a_branch_and_a_chain_without_its_base(directory: Path) -> None:
    checkpointer = toy_checkpointer(directory)
    checkpointer.adopt(ToySource(STATES[4]))
    save(checkpointer, STATES[8], "branch")
    pack(directory)
    assert same(at(directory, "branch"), STATES[8])
    (directory / "cp-0001.weights.h5").unlink()
    assert set(verify(directory).damaged) == {"cp-0001.lcp"}
    assert same(at(directory, "branch"), STATES[8])


def test_deltas_without_their_base_are_left_as_they_are(tmp_path: Path) -> None:
    run(tmp_path, STATES[:3])
    (tmp_path / "cp-0001.weights.h5").unlink()
    assert pack(tmp_path) == []
    assert {"cp-0002.lcd", "cp-0003.lcd"} <= file_names(tmp_path)


def test_a_renamed_delta_keeps_its_name(tmp_path: Path) -> None:
    run(tmp_path, STATES[:3])
    (tmp_path / "cp-0002.lcd").rename(tmp_path / "second.lcd")
    pack(tmp_path)
    assert list(load_all(tmp_path)) == ["cp-0001", "second", "cp-0003"]


def test_a_damaged_delta_stays_and_the_others_are_packed(tmp_path: Path) -> None:
    run(tmp_path, STATES[:3])
    path = tmp_path / "cp-0002.lcd"
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    pack(tmp_path)
    assert {"cp-0002.lcd", "cp-0001.lcp"} <= file_names(tmp_path)
    assert path.read_bytes() == data
    assert set(verify(tmp_path).damaged) == {"cp-0002.lcd", "cp-0001.lcp"}


@pytest.mark.parametrize("indexed", [True, False])
def test_damage_in_a_pack_hides_neither_what_is_before_nor_what_is_behind(
    tmp_path: Path, indexed: bool
) -> None:
    run(tmp_path, STATES[:2])
    for at_name, name in (("cp-0001", "a"), ("cp-0001", "b"), ("cp-0002", "c")):
        checkpointer = toy_checkpointer(tmp_path)
        checkpointer.adopt(ToySource(STATES[int(at_name[-1]) - 1]))
        save(checkpointer, STATES[5], name)
    pack(tmp_path)  # cp-0002, a, b and c, of which only c builds on another
    if not indexed:
        (tmp_path / INDEX).unlink()
    path, damaged = tmp_path / "cp-0001.lcp", place(tmp_path, "a")
    whole, time = path.read_bytes(), path.stat()
    rng = np.random.default_rng(0)
    places = [*range(30), *rng.integers(30, damaged.nbytes, 60), damaged.nbytes - 1]
    for n in (damaged.offset + int(n) for n in places):
        path.write_bytes(whole[:n] + bytes([whole[n] ^ 1 << rng.integers(8)]) + whole[n + 1 :])
        if indexed:  # as when a disk decays
            os.utime(path, ns=(time.st_atime_ns, time.st_mtime_ns))
        for name, state in (("cp-0002", 1), ("b", 5), ("c", 5)):
            assert same(at(tmp_path, name), STATES[state]), n
        with pytest.raises((DamagedError, FormatError), match=r"cp-0001\.lcp"):
            at(tmp_path, "a")
        assert set(verify(tmp_path).damaged) == {"cp-0001.lcp"}
        assert "c:" not in str(verify(tmp_path))
        with warned() as texts:
            assert latest_checkpoint(tmp_path) == str(tmp_path / "c")
        assert len(texts) <= 1
    path.write_bytes(whole)
    assert verify(tmp_path).ok


def test_no_truncation_of_a_pack_costs_what_is_before_it(directory: Path) -> None:
    path, second = directory / "cp-0001.lcp", place(directory, "cp-0003")
    whole = path.read_bytes()
    for n in range(0, len(whole), 7):
        path.write_bytes(whole[:n])
        if n >= second.offset:
            assert same(at(directory, "cp-0002"), STATES[1])
        with pytest.raises(CheckpointError):
            at(directory, "cp-0003")
        if n != second.offset:  # else it is a pack of fewer
            assert "cp-0001.lcp" in verify(directory).damaged
        assert same(at(directory, "cp-0006"), STATES[5])


def test_a_damaged_pack_is_not_written_anew(directory: Path) -> None:
    path = directory / "cp-0004.lcp"
    data = path.read_bytes()[:-1]
    path.write_bytes(data)
    checkpointer = toy_checkpointer(directory)
    checkpointer.adopt(ToySource(STATES[4]))
    save(checkpointer, STATES[6], "cp-0007")
    with pytest.raises(DamagedError, match=r"cp-0004\.lcp"):
        pack(directory)
    assert path.read_bytes() == data
    assert same(at(directory, "cp-0007"), STATES[6])
    run(directory, STATES[:2], "new-", max_to_keep=1, keyframe_every=1)
    assert path.read_bytes() == data
    assert "cp-0004.lcp" in verify(directory).damaged  # with an index written meanwhile


def test_max_to_keep_takes_out_of_a_pack_what_no_kept_one_needs(directory: Path) -> None:
    checkpointer = toy_checkpointer(directory, max_to_keep=3)
    checkpointer.adopt(ToySource(STATES[5]))
    save(checkpointer, STATES[6], "cp-0007")  # all but the second chain may go
    assert list(load_all(directory)) == ["cp-0004", "cp-0005", "cp-0006", "cp-0007"]
    assert not (directory / "cp-0001.lcp").exists()
    checkpointer = toy_checkpointer(directory, max_to_keep=2)
    checkpointer.adopt(ToySource(STATES[4]))
    save(checkpointer, STATES[7], "cp-0008")  # on cp-0005
    save(checkpointer, STATES[8], "cp-0009")
    assert list(load_all(directory)) == ["cp-0004", "cp-0005", "cp-0008", "cp-0009"]
    assert verify(directory).ok
    assert len((directory / "cp-0004.lcp").read_bytes()) == place(directory, "cp-0005").nbytes


def test_a_name_saved_again_leaves_the_rest_of_the_pack_intact(directory: Path) -> None:
    new = walk(6, seed=6)
    checkpointer = toy_checkpointer(directory)
    for count, state in enumerate(new, start=1):
        save(checkpointer, state, NAMES[count - 1], count)
        found = load_all(directory)
        for i, name in enumerate(NAMES):
            assert same(found[name], new[i] if i < count else STATES[i])
        assert verify(directory).ok
    assert list(kinds(directory).values()) == ["base"] + 5 * ["delta"]
    pack(directory)
    assert file_names(directory) == {"cp-0001.weights.h5", "cp-0001.lcp", INDEX}
    assert all(map(same, load_all(directory).values(), new))


def test_a_name_in_the_middle_of_a_pack_saved_again_leaves_what_builds_on_the_old(
    tmp_path: Path,
) -> None:
    run(tmp_path, STATES[:5])
    pack(tmp_path)
    save(toy_checkpointer(tmp_path), STATES[8], "cp-0003")
    found = load_all(tmp_path)
    assert same(found.pop("cp-0003"), STATES[8])
    assert all(same(arrays, STATES[int(name[-1]) - 1]) for name, arrays in found.items())
    assert len(found) == 4
    assert verify(tmp_path).ok


def test_an_old_chain_and_a_new_one_of_the_same_names_are_packed_apart(directory: Path) -> None:
    new = walk(2, seed=6)
    run(directory, new)
    pack(directory)
    found = load_all(directory)
    assert same(found["cp-0002"], new[1])
    assert all(same(found[f"cp-000{i}"], STATES[i - 1]) for i in (3, 4, 5, 6))
    assert verify(directory).ok


def test_files_left_beside_their_pack_are_counted_once_and_go_with_the_next(
    tmp_path: Path,
) -> None:
    run(tmp_path, STATES[:6], keyframe_every=3)
    before = list_checkpoints(tmp_path)
    killed = mock.patch.object(files, "remove", side_effect=StoreError("killed"))
    with killed, pytest.raises(StoreError, match="killed"):
        pack(tmp_path)
    (lock,) = temporaries(tmp_path)
    (tmp_path / lock).unlink()
    assert {"cp-0001.lcp", "cp-0002.lcd", "cp-0003.lcd"} <= file_names(tmp_path)
    (tmp_path / "cp-0002.lcd").unlink()
    assert list_checkpoints(tmp_path) == before
    assert holds(tmp_path)
    report = verify(tmp_path)
    assert (report.ok, report.checked) == (True, 6)
    save(toy_checkpointer(tmp_path), STATES[6], "cp-0007")
    (tmp_path / "cp-0003.lcd").unlink()  # what is in the pack is not forgotten
    assert holds(tmp_path, [*NAMES, "cp-0007"])
    pack(tmp_path)
    assert holds(tmp_path, [*NAMES, "cp-0007"])
    assert not list(tmp_path.glob("*.lcd"))


def scene(directory: Path) -> None:
    """A pack, and later deltas beside it."""
    checkpointer = run(directory, STATES[:3])
    pack(directory)
    save(checkpointer, STATES[3], "cp-0004")
    save(checkpointer, STATES[4], "cp-0005")


PACKED = {f"cp-000{i}": STATES[i - 1] for i in range(1, 6)}


@pytest.mark.parametrize("once", [True, False], ids=["once", "for good"])
def test_a_disk_that_fails_at_any_request_of_packing_loses_nothing(
    tmp_path: Path, once: bool
) -> None:
    scene(tmp_path / "whole")
    with disk() as whole:
        pack(tmp_path / "whole")
    assert whole.asked > 10
    for n in range(1, whole.asked + 1):
        directory = tmp_path / str(n)
        with disk():
            scene(directory)
        with disk(n, once=once), suppress(StoreError):
            pack(directory)
        assert not halves(directory), n
        assert all(map(same, load_all(directory).values(), PACKED.values())), n
        assert list(load_all(directory)) == list(PACKED)
        pack(directory)
        assert verify(directory).ok
        assert file_names(directory) == {"cp-0001.weights.h5", "cp-0001.lcp", INDEX}
        assert all(map(same, load_all(directory).values(), PACKED.values()))


def kill_each(directories: list[str]) -> None:
    """In a directory called n, a process that dies at the n-th request of packing."""
    for directory in directories:
        child = os.fork()
        if not child:
            with disk():
                scene(Path(directory))
            with disk(int(Path(directory).name), lambda: os._exit(9)):
                pack(directory)
            os._exit(0)
        os.waitpid(child, 0)


def test_a_process_killed_at_any_request_of_packing_loses_nothing(tmp_path: Path) -> None:
    scene(tmp_path / "whole")
    with disk() as whole:
        pack(tmp_path / "whole")
    directories = [tmp_path / str(n) for n in range(1, whole.asked + 2)]
    subprocess.run(
        [sys.executable, "-m", "tests.store.test_pack", *map(str, directories)],
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert file_names(directories[-1]) == {"cp-0001.weights.h5", "cp-0001.lcp", INDEX}
    for directory in directories:
        assert list(load_all(directory)) == list(PACKED)
        assert all(map(same, load_all(directory).values(), PACKED.values())), directory
        assert verify(directory).ok
        with disk():
            save(toy_checkpointer(directory), STATES[8], "next")
        assert not temporaries(directory)
        pack(directory)
        assert all(map(same, load_all(directory).values(), [*PACKED.values(), STATES[8]]))


def test_no_other_process_packs_while_one_saves(tmp_path: Path) -> None:
    run(tmp_path, STATES[:3])
    with holder(tmp_path), pytest.raises(LockedError):
        pack(tmp_path)
    assert (tmp_path / "cp-0003.lcd").exists()


def test_a_live_run_of_the_same_process_keeps_its_lock(tmp_path: Path) -> None:
    run(tmp_path, STATES[:2])
    checkpointer = toy_checkpointer(tmp_path)
    checkpointer.save(snapshot(STATES[2]), "cp-0003", 1)
    checkpointer.wait()
    pack(tmp_path)
    assert temporaries(tmp_path)
    checkpointer.close()
    assert not temporaries(tmp_path)


def test_a_missing_directory_is_an_error_and_an_empty_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="missing"):
        keras_lc.pack(tmp_path / "missing")
    assert keras_lc.pack(tmp_path) == []
    assert not file_names(tmp_path)


def put(directory: Path, *headers: dict[str, Any]) -> None:
    data = b"".join(as_record(HEADER | header, b"") for header in headers)
    (directory / "x.lcp").write_bytes(data)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "../cp-0001"},
        {"name": "/etc/passwd"},
        {"name": ".hidden"},
        {"name": ""},
        {"name": "a\0b"},
        {"name": 5},
        {"name": None},
        {"serial": "x"},
        {"epoch": None},
    ],
    ids=str,
)
def test_a_hostile_record_in_a_pack_spoils_nothing_else(
    directory: Path, fields: dict[str, Any]
) -> None:
    put(directory, {"name": "before"}, fields, {"name": "behind"})
    with warned():
        names = {Path(info.path).name for info in list_checkpoints(directory)}
    assert names == {*NAMES, "before", "behind"}
    assert "x.lcp" in verify(directory).damaged
    for i, name in enumerate(NAMES):
        assert same(at(directory, name), STATES[i])
    save(toy_checkpointer(directory), STATES[7], "next")
    assert same(at(directory, "next"), STATES[7])
    assert file_names(directory.parent) == {directory.name}


@pytest.mark.parametrize(
    "data",
    [b"", b"x", record.MAGIC, record.MAGIC * 1000, bytes(10_000_000), b"\xff" * 100],
    ids=lambda data: repr(data[:9]),
)
def test_a_file_of_another_content_is_damaged_and_takes_no_memory(
    directory: Path, data: bytes
) -> None:
    (directory / "x.lcp").write_bytes(data)

    def attempt() -> None:
        assert len(list_checkpoints(directory)) == 6
        with pytest.raises(DamagedError, match=r"x\.lcp"):
            at(directory, "x")

    assert memory_growth(attempt) < 64 << 20
    assert verify(directory).damaged.keys() == {"x.lcp"}


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 5},
        {"offset": -1},
        {"offset": "x"},
        {"offset": 2**80},
        {"offset": 0.5},
        {"nbytes": 2**62},
        {"nbytes": -1},
        {"file": 5},
        {"header": HEADER | {"name": "../x"}},
        {"header": {key: HEADER[key] for key in HEADER if key != "name"}},
    ],
    ids=str,
)
def test_a_forged_row_of_the_index_is_no_more_than_an_error(
    directory: Path, change: dict[str, Any]
) -> None:
    rows = json.loads((directory / INDEX).read_text())["checkpoints"]
    assert rows[1]["file"] == "cp-0001.lcp"
    rows[1] |= change
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    (directory / INDEX).write_text(json.dumps({"sha256": digest, "checkpoints": rows}))
    list_checkpoints(directory)
    assert same(at(directory, "cp-0006"), STATES[5])
    try:
        found = at(directory, "cp-0002")
    except CheckpointError:
        pass
    else:
        assert same(found, STATES[1])


@pytest.fixture
def url() -> Iterator[str]:
    yield "memory://packed/training"
    fsspec.filesystem("memory").store.clear()


def test_a_directory_behind_a_url(url: str) -> None:
    checkpointer = run(url, STATES[:3])
    assert pack(url) == [f"{url}/cp-0001.lcp"]
    save(checkpointer, STATES[3], "cp-0004")
    assert [info.kind for info in list_checkpoints(url)] == ["base"] + 3 * ["delta"]
    assert all(map(same, load_all(url).values(), STATES))
    assert verify(url).ok
    pack(url)
    assert len(fsspec.filesystem("memory").find(url)) == 3
    run(url, STATES[4:6], "new-", max_to_keep=1)
    assert list(kinds(url)) == ["new-0001", "new-0002"]
    with pytest.raises(NotFoundError):
        pack("memory://packed/nothing")


if __name__ == "__main__":
    kill_each(sys.argv[1:])
