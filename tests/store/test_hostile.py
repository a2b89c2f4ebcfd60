"""Files made to do harm: an error or nothing, and no memory."""

from __future__ import annotations

import hashlib
import json
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from keras_lc import latest_checkpoint, list_checkpoints, verify
from keras_lc.errors import CheckpointError
from keras_lc.listing import open_directory
from keras_lc.loader import load_named
from keras_lc.store import index, record
from keras_lc.store.locate import directory_at
from tests import toy
from tests.toy import (
    HEADER,
    as_record,
    copied,
    file_names,
    memory_growth,
    run,
    same,
    save,
    toy_checkpointer,
    walk,
)

STATES = walk(7)
NAMES = [f"cp-{i:04d}" for i in range(1, 7)]
LIMIT = 64 << 20


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("hostile") / "training"
    run(directory, STATES[:6], short=4)
    return directory


@pytest.fixture
def directory(trained: Path, tmp_path: Path) -> Path:
    return copied(trained, tmp_path / "training")


def unharmed(directory: Path) -> None:
    """What was there is restored, and training goes on."""
    for name, state in zip(NAMES, STATES, strict=False):
        assert same(load_named(directory / name).decoder.reconstruction, state)
    save(toy_checkpointer(directory), STATES[6], "next")
    assert same(load_named(directory / "next").decoder.reconstruction, STATES[6])
    assert file_names(directory.parent) == {directory.name}


@pytest.mark.parametrize("depth", [50, 200, 330, 500, 900])
def test_a_deep_header_that_can_be_read_stops_no_save(directory: Path, depth: int) -> None:
    deep = b'{"more":' + b"[" * depth + b"]" * depth + b"," + json.dumps(HEADER).encode()[1:]
    (directory / "x.lcd").write_bytes(sealed(deep))
    unharmed(directory)


def sealed(text: bytes, payload: bytes = b"") -> bytes:
    """A record of any header."""
    blank = as_record({}, payload)
    lengths = blank[8:12] + len(text).to_bytes(4, "little") + blank[16:24]
    check = zlib.crc32(lengths + text).to_bytes(4, "little")
    body = record.MAGIC + lengths + check + text + payload
    return toy.sealed(body)


LARGE = {
    "spaces": lambda size: b"{}" + b" " * (size - 2),
    "lists": lambda size: b'{"logs":[' + b"[]," * (size // 3 - 8) + b"[]]}",
    "keys": lambda size: b"{" + b",".join(b'"%x":0' % i for i in range(size // 12)) + b"}",
}


@pytest.mark.parametrize(
    ("kind", "size"), [*((kind, record.MAX_HEADER) for kind in LARGE), ("spaces", 1 << 26)]
)
def test_a_large_header_takes_no_memory(directory: Path, kind: str, size: int) -> None:
    (directory / "x.lcd").write_bytes(sealed(LARGE[kind](size)))

    def attempt() -> None:
        assert len(list_checkpoints(directory)) == 6
        with pytest.raises(CheckpointError, match=r"x\.lcd"):
            load_named(directory / "x")

    assert memory_growth(attempt) < LIMIT


@pytest.mark.parametrize("suffix", [index.DELTA, index.BASE, index.SHORTCUT, index.PACK])
def test_a_record_of_more_bytes_than_there_is_memory_is_an_error(
    directory: Path, suffix: str
) -> None:
    size = 1 << 43
    parent = open_directory(directory_at(directory)).stored[0].digest
    header = HEADER | {"name": "x", "of": "0" * 64}
    if suffix != index.BASE:
        header["parent"] = parent
    path = directory / f"x{suffix}"
    with open(path, "wb") as file:
        file.write(record.head(header, size - size // 2**17))  # leaves room for the digests
        try:
            file.truncate(size)
        except OSError:
            pytest.skip("this disk has no files that large")

    def attempt() -> None:
        list_checkpoints(directory)
        with pytest.raises(CheckpointError):
            load_named(directory / "x")

    assert memory_growth(attempt) < LIMIT
    unharmed(directory)


ROWS: list[dict[str, Any]] = [
    *({key: value} for key in ("offset", "nbytes") for value in (2**63, 2**62, -1, 0.5, None)),
    *({"file": value} for value in ("../x.lcs", "/etc/passwd", "a\0b", "", "cp-0001.weights.h5")),
    *({"digest": value} for value in ("0" * 64, "", "x", "../x", None, 2**63)),
    *({"identity": value} for value in (None, 5, [])),
]
HEADERS: list[dict[str, Any]] = [
    *({key: value} for key in ("of", "parent") for value in (None, 5, "", "x", "0" * 64, [])),
    *({key: 2**63} for key in ("serial", "epoch", "batch", "step")),
    {"name": "../../x"},
]


@pytest.mark.parametrize("fields", ROWS, ids=str)
@pytest.mark.parametrize("number", [0, 1, 5, 6], ids=["base", "delta", "last", "shortcut"])
def test_a_forged_row_of_the_index_is_an_error_or_nothing(
    directory: Path, fields: dict[str, Any], number: int
) -> None:
    forge(directory, number, fields)


@pytest.mark.parametrize("fields", HEADERS, ids=str)
def test_a_forged_header_of_a_shortcut_in_the_index_is_an_error_or_nothing(
    directory: Path, fields: dict[str, Any]
) -> None:
    forge(directory, 6, {}, fields)


def forge(
    directory: Path, number: int, fields: dict[str, Any], header: dict[str, Any] | None = None
) -> None:
    path = directory / index.INDEX
    rows = json.loads(path.read_text())["checkpoints"]
    assert len(rows) == 7
    rows[number] |= fields
    rows[number]["header"] |= header or {}
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({"sha256": digest, "checkpoints": rows}))

    def attempt() -> None:
        list_checkpoints(directory)
        verify(directory)
        for name, state in zip(NAMES, STATES, strict=False):
            try:
                found = load_named(directory / name).decoder.reconstruction
            except CheckpointError:
                continue
            assert same(found, state)
        with suppress(CheckpointError, UserWarning):
            latest_checkpoint(directory)

    assert memory_growth(attempt) < LIMIT


def test_records_of_one_name_in_a_pack_are_one_checkpoint(directory: Path) -> None:
    header = HEADER | {"name": "cp-0003", "serial": 1}
    data = b"".join(as_record(header | {"step": i}, b"") for i in range(5))
    (directory / "x.lcp").write_bytes(data)
    assert sorted(Path(info.path).name for info in list_checkpoints(directory)) == NAMES
    unharmed(directory)
