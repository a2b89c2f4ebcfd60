"""Forged and damaged deltas of tensors of several tiles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lc.core import DeltaDecoder, DeltaEncoder, TensorSpec, tiles
from keras_lc.core import blob as blobs
from keras_lc.core.codecs import second
from keras_lc.core.streams import compress, large
from keras_lc.errors import CheckpointError, DamagedError, MismatchError

from .chains import examples, forge, of_the_form, pack, seal
from .traced import at_most

pytestmark = pytest.mark.usefixtures("traced")

TILE = 256
SIZE = 8 * TILE + 9
ENDS = [*range(TILE, SIZE, TILE), SIZE]
ROLES = [TensorSpec("m", "first_moment", "w"), TensorSpec("v", "second_moment", "w")]
BASE = {
    "few": np.linspace(-1, 1.1, 9, dtype=np.float32),
    "m": np.linspace(-1, 1, SIZE, dtype=np.float32),
    "v": np.linspace(0.5, 2, SIZE, dtype=np.float32),
    "w": np.linspace(-2, 2.1, SIZE, dtype=np.float32),
}
NAMES = list(BASE)
KINDS = {
    "l": ("weight", [-2, 0.0, 2]),
    "m": ("first", [0.5]),
    "v": ("second", [1.0, 0]),
    "b": ("buckets", [0.25]),
    "i": ("blocks", None),
    "d": ("difference4", None),
    "p": ("plain4", None),
}
of_each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "TILE", TILE)
    monkeypatch.setattr(second, "TILE", TILE)


def chunks(symbols, ends=ENDS):
    """A pool of chunks that end there."""
    starts = [0, *ends[:-1]]
    return b"".join(compress([symbols[a:b]]) for a, b in zip(starts, ends, strict=True))


def change(kinds, params, pools, sequence=1):
    """A delta; `kinds` in the order of the names."""
    document = {
        "seq": sequence,
        "table": DeltaDecoder(BASE).chain.table.fingerprint,
        "kinds": kinds,
        "params": [given for given in params if given is not None],
        "pools": {pool: len(data) for pool, data in pools.items()},
        "refs": [-1] * len(NAMES),
    }
    return forge(document, b"".join(pools.values()))


def alone(kind, pools):
    """A delta that changes `w` alone."""
    return change("sss" + kind, [KINDS[kind][1]], pools)


def good(kind):
    """Pools of a delta that changes `w`, those for all tiles first."""
    own = chunks(np.full(SIZE, 1, np.int16))
    scales = {"scale32": pack(np.full(-(-SIZE // 256), 1 << 29, np.int32))}
    shared = {"v": {"axes": pack(np.zeros(1, np.int16))}, "i": scales}.get(kind, {})
    return {large(KINDS[kind][0]): own} | shared


def read(blob):
    """Chunks may hold numbers that no encoder has made."""
    with np.errstate(all="ignore"):
        decoded = DeltaDecoder(BASE).decode(blob)
        return {name: decoded[name] for name in decoded}


def refused(blob):
    with at_most(1 << 22), pytest.raises(DamagedError):
        read(blob)


@of_each_kind
def test_the_forger_can_make_good_chunks(kind):
    decoded = read(alone(kind, good(kind)))
    assert all(np.array_equal(decoded[name], BASE[name]) for name in NAMES[:-1])
    assert (decoded["w"] != BASE["w"]).mean() > 0.99
    if kind in "lb":
        assert np.allclose(decoded["w"], BASE["w"] + 0.25)


@of_each_kind
@pytest.mark.parametrize("off", [-1, 1, TILE, -TILE])
@pytest.mark.parametrize("at", [0, 1])
def test_chunks_that_end_elsewhere_are_refused(kind, at, off):
    symbols, ends = np.full(SIZE, 1, np.int16), list(ENDS)
    ends[at] += off
    refused(alone(kind, good(kind) | {large(KINDS[kind][0]): chunks(symbols, ends)}))


@of_each_kind
@pytest.mark.parametrize("zeros", [False, True])
def test_chunks_that_are_missing_or_surplus_are_refused(kind, zeros):
    pool = large(KINDS[kind][0])
    symbols = np.full(SIZE + 1000, not zeros, np.int16)
    for ends in (
        ENDS[:-1],
        ENDS[:1],
        ENDS[-1:],
        [*ENDS, SIZE + 1],
        [*ENDS, SIZE + 1000],
        [*ENDS[:-1], SIZE - 1],
        [*ENDS[:-1], SIZE + 1],
        [*range(2 * TILE, SIZE, 2 * TILE), SIZE],
    ):
        refused(alone(kind, good(kind) | {pool: chunks(symbols, ends)}))
    for data in (b"", b"\0", good(kind)[pool][:-1], good(kind)[pool] + b"\0"):
        refused(alone(kind, good(kind) | {pool: data}))


@of_each_kind
def test_chunks_in_the_pool_of_small_tensors_are_refused(kind):
    pool, _ = KINDS[kind]
    own, *_ = good(kind).values()
    rest = {name: data for name, data in good(kind).items() if name != large(pool)}
    for pools in (
        {pool: own},
        {pool: pack(np.full(SIZE, 1, np.int16))},
        {pool: own, large(pool): own},
        {large(large(pool)): own},
        {large(pool): own, large(large(pool)): own},
        {large(pool): own, "no such pool": own},
        {large(pool): own, "no such pool+": own},
        {},
    ):
        refused(alone(kind, rest | pools))


@of_each_kind
def test_a_small_tensor_has_no_chunks_of_its_own(kind):
    pool, params = KINDS[kind]
    small, chunk = pack(np.full(9, 1, np.int16)), compress([np.full(9, 1, np.int16)])
    shared = {"i": {"scale32": pack(np.full(1, 1 << 29, np.int32))}}
    shared["v"] = {"axes": pack(np.zeros(1, np.int16))}
    rest = shared.get(kind, {})
    read(change(kind + "sss", [params], {pool: small} | rest))
    for pools in ({large(pool): chunk}, {pool: small, large(pool): chunk}):
        refused(change(kind + "sss", [params], pools | rest))


def test_chunks_belong_to_the_tensors_in_their_order():
    one, two = (chunks(np.full(SIZE, value, np.int16)) for value in (1, 2))
    params = [KINDS["l"][1]] * 2
    decoded = read(change("slsl", params, {"weight+": one + two}))
    assert np.allclose(decoded["m"], BASE["m"] + 0.25)
    assert np.allclose(decoded["w"], BASE["w"] + 0.5)
    refused(change("slsl", params, {"weight+": one}))
    refused(change("slsl", params, {"weight+": one + two + one}))
    refused(change("slss", params[:1], {"weight+": one + two}))


def test_chunks_of_a_tensor_without_symbols_are_refused():
    own = chunks(np.zeros(SIZE, np.int16))
    refused(change("sssl", [[-2, 0.0, 0]], {"weight+": own}))
    read(change("sssl", [[-2, 0.0, 0]], {}))
    refused(change("ssss", [], {"weight+": own}))


def test_after_a_chunk_that_fails_nothing_is_decoded():
    own = chunks(np.full(SIZE, 1, np.int16))
    decoder = DeltaDecoder(BASE)
    with pytest.raises(DamagedError):
        decoder.decode(alone("l", {"weight+": own[:-1]}))
    with pytest.raises(MismatchError, match="start again"):
        decoder.decode(alone("l", {"weight+": own}))


@of_each_kind
@given(
    st.integers(0, 2),
    st.one_of(
        st.binary(max_size=60),
        st.binary(max_size=60).map(lambda data: b"\2" + len(data).to_bytes(4, "little") + data),
        st.binary(max_size=60).map(lambda data: b"\0" + len(data).to_bytes(4, "little") + data),
        st.tuples(st.integers(0, 99), st.integers(0, 255)),
    ),
)
@examples(40)
def test_random_chunks_are_refused_or_read(kind, at, data):
    lengths = np.diff([0, *ENDS])
    parts = [compress([np.full(length, 1, np.int16)]) for length in lengths]
    if isinstance(data, tuple):
        place, value = data
        changed = bytearray(parts[at])
        changed[place % len(changed)] = value
        data = bytes(changed)
    parts[at] = data
    blob = alone(kind, good(kind) | {large(KINDS[kind][0]): b"".join(parts)})
    with at_most(1 << 22):
        try:
            decoded = read(blob)
        except CheckpointError:
            pass
        else:
            assert of_the_form(decoded, BASE)


def deltas(codec):
    """A base of a few small tiles, and a delta over it."""
    rng = np.random.default_rng(0)
    shapes = {"w": (4 * TILE + 9,), "few": (9,), "k": (30, 40)}
    base, state, roles = {}, {}, []
    for name, shape in shapes.items():
        w, g = 0.2 * rng.normal(size=shape), rng.normal(size=shape)
        base |= {name: w, f"m/{name}": 0.1 * g, f"v/{name}": 0.01 * g * g}
        then = g + 0.1 * rng.normal(size=shape)
        moved = w - 1e-3 * np.sign(then) * (rng.random(shape) < 0.02)
        state |= {name: moved, f"m/{name}": 0.1 * then, f"v/{name}": 0.01 * then * then}
        roles.append(TensorSpec(f"m/{name}", "first_moment", name))
        roles.append(TensorSpec(f"v/{name}", "second_moment", name))
    base, state = (
        {name: array.astype(np.float32) for name, array in arrays.items()}
        for arrays in (base, state)
    )
    return base, DeltaEncoder(base, codec, roles).encode(state)


@pytest.mark.parametrize("codec", ["lossless", "balanced", "fast", "lc", "int8"])
def test_changed_bytes_with_a_right_checksum_never_crash(codec):
    base, blob = deltas(codec)
    assert any(pool == large(pool[:-1]) for pool in blobs.unpack(blob, len(base))[1])
    body, outcomes, rng = blob[:-4], set(), np.random.default_rng(0)
    for position in range(0, len(body), 1 + len(body) // 120):
        damaged = bytearray(body)
        damaged[position] ^= int(rng.choice([0x01, 0x80, rng.integers(2, 256)]))
        outcomes.add(outcome(base, seal(bytes(damaged))))
    assert outcomes == {"refused", "read"}


@pytest.mark.parametrize("codec", ["lossless", "balanced", "fast", "lc", "int8"])
def test_truncations_with_a_right_checksum_are_refused(codec):
    base, blob = deltas(codec)
    for length in range(0, len(blob) - 4, 1 + len(blob) // 700):
        assert outcome(base, seal(blob[:length])) == "refused"


def outcome(base, blob):
    """Whether a blob is refused or gives arrays of the right shape."""
    try:
        with np.errstate(all="ignore"):
            decoded = DeltaDecoder(base).decode(blob)
            arrays = {name: decoded[name] for name in decoded}
    except CheckpointError:
        return "refused"
    for name, array in base.items():
        assert arrays[name].shape == array.shape
        assert arrays[name].dtype == array.dtype
    return "read"
