"""FORMAT.md says what is true: its test vectors, its tables and its numbers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import keras_lc
from keras_lc.core import DeltaDecoder, blob, streams, tiles
from keras_lc.store import index, record
from keras_lc.store.record import MAGIC
from tests.toy import as_record, payload_of

TEXT = (Path(keras_lc.__file__).parent / "FORMAT.md").read_text()


def vectors() -> list[bytes]:
    return [bytes.fromhex(block) for block in re.findall(r"```\n([0-9a-f\n]+)```", TEXT)]


def test_a_record() -> None:
    assert as_record({"serial": 1}, b"abc") == vectors()[0]


def test_a_record_is_read_from_its_bytes(tmp_path: Path) -> None:
    data = vectors()[0]
    (tmp_path / "record").write_bytes(data)
    with open(tmp_path / "record", "rb") as file:
        frame = record.read_frame(file)
        assert frame is not None
        assert frame.header == {"serial": 1}
        file.seek(0)
        assert payload_of(file, frame) == b"abc"


def test_a_delta() -> None:
    base = {"w": np.zeros(3, np.float32)}
    decoded = DeltaDecoder(base).decode(vectors()[1])
    np.testing.assert_array_equal(decoded["w"], np.array([1, -2, 0.5], np.float32))


def test_all_kinds_are_told() -> None:
    table = TEXT[TEXT.index("### Kinds") : TEXT.index("## Versions")]
    assert dict(re.findall(r"^\| `(\w)` \| (\w+) \|", table, re.M)) == {
        letter: kind for kind, letter in blob.KINDS.items()
    }


@pytest.mark.parametrize(
    "told",
    [
        MAGIC.hex(" ").upper(),
        f"{tiles.TILE:,} values",
        f"chunks of 2^{streams.CHUNK.bit_length() - 1} symbols",
        f"at most 2^{record.MAX_HEADER.bit_length() - 1}",
        *(f"{suffix}`" for suffix in (index.BASE, index.DELTA, index.PACK, index.SHORTCUT)),
        index.INDEX,
    ],
)
def test_numbers_and_names_are_those_of_the_code(told: str) -> None:
    assert told in TEXT
