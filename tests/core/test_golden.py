"""Deltas that were written once are read for good; `golden/make.py` says when to renew them."""

import json
from functools import cache

import numpy as np
import pytest

from keras_lc.core import PRESETS, DeltaDecoder, decompress, streams
from keras_lc.core import blob as blobs
from keras_lc.core.codecs import lattice
from keras_lc.core.matrix import view

from .golden import make

PAIRS = [(named, preset) for named in make.DTYPES for preset in PRESETS]


@cache
def load(named):
    """The base of a dtype, and the bytes made over it."""
    with np.load(make.HERE / f"{named}.npz", allow_pickle=False) as file:
        arrays = dict(file)
    base = {
        key.removeprefix("base "): make.restored(
            array, key.removeprefix("base "), make.DTYPES[named]
        )
        for key, array in arrays.items()
        if key.startswith("base ")
    }
    return base, {key: array.tobytes() for key, array in arrays.items() if key[:5] != "base "}


@cache
def digests():
    return json.loads(make.DIGESTS.read_text())


@pytest.mark.parametrize(("named", "preset"), PAIRS)
def test_golden_deltas_decode_to_the_same_bits(named, preset):
    base, written = load(named)
    decoder = DeltaDecoder(base)
    for number in range(1, make.DELTAS + 1):
        decoded = decoder.decode(written[f"{preset} {number}"])
        assert make.digest(decoded) == digests()[f"{named} {preset} {number}"]


@pytest.mark.parametrize("named", make.DTYPES)
@pytest.mark.parametrize("preset", make.WHOLE)
def test_one_golden_delta_does_for_three(named, preset):
    base, written = load(named)
    decoded = DeltaDecoder(base).decode(written[f"{preset} whole"])
    assert make.digest(decoded) == digests()[f"{named} {preset} {make.DELTAS}"]


@pytest.mark.parametrize("named", make.DTYPES)
def test_golden_arrays_are_decompressed_to_the_same_bits(named):
    data = load(named)[1]["compressed"]
    assert make.digest(decompress(data)) == digests()[f"{named} compressed"]


def test_a_golden_chunk_of_small_symbols_is_unpacked_to_the_same():
    with np.load(make.HERE / "chunk.npz", allow_pickle=False) as file:
        chunk = file["chunk"].tobytes()
    assert chunk[0] == streams._FOURS
    unpacked = streams.decompress(memoryview(chunk), make.SMALL.size)
    assert np.array_equal(unpacked, make.SMALL)
    assert {-1, 0, 1} < set(make.SMALL.tolist())


def test_golden_deltas_are_of_this_version_and_hold_every_kind():
    seen = set()
    for named, preset in PAIRS:
        base, written = load(named)
        chained, direct = DeltaDecoder(base), DeltaDecoder(base)
        numbers = [*range(1, make.DELTAS + 1), *(["whole"] if preset in make.WHOLE else [])]
        for number in numbers:
            blob = written[f"{preset} {number}"]
            assert blob[0] == blobs.VERSION
            decoder = direct if number == "whole" else chained
            decoder.decode(blob)
            order = [i for level in decoder.chain.levels() for i in level]
            table, pools = blobs.unpack(blob, len(order))
            for i, entry in zip(order, table.entries, strict=True):
                seen.add(entry.kind)
                if len(decoder.chain.table.tiles[i]) > 1:
                    seen.add(("large", entry.kind))
                matrix = view(decoder.chain.table.shapes[i])
                if entry.kind == "lattice":
                    step = lattice.Step.read(entry.params, matrix)
                    seen |= {("corrected", bool(matrix), step.corrected)}
                    seen |= {("factors", bool(step.scale)), ("predicted", step.beta != 0)}
            for pool, data in pools.items():
                own = pool == streams.large(pool[:-1])
                while data:
                    chunk, data = streams.split(data)
                    seen.add(("a chunk of its own", own, "sparse", chunk[0] == streams._SPARSE))
    assert set(blobs.KINDS) <= seen
    kinds = {kind[1] for kind in seen if kind[0] == "large"}
    assert set(blobs.KINDS) - kinds <= {"same", "plain"}
    assert {("a chunk of its own", own, "sparse", True) for own in (False, True)} <= seen
    assert {("a chunk of its own", own, "sparse", False) for own in (False, True)} <= seen
    assert {("corrected", True, False), ("corrected", False, True), ("factors", True)} <= seen
    assert {("predicted", True), ("predicted", False)} <= seen


def test_nothing_is_left_over():
    expected = {f"{named} {preset} {i}" for named, preset in PAIRS for i in range(1, 4)}
    expected |= {f"{named} compressed" for named in make.DTYPES}
    assert set(digests()) == expected
    files = [*make.HERE.glob("*.npz"), make.DIGESTS]
    assert len(files) == len(make.DTYPES) + 2
    assert sum(file.stat().st_size for file in files) < 600_000


def test_a_base_holds_the_tensors_of_its_dtype():
    for named, dtype in make.DTYPES.items():
        base, _ = load(named)
        floats = [array for name, array in base.items() if name[1:2] == "/"]
        assert len(floats) == 3 * len(make.SHAPES)
        assert {array.dtype for array in floats} == {np.dtype(dtype)}
