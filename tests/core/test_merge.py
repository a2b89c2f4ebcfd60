"""Several deltas as one: the same state, bit for bit, and the chain goes on from it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lc.core import DeltaDecoder, DeltaEncoder, merge, tiles
from keras_lc.errors import DamagedError, MismatchError

from .chains import CODECS, ROOMY, SPECS, bits, examples, matrices, training
from .test_chains_matrices import SPECS as MATRIX_SPECS

NAMES = ["balanced", "smallest", "fast", "lossless", "int8", "lc"]


def same(one, other):
    return one.keys() == other.keys() and all(bits(one[name]) == bits(other[name]) for name in one)


def written(base, states, codecs, specs):
    """A delta a state, each in its codec."""
    encoder = DeltaEncoder(base, "balanced", specs)
    return [
        encoder.encode(state, codec) for state, codec in zip(states, codecs, strict=True)
    ], encoder.reconstruction


def check(base, deltas, first, last):
    """`deltas[first:last]` as one, between those before and those after."""
    plain, merged = DeltaDecoder(base), DeltaDecoder(base)
    for delta in deltas[:first]:
        plain.decode(delta)
        merged.decode(delta)
    one = merge(plain, deltas[first:last])
    decoded = merged.decode(one)
    assert same(decoded, plain.reconstruction)
    for delta in deltas[last:]:
        assert same(merged.decode(delta), plain.decode(delta))
    return one


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_merged_chain_is_the_same_at_every_cut(codec):
    base, *states = training(5)
    deltas, _ = written(base, states, [codec] * len(states), SPECS)
    for first, last in [(0, 1), (0, 3), (0, 5), (2, 4), (3, 5)]:
        check(base, deltas, first, last)


@pytest.mark.parametrize("codec", NAMES)
@pytest.mark.parametrize("dtype", ROOMY, ids=lambda dtype: np.dtype(dtype).name)
def test_matrices_too(codec, dtype, monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 256)
    base, *states = matrices(5, dtype)
    deltas, _ = written(base, states, [codec] * len(states), MATRIX_SPECS["adam"])
    check(base, deltas, 1, 4)


@given(
    st.lists(st.sampled_from(NAMES), min_size=6, max_size=6),
    st.integers(0, 4),
    st.integers(1, 6),
    st.booleans(),
)
@examples(40)
def test_codecs_may_alternate(codecs, first, count, moved):
    base, *states = training(6)
    if not moved:
        states[2] = states[1]
    deltas, _ = written(base, states, codecs, SPECS)
    check(base, deltas, first, min(first + count, len(deltas)))


@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6))
@examples(40)
def test_one_delta_from_the_base_does_for_a_chain(codecs):
    base, *states = training(6)
    encoder = DeltaEncoder(base, "balanced", SPECS)
    for state, codec in zip(states, codecs, strict=False):
        encoder.encode(state, codec)
    direct, later = DeltaDecoder(base), DeltaDecoder(base)
    whole = b"".join(encoder.whole())
    assert same(direct.decode(whole), encoder.reconstruction)
    later.decode(whole)
    for state in states[len(codecs) :]:
        later.decode(encoder.encode(state))
        assert same(later.reconstruction, encoder.reconstruction)
    assert same(from_needed(base, whole), direct.reconstruction)
    resumed = DeltaEncoder.resume(direct, "balanced", SPECS)
    assert b"".join(resumed.whole()) == whole


def from_needed(base, delta):
    """What a first delta decodes to over those tensors of the base that it needs."""
    needed = DeltaDecoder(base, absent=base).needed(delta)
    some = {name: array if name in needed else np.zeros_like(array) for name, array in base.items()}
    return DeltaDecoder(some, absent=base.keys() - needed).decode(delta)


@pytest.mark.parametrize("codec", NAMES)
def test_a_first_delta_tells_what_it_builds_on(codec):
    base, state = training(1)
    encoder = DeltaEncoder(base, codec, SPECS)
    delta = encoder.encode(state)
    assert same(from_needed(base, delta), encoder.reconstruction)


def test_what_was_left_out_is_never_taken_for_a_value():
    base, state = training(1)
    decoder = DeltaDecoder(base, absent=base)
    with pytest.raises(DamagedError, match="left out"):
        decoder.decode(DeltaEncoder(base, "balanced", SPECS).encode(state))
    with pytest.raises(MismatchError, match="left out"):
        DeltaDecoder(base, absent=base).reconstruction[next(iter(base))]


def test_merged_deltas_merge():
    base, *states = training(9)
    deltas, reconstruction = written(base, states, ["balanced"] * len(states), SPECS)
    decoder = DeltaDecoder(base)
    parts = [merge(decoder, deltas[i : i + 3]) for i in (0, 3, 6)]
    whole = merge(DeltaDecoder(base), parts)
    assert same(DeltaDecoder(base).decode(whole), reconstruction)


def test_an_encoder_goes_on_from_a_merged_chain():
    base, *states = training(9)
    deltas, _ = written(base, states[:5], ["balanced"] * 5, SPECS)
    decoder, other = DeltaDecoder(base), DeltaDecoder(base)
    one = merge(DeltaDecoder(base), deltas)
    decoder.decode(one)
    other.decode(one)
    encoder = DeltaEncoder.resume(decoder, "balanced", SPECS)
    for state in states[5:]:
        decoded = other.decode(encoder.encode(state))
        assert same(decoded, encoder.reconstruction)


def test_many_merged_are_smaller_than_they_were():
    base, *states = training(80)
    deltas, _ = written(base, states, ["balanced"] * len(states), SPECS)
    assert len(check(base, deltas, 0, len(deltas))) < sum(map(len, deltas)) / 2


def test_merged_deltas_come_in_their_place():
    base, *states = training(4)
    deltas, _ = written(base, states, ["balanced"] * 4, SPECS)
    decoder = DeltaDecoder(base)
    decoder.decode(deltas[0])
    one = merge(decoder, deltas[1:3])
    with pytest.raises(MismatchError):
        DeltaDecoder(base).decode(one)
    late = DeltaDecoder(base)
    for delta in deltas[:2]:
        late.decode(delta)
    with pytest.raises(MismatchError):
        late.decode(one)
    with pytest.raises(MismatchError):
        merge(DeltaDecoder(base), [])
    with pytest.raises(DamagedError):
        merge(DeltaDecoder(base), [deltas[0][:-1]])
