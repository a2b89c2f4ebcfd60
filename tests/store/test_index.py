from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lc.errors import CheckpointError, StoreError
from keras_lc.listing import list_checkpoints
from keras_lc.loader import latest_checkpoint, load_named
from keras_lc.store import index, record
from tests.toy import (
    HEADER,
    as_record,
    copied,
    file_names,
    load_all,
    memory_growth,
    run,
    same,
    save,
    sealed,
    toy_checkpointer,
    walk,
    warned,
)

STATES = walk(3)
NAMES = ["cp-0001", "cp-0002", "cp-0003"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("index") / "training"
    run(directory, STATES)
    return directory


@pytest.fixture
def directory(trained: Path, tmp_path: Path) -> Path:
    return copied(trained, tmp_path / "training")


def holds(directory: Path, states: list[dict[str, np.ndarray]]) -> bool:
    found = load_all(directory)
    return list(found) == NAMES and all(map(same, found.values(), states))


def test_the_index_is_not_needed(directory: Path) -> None:
    listed = list_checkpoints(directory)
    (directory / index.INDEX).unlink()
    assert list_checkpoints(directory) == listed
    assert holds(directory, STATES)
    assert not (directory / index.INDEX).exists()


def test_with_the_index_no_header_is_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = list_checkpoints(directory)
    monkeypatch.setattr(record, "read_frame", lambda file: pytest.fail("a header was read"))
    assert list_checkpoints(directory) == listed


def test_an_index_with_any_byte_changed_or_cut_off_changes_nothing(directory: Path) -> None:
    listed = list_checkpoints(directory)
    path = directory / index.INDEX
    whole = path.read_bytes()
    rng = np.random.default_rng(3)
    bits = rng.integers(0, 8, len(whole))
    damaged = [
        whole[:n] + bytes([whole[n] ^ 1 << bits[n]]) + whole[n + 1 :] for n in range(len(whole))
    ]
    damaged += [whole[:n] for n in range(0, len(whole), 9)]
    for i, data in enumerate(damaged):
        path.write_bytes(data)
        assert list_checkpoints(directory) == listed
        if i % 50 == 0:
            assert holds(directory, STATES)


def test_an_index_of_another_directory_changes_nothing(directory: Path, tmp_path: Path) -> None:
    run(tmp_path / "other", walk(3, seed=7))
    listed = list_checkpoints(directory)
    shutil.copy2(tmp_path / "other" / index.INDEX, directory / index.INDEX)
    assert list_checkpoints(directory) == listed
    assert holds(directory, STATES)
    assert holds(tmp_path / "other", walk(3, seed=7))


def test_an_index_from_before_changes_nothing(directory: Path) -> None:
    earlier = (directory / index.INDEX).read_bytes()
    new = walk(4, seed=9)
    run(directory, new)
    listed = list_checkpoints(directory)
    (directory / index.INDEX).write_bytes(earlier)
    assert list_checkpoints(directory) == listed
    found = load_all(directory)
    assert all(map(same, found.values(), new))


def test_an_index_that_is_a_directory_or_of_nonsense_changes_nothing(directory: Path) -> None:
    listed = list_checkpoints(directory)
    path = directory / index.INDEX
    for data in (b"", b"[]", b"{}", b"null", b"\xff", b"[" * 200_000, b"9" * 5000):
        path.write_bytes(data)
        assert list_checkpoints(directory) == listed
    path.unlink()
    path.mkdir()
    assert list_checkpoints(directory) == listed


ROW_FIELDS: list[dict[str, Any]] = [
    {"header": []},
    {"header": None},
    {"header": {}},
    {"header": {"serial": "x"}},
    {"header": HEADER | {"epoch": "x"}},
    {"header": HEADER | {"logs": {"loss": []}}},
    {"digest": 5},
    {"digest": []},
    {"file": "../cp-0001.weights.h5"},
    {"file": 5},
    {"file": []},
    {"nbytes": "x"},
    {"more": 1},
]


@pytest.mark.parametrize("fields", ROW_FIELDS, ids=str)
def test_an_index_of_wrong_types_under_a_valid_checksum_is_no_error(
    directory: Path, fields: dict[str, Any]
) -> None:
    listed = list_checkpoints(directory)
    path = directory / index.INDEX
    rows = json.loads(path.read_bytes())["checkpoints"]
    rows[-1] |= fields
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({"sha256": digest, "checkpoints": rows}))
    assert len(list_checkpoints(directory)) == 3
    assert list_checkpoints(directory)[:2] == listed[:2]
    try:
        found = load_named(directory / "cp-0003").decoder.reconstruction
    except CheckpointError:
        pass
    else:
        assert same(found, STATES[-1])


@pytest.mark.parametrize("rows", [{}, {"a": 1}, "ab", [[]], [None], [5], 5, None], ids=str)
def test_an_index_whose_rows_are_none_is_no_error(directory: Path, rows: Any) -> None:
    listed = list_checkpoints(directory)
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    (directory / index.INDEX).write_text(json.dumps({"sha256": digest, "checkpoints": rows}))
    assert list_checkpoints(directory) == listed


def test_a_directory_can_be_moved_and_copied(directory: Path, tmp_path: Path) -> None:
    expected = [(info.kind, info.epoch, info.step) for info in list_checkpoints(directory)]
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy, copy_function=shutil.copyfile)
    moved = directory.rename(tmp_path / "moved")
    for place in (copy, moved):
        assert holds(place, STATES)
        infos = list_checkpoints(place)
        assert [(info.kind, info.epoch, info.step) for info in infos] == expected
        assert [info.path for info in infos] == [str(place / name) for name in NAMES]
        assert infos[2].parent == str(place / "cp-0002")


def test_a_checkpoint_file_can_be_renamed(directory: Path) -> None:
    (directory / "cp-0001.weights.h5").rename(directory / "first.weights.h5")
    (directory / "cp-0002.lcd").rename(directory / "a b.lcd")
    found = load_all(directory)
    assert list(found) == ["first", "a b", "cp-0003"]
    assert all(map(same, found.values(), STATES))
    assert list_checkpoints(directory)[1].parent == str(directory / "first")


def test_files_of_other_programs_are_ignored_and_never_touched(tmp_path: Path) -> None:
    others = {
        "keras.weights.h5": b"\x89HDF\r\n\x1a\n" + bytes(600),
        "notes.txt": b"text",
        "model.keras": b"PK",
        "empty.weights.h5": b"",
        ".hidden": b"x",
        "cp-0001.txt": b"x",
        "checkpoint": b"tensorflow's own",
    }
    for name, data in others.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "sub.weights.h5.d").mkdir()
    assert list_checkpoints(tmp_path) == []
    assert latest_checkpoint(tmp_path) is None
    run(tmp_path, walk(5), keyframe_every=2, max_to_keep=1)
    assert [info.path for info in list_checkpoints(tmp_path)] == [str(tmp_path / "cp-0005")]
    for name, data in others.items():
        assert (tmp_path / name).read_bytes() == data


def test_files_of_another_program_under_a_name_to_be_written_are_replaced_like_any_file(
    tmp_path: Path,
) -> None:
    (tmp_path / "cp-0001.weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600))
    run(tmp_path, STATES)
    assert holds(tmp_path, STATES)


def test_a_file_system_with_coarse_times_does_not_mislead_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new file of the same name, size and time must not be taken for the old one."""
    replace = os.replace

    def coarse(source: Path, target: Path) -> None:
        os.utime(source, ns=(0, 0))
        replace(source, target)

    monkeypatch.setattr(os, "replace", coarse)
    checkpointer = toy_checkpointer(tmp_path)
    for i, state in enumerate(walk(5)):
        save(checkpointer, state, "best", epoch=i + 1)
        assert same(load_named(tmp_path / "best").decoder.reconstruction, state)
        assert list_checkpoints(tmp_path)[-1].epoch == i + 1
    run(tmp_path, STATES)
    new = walk(3, seed=4)
    run(tmp_path, new)
    for name, state in zip(NAMES, new, strict=True):
        assert same(load_named(tmp_path / name).decoder.reconstruction, state)


def put(directory: Path, header: Any, name: str = "x.lcd", payload: bytes = b"") -> None:
    (directory / name).write_bytes(as_record(header, payload))


WRONG: list[tuple[str, Any]] = [
    (field, value)
    for field in HEADER
    if field not in ("name", "kind")
    for value in (None, "x", [], {}, 1.5, [[1]])
    if not isinstance(value, type(HEADER[field]))
]
WRONG += [("logs", {"loss": value}) for value in ([], {}, None, "x", "", 10**400, -(10**400))]
WRONG += [("saved_at", value) for value in ("", "x", "2025-13-01", "9" * 100, "\0")]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda value: repr(value)[:30])
def test_a_header_field_of_the_wrong_kind_makes_the_file_damaged_and_no_other(
    directory: Path, field: str, value: Any
) -> None:
    put(directory, HEADER | {field: value})
    assert [info.path for info in list_checkpoints(directory)] == [
        str(directory / name) for name in NAMES
    ]
    with pytest.raises(CheckpointError, match=r"x\.lcd"):
        load_named(directory / "x")
    with pytest.warns(UserWarning, match=r"x\.lcd") as warnings:
        assert latest_checkpoint(directory) == str(directory / "cp-0003")
    assert len(warnings) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"serial": 2**63},
        {"serial": -(2**63)},
        {"serial": 10**4200},
        {"epoch": 10**4200},
        {"parent": 5},
        {"parent": []},
        {"parent": ""},
        {"parent": "../cp-0001"},
        {"parent": "0" * 64},
        {"name": "../../etc/passwd"},
        {"name": "/etc/passwd"},
        {"name": None},
        {"kind": "base"},
        {"kind": 5},
        {"file": "../x"},
        {"digest": "0" * 64},
        {"more": {"deep": [[[[[]]]]]}},
    ],
    ids=lambda value: repr(value)[:40],
)
@pytest.mark.parametrize("name", ["x.lcd", "x.weights.h5"])
def test_hostile_headers_take_no_memory_and_spoil_nothing_else(
    directory: Path, fields: dict[str, Any], name: str
) -> None:
    put(directory, HEADER | fields, name)

    def attempt() -> None:
        assert set(NAMES) <= {Path(info.path).name for info in list_checkpoints(directory)}
        with pytest.raises(CheckpointError):
            load_named(directory / "x")

    assert memory_growth(attempt) < 64 << 20
    for place, state in zip(NAMES, STATES, strict=True):
        assert same(load_named(directory / place).decoder.reconstruction, state)
    assert file_names(directory.parent) == {directory.name}


def test_a_save_beside_a_file_of_the_highest_number_is_the_newest(directory: Path) -> None:
    put(directory, HEADER | {"serial": 2**63})
    state = walk(1, seed=8)[0]
    save(toy_checkpointer(directory), state, "next")
    assert list_checkpoints(directory)[-1].path == str(directory / "next")


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_ring_of_parents_is_an_error_and_takes_no_memory(directory: Path, length: int) -> None:
    digests = [format(i, "064x") for i in range(length)]
    for i, digest in enumerate(digests):
        body = as_record(HEADER | {"parent": digests[i - 1], "serial": 10 + i}, b"")[:-32]
        (directory / f"ring-{i}.lcd").write_bytes(body + bytes.fromhex(digest))

    def attempt() -> None:
        assert len(list_checkpoints(directory)) == 3 + length
        for i in range(length):
            with pytest.raises(CheckpointError):
                load_named(directory / f"ring-{i}")
        with pytest.warns(UserWarning, match="ring-0"):
            assert latest_checkpoint(directory) == str(directory / "cp-0003")

    assert memory_growth(attempt) < 64 << 20
    save(toy_checkpointer(directory, max_to_keep=1), STATES[0], "next")
    assert same(load_named(directory / "next").decoder.reconstruction, STATES[0])


def test_a_delta_whose_record_is_deep_json_is_damaged(directory: Path) -> None:
    body = as_record({}, b"")[:-64]
    deep = b"[" * 300_000
    lengths = body[8:12] + len(deep).to_bytes(4, "little") + body[16:24]
    body = body[:8] + lengths + zlib.crc32(lengths + deep).to_bytes(4, "little") + deep
    (directory / "x.lcd").write_bytes(sealed(body))
    assert len(list_checkpoints(directory)) == 3


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from([2**63, 10**400, "0" * 64, "nan", "2025-01-01"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from([*HEADER, "parent"]), ANY, max_size=3))
@settings(deadline=None, max_examples=150)
def test_no_header_brings_anything_but_a_checkpoint_error(
    shared: Path, fields: dict[str, Any]
) -> None:
    put(shared, HEADER | fields)
    try:
        for info in list_checkpoints(shared):
            assert isinstance(info.epoch, int)
            assert all(isinstance(value, float) for value in info.logs.values())
        with warned():
            assert latest_checkpoint(shared) == str(shared / "cp-0001")
    except CheckpointError:
        pytest.fail("the other checkpoint is intact")
    with pytest.raises(CheckpointError):
        load_named(shared / "x")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("headers")
    run(directory, STATES[:1])
    return directory


def test_a_directory_under_the_name_of_a_checkpoint_is_named_as_damaged(directory: Path) -> None:
    (directory / "cp-0009.lcd").mkdir()
    (directory / "cp-0008.weights.h5").mkdir()
    assert len(list_checkpoints(directory)) == 3
    with pytest.warns(UserWarning, match=r"cp-0009\.lcd"):
        assert latest_checkpoint(directory) == str(directory / "cp-0003")


def test_a_file_where_a_directory_is_expected_is_a_store_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    for find in (list_checkpoints, latest_checkpoint):
        with pytest.raises(StoreError, match="file"):
            find(path)
        assert not find(path / "below")
        assert not find(tmp_path / "missing")


def test_an_index_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / index.INDEX).mkdir()
    run(tmp_path, STATES)
    assert holds(tmp_path, STATES)
