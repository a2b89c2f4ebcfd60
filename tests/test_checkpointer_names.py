"""Several runs in a directory, and names that come again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lc.errors import CheckpointError
from keras_lc.listing import list_checkpoints
from tests.disk import disk
from tests.toy import (
    State,
    file_names,
    kinds,
    load_all,
    restored,
    run,
    same,
    save,
    settled,
    toy_checkpointer,
    walk,
)


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


def test_max_to_keep_does_not_count_the_checkpoints_of_another_run(tmp_path: Path) -> None:
    states = walk(4)
    run(tmp_path, states)
    other = toy_checkpointer(
        tmp_path, max_to_keep=1, keyframe_every=1, owns=lambda name: name.startswith("best")
    )
    for i, state in enumerate(states):
        save(other, state, f"best-{i}")
    assert sorted(kinds(tmp_path)) == ["best-3", "cp-0001", "cp-0002", "cp-0003", "cp-0004"]
