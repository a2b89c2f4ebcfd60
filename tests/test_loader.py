from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_lc.errors import (
    CheckpointError,
    DamagedError,
    NotFoundError,
    OptionError,
    StoreError,
)
from keras_lc.listing import list_checkpoints
from keras_lc.loader import Loaded, latest_checkpoint, load_latest, load_named
from keras_lc.restoring import restore, restore_latest
from keras_lc.store.index import INDEX
from tests.toy import run, same, save, toy_checkpointer, walk, warned

STATES = walk(3)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    run(tmp_path / "training", STATES)
    return tmp_path / "training"


def rewrite(path: Path, data: bytes, keep_time: bool) -> None:
    """New contents; with the time kept, as when a disk decays, the index still counts."""
    stat = path.stat()
    path.write_bytes(data)
    if keep_time:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def right_or_refused(directory: Path, name: str, number: int) -> bool:
    """Whether a checkpoint is refused; what is not refused must be right in every bit."""
    try:
        found = load_named(directory / name)
    except CheckpointError:
        return True
    assert same(found.decoder.reconstruction, STATES[number])
    return False


def test_a_state_is_read_as_arrays(directory: Path, tmp_path: Path) -> None:
    restored = restore(directory / "cp-0002", as_numpy=True)
    assert (restored.step, restored.epoch) == (2, 2)
    assert same(restored.model, STATES[1])
    assert not next(iter(restored.model.values())).flags.writeable
    newest = restore_latest(directory, as_numpy=True)
    assert newest is not None
    assert same(newest.model, STATES[2])
    assert restore_latest(tmp_path / "none", as_numpy=True) is None


def test_a_list_is_oldest_first_and_says_what_was_saved(directory: Path) -> None:
    infos = list_checkpoints(directory)
    assert [info.path for info in infos] == [str(directory / f"cp-000{i}") for i in (1, 2, 3)]
    assert [info.kind for info in infos] == ["base", "delta", "delta"]
    assert [info.parent for info in infos] == [None, infos[0].path, infos[1].path]
    assert [info.step for info in infos] == [1, 2, 3]
    assert [info.epoch for info in infos] == [1, 2, 3]
    for info in infos:
        suffix = ".weights.h5" if info.kind == "base" else ".lcd"
        assert info.nbytes == os.path.getsize(info.path + suffix)
        assert info.saved_at.utcoffset() is not None
    assert list_checkpoints(str(directory)) == infos


@pytest.mark.parametrize(("number", "keep_time"), [(1, True), (2, False)])
def test_no_flipped_byte_of_a_delta_restores_a_wrong_array(
    directory: Path, number: int, keep_time: bool
) -> None:
    path = directory / f"cp-000{number + 1}.lcd"
    whole = path.read_bytes()
    bits = np.random.default_rng(number).integers(0, 8, len(whole))
    for n in range(len(whole)):
        rewrite(path, whole[:n] + bytes([whole[n] ^ 1 << bits[n]]) + whole[n + 1 :], keep_time)
        assert right_or_refused(directory, f"cp-000{number + 1}", number)
        assert len(list_checkpoints(directory)) in (2, 3)
    rewrite(path, whole, keep_time)
    assert not right_or_refused(directory, "cp-0003", 2)


def test_no_truncation_of_a_delta_restores_a_wrong_array(directory: Path) -> None:
    path = directory / "cp-0002.lcd"
    whole = path.read_bytes()
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        assert right_or_refused(directory, "cp-0002", 1)
        assert right_or_refused(directory, "cp-0003", 2)
    assert not right_or_refused(directory, "cp-0001", 0)


def test_bytes_behind_a_record_do_no_harm(directory: Path) -> None:
    path = directory / "cp-0003.lcd"
    path.write_bytes(path.read_bytes() + b"more")
    assert not right_or_refused(directory, "cp-0003", 2)


def falls_back(directory: Path, damaged: str, expected: str) -> None:
    with warned() as warnings:
        assert latest_checkpoint(directory) == str(directory / expected)
    assert len(warnings) == 1, warnings
    assert damaged in warnings[0]


@pytest.mark.parametrize("indexed", [True, False])
def test_a_newest_delta_with_any_byte_flipped_is_passed_over_with_one_warning_that_names_it(
    directory: Path, indexed: bool
) -> None:
    path = directory / "cp-0003.lcd"
    whole = path.read_bytes()
    bits = np.random.default_rng(1).integers(0, 8, len(whole))
    if not indexed:
        (directory / INDEX).unlink()
    faults = []
    for n in range(len(whole)):
        rewrite(path, whole[:n] + bytes([whole[n] ^ 1 << bits[n]]) + whole[n + 1 :], indexed)
        try:
            falls_back(directory, "cp-0003.lcd", "cp-0002")
        except (AssertionError, CheckpointError) as error:
            faults.append((n, whole[max(0, n - 12) : n + 12], bits[n], str(error)[:80]))
    assert not faults, faults


@pytest.mark.parametrize("indexed", [True, False])
def test_a_newest_delta_cut_off_anywhere_is_passed_over_with_one_warning_that_names_it(
    directory: Path, indexed: bool
) -> None:
    path = directory / "cp-0003.lcd"
    whole = path.read_bytes()
    if not indexed:
        (directory / INDEX).unlink()
    for n in range(0, len(whole) - 1, 2):
        rewrite(path, whole[: n + indexed], indexed)
        falls_back(directory, "cp-0003.lcd", "cp-0002")


def test_a_newest_delta_whose_number_has_decayed_is_not_passed_over_in_silence(
    directory: Path,
) -> None:
    path = directory / "cp-0003.lcd"
    whole = path.read_bytes()
    assert whole.count(b'"serial":3') == 1
    (directory / INDEX).unlink()
    path.write_bytes(whole.replace(b'"serial":3', b'"serial":1'))
    falls_back(directory, "cp-0003.lcd", "cp-0002")


def test_a_damaged_newest_base_is_passed_over_with_one_warning_that_names_it(
    tmp_path: Path,
) -> None:
    run(tmp_path, STATES, keyframe_every=2)
    path = tmp_path / "cp-0003.weights.h5"
    whole = path.read_bytes()
    rng = np.random.default_rng(2)
    for keep_time in (True, False):
        # behind the magic, without which it is a file of another program
        damaged = [whole[:n] for n in rng.integers(8, len(whole), 50)]
        for n in [*range(8, 28), *rng.integers(8, len(whole), 100)]:
            damaged += [whole[:n] + bytes([whole[n] ^ 1 << rng.integers(8)]) + whole[n + 1 :]]
        for data in damaged:
            rewrite(path, data, keep_time)
            falls_back(tmp_path, "cp-0003.weights.h5", "cp-0002")


def test_damage_in_the_middle_is_named_and_what_came_before_is_taken(directory: Path) -> None:
    path = directory / "cp-0002.lcd"
    whole = path.read_bytes()
    (directory / INDEX).unlink()
    for n in (len(whole) - 40, len(whole) - 1, 300, 9):
        path.write_bytes(whole[:n] + bytes([whole[n] ^ 4]) + whole[n + 1 :])
        falls_back(directory, "cp-0002.lcd", "cp-0001")


def test_damage_to_an_older_checkpoint_that_nothing_needs_is_not_warned_of(
    tmp_path: Path,
) -> None:
    run(tmp_path, STATES, keyframe_every=2)
    path = tmp_path / "cp-0002.lcd"
    data = path.read_bytes()
    path.write_bytes(data[:-40] + b"\0" + data[-39:])
    assert latest_checkpoint(tmp_path) == str(tmp_path / "cp-0003")


def test_when_nothing_is_intact_that_is_an_error_which_names_the_damage(directory: Path) -> None:
    path = directory / "cp-0001.weights.h5"
    path.write_bytes(path.read_bytes()[:-1])
    for find in (latest_checkpoint, load_latest):
        with pytest.raises(DamagedError) as caught:
            find(directory)
        for name in ("cp-0001.weights.h5", "cp-0002.lcd"):
            assert name in str(caught.value)


def test_an_empty_or_missing_directory_has_no_latest_checkpoint(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", tmp_path / "a" / "b"):
        assert latest_checkpoint(path) is None
        assert load_latest(path) is None
        assert list_checkpoints(path) == []


@pytest.mark.parametrize("suffix", ["", ".weights.h5", ".keras", ".h5", ".ckpt", ".lcd"])
def test_a_checkpoint_is_named_with_or_without_a_suffix(directory: Path, suffix: str) -> None:
    for convert in (str, Path):
        loaded = load_named(convert(str(directory / "cp-0002") + suffix))
        assert same(loaded.decoder.reconstruction, STATES[1])
        assert loaded.info.path == str(directory / "cp-0002")


@pytest.mark.parametrize(
    ("word", "number"),
    [("latest", 3), ("best", 2), ("best:score", 3), ("epoch:1", 1), ("step:2", 2)],
)
def test_a_checkpoint_is_named_by_what_it_is(tmp_path: Path, word: str, number: int) -> None:
    checkpointer = toy_checkpointer(tmp_path)
    for i, loss in enumerate((2.0, 1.0, 3.0)):
        save(checkpointer, STATES[i], f"cp-000{i + 1}", i + 1, logs={"loss": loss, "score": loss})
    restored = restore(tmp_path / word, as_numpy=True)
    assert (restored.path, restored.epoch) == (str(tmp_path / f"cp-000{number}"), number)
    assert same(restored.model, STATES[number - 1])


def test_a_name_comes_before_a_word_and_the_start_of_a_name_is_none(tmp_path: Path) -> None:
    checkpointer = toy_checkpointer(tmp_path)
    for state, name in zip(STATES, ("latest", "cp-0001-b000020", "cp-0002"), strict=True):
        save(checkpointer, state, name, epoch=3)
    assert same(load_named(tmp_path / "latest").decoder.reconstruction, STATES[0])
    with pytest.raises(NotFoundError, match="no checkpoint 'cp-0001' in"):
        load_named(tmp_path / "cp-0001")
    with pytest.raises(NotFoundError, match=r"of epoch 9 in .*near: latest \(epoch 3\), "):
        load_named(tmp_path / "epoch:9")
    with pytest.raises(OptionError, match="expected a whole number"):
        load_named(tmp_path / "step:last")


def test_an_unknown_name_lists_near_ones(directory: Path) -> None:
    with pytest.raises(NotFoundError, match=r"'cp-0009'.* has 3, among them .*cp-000"):
        load_named(directory / "cp-0009")
    with pytest.raises(NotFoundError, match="cp-0001, cp-0002, cp-0003"):
        load_named(directory / "zzz")
    with pytest.raises(NotFoundError, match="holds none"):
        load_named(directory / "missing" / "cp-0001")
    with pytest.raises(FileNotFoundError):
        load_named(directory / "cp-0009")


def test_a_directory_in_place_of_a_name_is_explained(directory: Path) -> None:
    with pytest.raises(NotFoundError, match="is a directory"):
        load_named(directory)
    with pytest.raises(StoreError, match="is a file"):
        load_named(directory / "cp-0001.weights.h5" / "cp-0001")


@pytest.mark.parametrize("name", ["a b c", "Prüfung-№1", "训练", "{x}[y]*", "it's", "x.y.z"])
def test_paths_may_hold_spaces_and_any_letters(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name / name
    run(directory, STATES, prefix=name + " ")
    assert latest_checkpoint(directory) == str(directory / f"{name} 0003")
    assert same(load_named(directory / f"{name} 0003").decoder.reconstruction, STATES[2])


def test_a_relative_directory_gives_relative_paths(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory)
    assert latest_checkpoint("") == "cp-0003" or latest_checkpoint(".") == "./cp-0003"
    assert same(load_named("cp-0002").decoder.reconstruction, STATES[1])
    monkeypatch.chdir(directory.parent)
    assert latest_checkpoint("training") == os.path.join("training", "cp-0003")


@pytest.mark.parametrize("find", [list_checkpoints, latest_checkpoint, load_latest])
def test_a_file_is_no_directory(tmp_path: Path, find: Callable[[Path], Loaded]) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is a file"):
        find(tmp_path / "file")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_a_directory_that_may_not_be_read_is_a_store_error(directory: Path) -> None:
    directory.chmod(0)
    try:
        for find in (list_checkpoints, latest_checkpoint):
            with pytest.raises(StoreError):
                find(directory)
    finally:
        directory.chmod(0o755)


def test_a_checkpoint_deleted_while_it_is_read_is_damaged_not_a_crash(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras_lc.store import chain

    ancestry = chain.ancestry

    def racing(*arguments: Any, **options: Any) -> Any:
        found = ancestry(*arguments, **options)
        (directory / "cp-0003.lcd").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(chain, "ancestry", racing)
    falls_back_to = str(directory / "cp-0002")
    with pytest.warns(UserWarning, match=r"cp-0003\.lcd"):
        assert latest_checkpoint(directory) == falls_back_to
