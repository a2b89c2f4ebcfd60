"""A shortcut leads from a base straight to a later checkpoint, so that those between may go."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest import mock

import pytest

from keras_lc import latest_checkpoint, list_checkpoints, pack, restore, shortcuts, verify
from keras_lc.errors import DamagedError
from keras_lc.listing import open_directory
from keras_lc.loader import load, load_named
from keras_lc.store import chain, digest, index
from keras_lc.store.locate import directory_at
from tests.toy import State, file_names, load_all, put, run, same, save, toy_checkpointer, walk

ROWS = 400  # so many that a shortcut is worth its header


@pytest.fixture(scope="module", params=["lossless", "balanced"])
def codec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def trained(codec: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[State]]:
    """A directory of 28 checkpoints, and what they decode to without shortcuts."""
    directory = tmp_path_factory.mktemp("training")
    run(directory, walk(28, rows=ROWS), codec=codec)
    place = directory_at(directory)
    contents = open_directory(place)
    contents.shortcuts.clear()
    long_way = [
        dict(load(place, contents, stored).decoder.reconstruction) for stored in contents.listed
    ]
    return directory, long_way


@pytest.fixture
def copied(trained: tuple[Path, list[State]], tmp_path: Path) -> tuple[Path, list[State]]:
    directory = tmp_path / "training"
    shutil.copytree(trained[0], directory)
    return directory, trained[1]


def shortcuts_in(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"*{index.SHORTCUT}"))


def route(directory: Path, name: str) -> list[str]:
    contents = open_directory(directory_at(directory))
    (target,) = [stored for stored in contents.listed if stored.name == name]
    return [stored.file for stored in chain.ancestry(contents, target)]


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)


def test_the_newest_is_reached_in_few_steps(trained: tuple[Path, list[State]]) -> None:
    directory, states = trained
    assert len(shortcuts_in(directory)) == 1
    assert len(route(directory, "cp-0028")) <= 2 + 8
    assert len(route(directory, "cp-0003")) == 3
    decoded = load_all(directory)
    assert len(decoded) == 28
    assert all(map(same, decoded.values(), states))
    assert verify(directory).ok


def test_of_a_large_base_the_last_has_a_shortcut_if_it_is_small(tmp_path: Path, codec: str) -> None:
    with mock.patch.object(shortcuts, "_LARGE", 0):
        run(tmp_path, states := walk(14, rows=ROWS), codec=codec)
    (direct,) = open_directory(directory_at(tmp_path)).shortcuts
    small = direct.nbytes <= shortcuts._SMALL * (tmp_path / "cp-0001.weights.h5").stat().st_size
    assert small == (codec == "balanced")
    assert len(route(tmp_path, "cp-0014")) == (2 if small else 2 + 5)
    if codec == "lossless":
        assert all(map(same, load_all(tmp_path).values(), states))
    assert verify(tmp_path).ok


def test_while_a_training_goes_on_a_large_base_has_a_small_shortcut_now_and_then(
    tmp_path: Path,
) -> None:
    states = walk(14, rows=ROWS)
    with mock.patch.object(shortcuts, "_LARGE", 0):
        running = toy_checkpointer(tmp_path, codec="balanced")
        made, lengths = set(), []
        for i, state in enumerate(states, start=1):
            put(running, state, f"cp-{i:04d}", i)
            made |= {path.name for path in shortcuts_in(tmp_path)}
            lengths.append(len(route(tmp_path, f"cp-{i:04d}")))
        assert lengths == [1, 2, 3, 4, 5, 2, 3, 4, 5, 2, 3, 4, 5, 2]
        assert len(made) == 3
        put(running, states[0], "cp-0015", 15, codec="balanced")
        running.close()
        assert len(route(tmp_path, "cp-0015")) == 2
        before = file_names(tmp_path)
        running.close()
        assert file_names(tmp_path) == before
    assert len(load_all(tmp_path)) == 15
    assert verify(tmp_path).ok


@pytest.mark.parametrize("gone", ["a delta", "all"])
def test_a_training_ends_well_where_no_shortcut_can_be_made(tmp_path: Path, gone: str) -> None:
    with mock.patch.object(shortcuts, "_LARGE", 0):
        running = toy_checkpointer(tmp_path / "training", codec="balanced")
        for i, state in enumerate(walk(4, rows=ROWS), start=1):
            put(running, state, f"cp-{i:04d}", i)
        if gone == "all":
            shutil.rmtree(tmp_path / "training")
        else:
            (tmp_path / "training" / "cp-0003.lcd").unlink()
        running.close()
    assert not shortcuts_in(tmp_path / "training")
    assert (tmp_path / "training").exists() == (gone != "all")


def test_of_a_base_only_what_a_shortcut_builds_on_is_read(tmp_path: Path) -> None:
    with mock.patch.object(digest, "BLOCK", 512):
        run(tmp_path, walk(12, rows=ROWS), codec="balanced")
        loaded, whole = (load_named(tmp_path / "cp-0012", all_) for all_ in (False, True))
        assert same(loaded.decoder.reconstruction, whole.decoder.reconstruction)
        assert whole.base.absent == set()
        assert {"optimizer/1", "optimizer/2"} <= loaded.base.absent
        assert not {"weights/0", "weights/1"} & loaded.base.absent
        base, data = tmp_path / "cp-0001.weights.h5", (tmp_path / "cp-0001.weights.h5").read_bytes()
        for name, array in whole.base.arrays.items():
            if array.nbytes > 2048:
                place = data.find(array.tobytes()) + array.nbytes // 2
                base.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
                assert set(verify(tmp_path).damaged) >= {base.name}
                if name in loaded.base.absent:
                    found = load_named(tmp_path / "cp-0012").decoder.reconstruction
                    assert same(found, whole.decoder.reconstruction)
                else:
                    with pytest.raises(DamagedError, match=base.name):
                        load_named(tmp_path / "cp-0012")


def test_what_a_shortcut_passes_is_not_needed(copied: tuple[Path, list[State]]) -> None:
    directory, states = copied
    base, _, *later = route(directory, "cp-0028")
    for path in directory.glob("*.lcd"):
        if path.name not in later:
            path.unlink()
    assert later
    decoded = load_all(directory)
    assert all(same(decoded[name], states[int(name[-4:]) - 1]) for name in decoded)
    assert len(decoded) == 1 + len(later)
    assert verify(directory).ok
    info = list_checkpoints(directory)[1]
    assert info.parent == str(directory / base.removesuffix(index.BASE))


def test_a_damaged_shortcut_is_told_and_gone_around(copied: tuple[Path, list[State]]) -> None:
    directory, states = copied
    (direct,) = shortcuts_in(directory)
    damage(direct)
    assert all(map(same, load_all(directory).values(), states))
    assert set(verify(directory).damaged) == {direct.name}
    direct.write_bytes(b"")
    with pytest.warns(UserWarning, match=direct.name):
        assert latest_checkpoint(directory) == str(directory / "cp-0028")
    assert set(verify(directory).damaged) == {direct.name}


def test_without_either_way_it_is_damaged(copied: tuple[Path, list[State]]) -> None:
    directory, _ = copied
    damage(shortcuts_in(directory)[0])
    damage(directory / "cp-0002.lcd")
    with pytest.raises(DamagedError, match=r"cp-0002\.lcd"):
        restore(directory / "cp-0028")


def test_training_goes_on_behind_a_shortcut(copied: tuple[Path, list[State]], codec: str) -> None:
    directory, states = copied
    more = walk(34, rows=ROWS)[28:]
    saving = toy_checkpointer(directory, codec=codec)
    for i, state in enumerate(more, start=29):
        save(saving, state, f"cp-{i:04d}", i)
    decoded = load_all(directory)
    assert all(map(same, list(decoded.values())[:28], states))
    assert len(decoded) == 34
    assert verify(directory).ok


@pytest.mark.parametrize("keep", [1, 3])
def test_pruning_lets_go_of_what_a_shortcut_passes(tmp_path: Path, codec: str, keep: int) -> None:
    run(tmp_path / "all", states := walk(40, rows=ROWS), codec=codec, keyframe_every=100)
    run(tmp_path / "few", states, codec=codec, keyframe_every=100, max_to_keep=keep)
    every, few = load_all(tmp_path / "all"), load_all(tmp_path / "few")
    assert all(same(few[name], every[name]) for name in few)
    assert list(every)[-keep:] == list(few)[-keep:]
    assert len(few) <= 1 + keep + 16  # a base, and deltas that a later shortcut will pass
    assert len(shortcuts_in(tmp_path / "few")) <= 2
    assert verify(tmp_path / "few").ok


def test_a_directory_with_a_shortcut_is_packed(copied: tuple[Path, list[State]]) -> None:
    directory, states = copied
    pack(directory)
    assert all(map(same, load_all(directory).values(), states))
    assert verify(directory).ok


def test_a_base_that_only_a_shortcut_needs_is_kept(tmp_path: Path, codec: str) -> None:
    """Its name goes to another file; the checkpoints behind the shortcut build on it still."""
    states = walk(24, rows=ROWS)
    earlier = run(tmp_path, states[:20], codec=codec, keyframe_every=100, max_to_keep=1)
    before = load_all(tmp_path)["cp-0020"]
    other = toy_checkpointer(tmp_path, codec=codec)
    save(other, states[21], "cp-0001")
    assert same(load_all(tmp_path)["cp-0020"], before)
    assert earlier is not other
    assert verify(tmp_path).ok
