from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_lc.capture import Snapshot
from keras_lc.core.presets import Balanced
from keras_lc.errors import DamagedError, OptionError
from keras_lc.listing import list_checkpoints
from keras_lc.loader import latest_checkpoint
from tests.toy import (
    LAYOUT,
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
)


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
