"""A shortcut that is damaged or forged is gone around, or refused."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_lc import latest_checkpoint, verify
from keras_lc.errors import CheckpointError
from keras_lc.listing import open_directory
from keras_lc.loader import load_named
from keras_lc.store import index, record
from keras_lc.store.locate import directory_at
from tests.toy import (
    State,
    as_record,
    copied,
    memory_growth,
    run,
    same,
    save,
    toy_checkpointer,
    walk,
    warned,
)

STATES = walk(7)
OTHERS = walk(3, seed=5)
NAMES = [f"cp-{i:04d}" for i in range(1, 7)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shortcut to the fifth of six checkpoints, and two checkpoints of another run."""
    directory = tmp_path_factory.mktemp("shortcuts") / "training"
    run(directory, STATES[:6], short=4)
    run(directory, OTHERS[:2], prefix="other-")
    return directory


@pytest.fixture
def directory(trained: Path, tmp_path: Path) -> Path:
    return copied(trained, tmp_path / "training")


@pytest.fixture
def bare(directory: Path) -> Path:
    """What the shortcut passes is gone."""
    for name in NAMES[1:5]:
        (directory / f"{name}{index.DELTA}").unlink()
    return directory


def shortcut(directory: Path) -> Path:
    return next(directory.glob(f"*{index.SHORTCUT}"))


def expected(name: str) -> State:
    return STATES[int(name[-4:]) - 1] if name in NAMES else OTHERS[int(name[-4:]) - 1]


def right_or_refused(directory: Path, name: str) -> bool:
    """Whether a checkpoint is refused; what is not refused must be right in every bit."""
    try:
        found = load_named(directory / name)
    except CheckpointError:
        return True
    assert same(found.decoder.reconstruction, expected(name))
    return False


def damages(whole: bytes, indexed: bool) -> list[bytes]:
    """Bytes altered, all of the first ones; lengths cut off, which no index outlasts."""
    bits = np.random.default_rng(7).integers(0, 8, len(whole))
    places = [*range(40), *range(40, len(whole), 11)]
    flipped = [whole[:n] + bytes([whole[n] ^ 1 << bits[n]]) + whole[n + 1 :] for n in places]
    return flipped if indexed else flipped + [whole[:n] for n in places]


def rewrite(path: Path, data: bytes) -> None:
    """New contents under the old time, as when a disk decays; the index still counts if the
    length is the same."""
    stat = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("indexed", [True, False])
def test_any_damage_is_told_and_gone_around(directory: Path, indexed: bool) -> None:
    path = shortcut(directory)
    if not indexed:
        (directory / index.INDEX).unlink()
    whole = path.read_bytes()
    for n, data in enumerate(damages(whole, indexed)):
        rewrite(path, data)
        assert not right_or_refused(directory, NAMES[5]), n
        if n % 40 == 0:
            assert not right_or_refused(directory, NAMES[4]), n
            assert set(verify(directory).damaged) == {path.name}, n
    rewrite(path, whole)
    assert verify(directory).ok


@pytest.mark.parametrize("indexed", [True, False])
def test_any_damage_to_the_only_way_is_refused(bare: Path, indexed: bool) -> None:
    path = shortcut(bare)
    if not indexed:
        (bare / index.INDEX).unlink()
    assert not right_or_refused(bare, NAMES[5])
    whole = path.read_bytes()
    for n, data in enumerate(damages(whole, indexed)):
        rewrite(path, data)
        assert right_or_refused(bare, NAMES[5]), n
        if n % 40 == 0:
            assert not right_or_refused(bare, NAMES[0]), n
            assert set(verify(bare).damaged) == {path.name, f"{NAMES[5]}{index.DELTA}"}, n
    rewrite(path, whole)
    assert verify(bare).ok


def forge(path: Path, target: Path | None = None, **fields: Any) -> None:
    """Other fields in the header of a record, under a valid digest; a text such as "digest of
    cp-0001" is replaced by what it says."""
    stored = open_directory(directory_at(path.parent)).stored
    digests = {f"digest of {one.name}": one.digest for one in stored}
    told = {
        key: digests.get(value, value) if isinstance(value, str) else value
        for key, value in fields.items()
    }
    data = path.read_bytes()
    with open(path, "rb") as file:
        frame = record.read_frame(file)
    assert frame is not None
    payload = data[frame.start : frame.size]
    (target or path).write_bytes(as_record(frame.header | told, payload))


NONSENSE: list[Any] = [None, 5, 2**63, 1.5, True, [], {}, "", "x", "../x", "a\0b", "0" * 64]
BASE, END, LAST, OTHER = (f"digest of {n}" for n in (NAMES[0], NAMES[4], NAMES[5], "other-0001"))
DELTAS = [f"digest of {name}" for name in [*NAMES[1:6], "other-0002"]]
LIES: list[dict[str, Any]] = [
    *({key: value} for key in ("of", "parent") for value in NONSENSE),
    *({"of": value} for value in [BASE, OTHER, *DELTAS] if value != END),
    *({"parent": value} for value in [OTHER, *DELTAS]),
    {"of": BASE, "serial": 1},
    {"of": OTHER, "parent": OTHER, "serial": 7},
    {"of": LAST, "parent": LAST},
    {"of": BASE, "parent": LAST},
    {"serial": 2**63},
    {"serial": None},
    {"name": "../../x", "kind": "base", "file": "/etc/passwd", "codec": []},
]


def survives(directory: Path, intact: list[str]) -> None:
    """Nothing is restored wrong, what is intact is restored, and saving goes on."""
    for name in [*NAMES, "other-0001", "other-0002"]:
        assert not right_or_refused(directory, name) or name not in intact, name
    verify(directory)
    with warned():
        assert latest_checkpoint(directory) == str(directory / "other-0002")
    checkpointer = toy_checkpointer(directory, max_to_keep=1)
    for i in (3, 4):
        save(checkpointer, OTHERS[2], f"other-000{i}")
        assert same(load_named(directory / f"other-000{i}").decoder.reconstruction, OTHERS[2])
    assert not open_directory(directory_at(directory)).shortcuts


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_beside_the_deltas_no_header_is_a_wrong_restore(
    directory: Path, lie: dict[str, Any]
) -> None:
    forge(shortcut(directory), **lie)
    every = [*NAMES, "other-0001", "other-0002"]
    assert memory_growth(lambda: survives(directory, every)) < 64 << 20


@pytest.mark.parametrize("lie", [lie for lie in LIES if lie != {"parent": OTHER}], ids=str)
def test_as_the_only_way_no_header_is_a_wrong_restore(bare: Path, lie: dict[str, Any]) -> None:
    """But for one that gives away a base of the same tensors: digests are not signatures."""
    forge(shortcut(bare), **lie)
    survives(bare, [NAMES[0], "other-0001", "other-0002"])


@pytest.mark.parametrize("gone", [True, False])
def test_rings_of_shortcuts_end(directory: Path, gone: bool) -> None:
    path = shortcut(directory)
    ends = [BASE, END, LAST, *DELTAS]
    for i, (parent, of) in enumerate(product(ends, ends)):
        forge(path, directory / f"ring-{i}{index.SHORTCUT}", parent=parent, of=of)
    if gone:
        for name in NAMES[1:5]:
            (directory / f"{name}{index.DELTA}").unlink()
    survives(directory, [NAMES[0], "other-0001", "other-0002", *([] if gone else NAMES)])


def test_one_that_leads_elsewhere_is_told(directory: Path) -> None:
    """A state that is not what the deltas lead to, under a header that is in order."""
    run(directory.parent / "other", [STATES[0], *walk(5, seed=9)[1:]], short=4)
    path, other = shortcut(directory), shortcut(directory.parent / "other")
    with open(path, "rb") as file, open(other, "rb") as wrong:
        frame, payload = record.read_frame(file), record.read_frame(wrong)
    assert frame is not None
    assert payload is not None
    data = other.read_bytes()[payload.start : payload.size]
    path.write_bytes(as_record(frame.header, data))
    assert verify(directory).damaged == {
        path.name: "it leads to another state than what it passes."
    }
