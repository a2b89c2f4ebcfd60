"""Directories that were written once are read for good; `golden/make.py` says when to renew
them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from keras_lc import latest_checkpoint, list_checkpoints, verify
from keras_lc.listing import open_directory
from keras_lc.loader import load_named
from keras_lc.store import index, record
from keras_lc.store.locate import directory_at
from tests.store.golden import make
from tests.toy import ToySource, save, toy_checkpointer


def recorded() -> Any:
    return json.loads(make.DIGESTS.read_text())


def files(directory: Path) -> dict[str, str]:
    """Name to SHA-256."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()
    }


def committed(name: str) -> dict[str, str]:
    return {
        file.removeprefix(f"{name}/"): digest
        for file, digest in recorded()["files"].items()
        if file.startswith(f"{name}/")
    }


def renew(directory: Path) -> None:
    """An index counts for the files that it was written for; let it count for their copies."""
    path = directory / index.INDEX
    rows = json.loads(path.read_text())["checkpoints"]
    for row in rows:
        stat = (directory / row["file"]).stat()
        row["identity"] = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({"sha256": digest, "checkpoints": rows}))


@pytest.fixture(params=make.DIRECTORIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def directory(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(make.HERE / name, tmp_path / name))


def restores(directory: Path, states: dict[str, str]) -> bool:
    assert {stored.name for stored in open_directory(directory_at(directory)).stored} == set(states)
    return all(
        make.digest(load_named(directory / name).decoder.reconstruction) == digest
        for name, digest in states.items()
    )


def test_the_files_are_those_that_were_written(name: str) -> None:
    assert files(make.HERE / name) == committed(name)


@pytest.mark.parametrize("indexed", ["stale", "counts", "gone"])
def test_every_checkpoint_is_listed_intact_and_restored(
    name: str, directory: Path, indexed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = recorded()["states"][name]
    if indexed == "gone":
        (directory / index.INDEX).unlink()
    elif indexed == "counts":
        renew(directory)
        with monkeypatch.context() as patch:
            patch.setattr(record, "read_frame", lambda file: pytest.fail("a header was read"))
            list_checkpoints(directory)
    before = files(directory)
    infos = list_checkpoints(directory)
    assert sorted(info.path for info in infos) == sorted(
        str(directory / state) for state in states if "~" not in state
    )
    for info in infos:
        number = int(info.path[-4:])
        assert (info.epoch, info.batch) == (number, 0)
        assert info.logs["loss"] == 1 / number
    assert restores(directory, states)
    report = verify(directory)
    assert report.ok
    assert report.checked == len(states)
    assert latest_checkpoint(directory) == infos[-1].path
    assert files(directory) == before


def test_without_shortcuts_what_they_passed_is_read_as_well(tmp_path: Path) -> None:
    for name in ("chain", "packed"):
        directory = Path(shutil.copytree(make.HERE / name, tmp_path / name))
        for path in directory.glob(f"*{index.SHORTCUT}"):
            path.unlink()
        assert restores(directory, recorded()["states"][name])


def test_they_are_continued_and_what_they_hold_stays(name: str, directory: Path) -> None:
    last = Path(list_checkpoints(directory)[-1].path)
    state = dict(load_named(last).decoder.reconstruction)
    checkpointer = toy_checkpointer(directory)
    checkpointer.adopt(ToySource(state))
    save(checkpointer, state | {"optimizer/0": state["optimizer/0"] + 1}, "more")
    info = list_checkpoints(directory)[-1]
    assert (info.kind, info.parent) == ("delta", str(last))
    for path in directory.glob("more*"):
        path.unlink()
    assert restores(directory, recorded()["states"][name])


def test_they_hold_what_they_are_for() -> None:
    codecs: set[str] = set()
    for name in make.DIRECTORIES:
        contents = open_directory(directory_at(make.HERE / name))
        every = [*contents.stored, *contents.shortcuts]
        assert {stored.header["kind"] for stored in every} == {"base", "delta", "shortcut"}
        assert any(stored.packed for stored in every) == (name == "packed")
        assert any(stored.retired for stored in every) == (name == "pruned")
        gone = {s.leads_to for s in contents.shortcuts} - {s.digest for s in contents.stored}
        assert bool(gone) == (name == "pruned")
        codecs |= {str(stored.header.get("codec")) for stored in every}
    assert codecs >= {codec for codec in make.CODECS if codec}
    assert b'"nan":"nan"' in (make.HERE / "chain/cp-0002.lcd").read_bytes()


def test_nothing_is_left_over() -> None:
    assert set(make.DIRECTORIES) == set(recorded()["states"])
    every = [path for path in make.HERE.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert len(every) == len(recorded()["files"]) + 2
    assert sum(path.stat().st_size for path in every) < 150_000
