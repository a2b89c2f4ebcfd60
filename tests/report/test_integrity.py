from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import keras_lc
from keras_lc import loader, verify
from keras_lc.core import DeltaDecoder
from keras_lc.errors import NotFoundError, StoreError
from keras_lc.store import record
from tests.toy import (
    HEADER,
    ToySource,
    as_record,
    file_names,
    load_all,
    run,
    save,
    toy_checkpointer,
    walk,
)

STATES = walk(6)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def branch(directory: Path, at: str, name: str) -> None:
    """Another delta on a checkpoint that has one already."""
    checkpointer = toy_checkpointer(directory)
    checkpointer.adopt(ToySource(load_all(directory)[at]))
    save(checkpointer, STATES[5], name)


def test_an_intact_directory_is_ok(tmp_path: Path) -> None:
    run(tmp_path, STATES, keyframe_every=4)
    report = verify(tmp_path)
    assert report.ok
    assert report.checked == 6
    assert report.damaged == {}
    assert str(report) == f"{tmp_path}: 6 checkpoints checked, all intact"
    assert verify(str(tmp_path) + "/") == report


def test_a_directory_that_is_empty_is_ok_and_a_missing_one_or_a_file_is_an_error(
    tmp_path: Path,
) -> None:
    assert verify(tmp_path).ok
    assert verify(tmp_path).checked == 0
    with pytest.raises(NotFoundError, match="missing"):
        verify(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is a file"):
        verify(tmp_path / "file")


def test_each_file_is_decoded_once_whatever_the_branches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, STATES[:4])
    for number, at in enumerate(("cp-0002", "cp-0002", "cp-0001", "cp-0004")):
        branch(tmp_path, at, f"branch-{number}")
    decoded, bases = [], []
    decode, read = DeltaDecoder.decode, loader.base.read
    monkeypatch.setattr(
        DeltaDecoder, "decode", lambda self, blob: (decoded.append(blob), decode(self, blob))[1]
    )
    monkeypatch.setattr(
        loader.base, "read", lambda *source: (bases.append(source), read(*source))[1]
    )
    report = verify(tmp_path)
    assert report.ok
    assert report.checked == 8
    assert len(decoded) == 7
    assert len(bases) == 1


def test_a_delta_that_does_not_decode_over_its_branch_is_found(tmp_path: Path) -> None:
    run(tmp_path, STATES[:4])
    branch(tmp_path, "cp-0002", "branch")
    path = tmp_path / "branch.lcd"
    with open(path, "rb") as file:
        frame = record.read_frame(file)
    assert frame is not None
    payload = (tmp_path / "cp-0002.lcd").read_bytes()
    with open(tmp_path / "cp-0002.lcd", "rb") as file:
        other = record.read_frame(file)
    assert other is not None
    path.write_bytes(as_record(frame.header, payload[other.start : other.size]))
    report = verify(tmp_path)
    assert list(report.damaged) == ["branch.lcd"]
    assert "delta" in report.damaged["branch.lcd"]


def test_damage_is_named_with_all_that_builds_on_it(tmp_path: Path) -> None:
    run(tmp_path, STATES, keyframe_every=4)
    branch(tmp_path, "cp-0002", "branch")
    flip(tmp_path / "cp-0003.lcd", -40)
    report = verify(tmp_path)
    assert not report.ok
    assert report.checked == 7
    assert set(report.damaged) == {"cp-0003.lcd", "cp-0004.lcd"}
    assert "checksum" in report.damaged["cp-0003.lcd"]
    assert "builds on" in report.damaged["cp-0004.lcd"]
    lines = str(report).splitlines()
    assert lines[0] == f"{tmp_path}: 7 checkpoints checked, 2 files damaged"
    assert all(file in line for file, line in zip(report.damaged, lines[1:], strict=True))


def test_what_builds_on_damage_is_read_as_well(tmp_path: Path) -> None:
    run(tmp_path, STATES[:3])
    flip(tmp_path / "cp-0002.lcd", -40)
    flip(tmp_path / "cp-0003.lcd", -40)
    assert ["checksum" in reason for reason in verify(tmp_path).damaged.values()] == [True, True]


@pytest.mark.parametrize("indexed", [True, False])
def test_any_damage_to_any_file_is_found(tmp_path: Path, indexed: bool) -> None:
    run(tmp_path, STATES[:3])
    if not indexed:
        (tmp_path / "checkpoint.json").unlink()
    rng = np.random.default_rng(0)
    for name in ("cp-0001.weights.h5", "cp-0002.lcd", "cp-0003.lcd"):
        path = tmp_path / name
        whole = path.read_bytes()
        for place in rng.integers(8, len(whole), 30):
            flip(path, place)
            report = verify(tmp_path)
            assert name in report.damaged, place
            assert report.checked == 3
            path.write_bytes(whole[:place])
            assert name in verify(tmp_path).damaged
            path.write_bytes(whole)
    assert verify(tmp_path).ok


def test_a_missing_link_is_found(tmp_path: Path) -> None:
    run(tmp_path, STATES[:4])
    (tmp_path / "cp-0002.lcd").unlink()
    assert set(verify(tmp_path).damaged) == {"cp-0003.lcd", "cp-0004.lcd"}
    (tmp_path / "cp-0001.weights.h5").unlink()
    assert verify(tmp_path).checked == 2


def test_a_file_of_a_newer_format_is_said_to_be_one(tmp_path: Path) -> None:
    data = bytearray(as_record(HEADER, b""))
    data[8] = 2
    (tmp_path / "x.lcd").write_bytes(data)
    assert "Upgrade" in verify(tmp_path).damaged["x.lcd"]


def test_a_second_copy_is_checked_too(tmp_path: Path) -> None:
    run(tmp_path, STATES[:2])
    copy = tmp_path / "copy.lcd"
    copy.write_bytes((tmp_path / "cp-0002.lcd").read_bytes())
    assert verify(tmp_path).ok
    flip(copy, -40)
    assert list(verify(tmp_path).damaged) == ["copy.lcd"]


def test_files_of_other_programs_are_left_alone_and_nothing_is_written(tmp_path: Path) -> None:
    run(tmp_path, STATES[:2])
    (tmp_path / "keras.weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600))
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "checkpoint.json").unlink()
    before = file_names(tmp_path)
    assert keras_lc.verify(tmp_path).ok
    assert file_names(tmp_path) == before


def test_a_directory_behind_a_url() -> None:
    url = "memory://verified/training"
    run(url, STATES[:3])
    assert str(verify(url)) == f"{url}: 3 checkpoints checked, all intact"
