"""Forged and damaged deltas of matrices, of blocks and of foreseen updates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lc.core import DeltaDecoder, DeltaEncoder
from keras_lc.core.codecs.outer import Outer, Scale
from keras_lc.core.matrix import view
from keras_lc.errors import CheckpointError

from .chains import Ends, examples, forge, matrices, pack, roles
from .traced import at_most

pytestmark = pytest.mark.usefixtures("traced")

SHAPE = (20, 24)
MATRIX = view(SHAPE)
BASE = {
    "m": np.linspace(-1, 1, 480, dtype=np.float32).reshape(SHAPE),
    "v": np.linspace(0.5, 2, 480, dtype=np.float32).reshape(SHAPE),
    "w": np.linspace(-2, 2, 480, dtype=np.float32).reshape(SHAPE),
}
NAMES = list(BASE)
FINGERPRINT = DeltaDecoder(BASE).chain.table.fingerprint
SCALE = Scale(2.0**-6, 1, (1, 2))


def change(name, kind, params, pools, refs=()):
    """A delta that changes one tensor; `refs` are pairs of a tensor and what it refers to."""
    references = [-1] * len(NAMES)
    for one, other in refs:
        references[NAMES.index(one)] = NAMES.index(other)
    depths = []
    for at in range(len(NAMES)):
        depth = 0
        while references[at] >= 0:
            depth, at = depth + 1, references[at]
        depths.append(depth)
    order = sorted(range(len(NAMES)), key=lambda i: (depths[i], i))
    kinds = "".join(kind if NAMES[i] == name else "s" for i in order)
    document = {
        "seq": 1,
        "table": FINGERPRINT,
        "kinds": kinds,
        "params": [] if params is None else [params],
        "pools": {pool: len(data) for pool, data in pools.items()},
        "refs": references,
    }
    return forge(document, b"".join(pools.values()))


def read(blob):
    """The state after a blob; threads of a decoder heed the warnings of the whole process."""
    decoded = DeltaDecoder(BASE).decode(blob)
    return {name: decoded[name] for name in decoded}


def refused(blob):
    with at_most(1 << 26), pytest.raises(CheckpointError):
        read(blob)


def sides(pool, made):
    """The pools of factors."""
    parts, pools = iter(made.symbols()), {}
    for length in (made.a.shape[1], made.b.shape[1]):
        for octave, _ in made.scale.classes(length):
            pools.setdefault(f"{pool}{octave}", []).append(next(parts))
    return {name: pack(*parts) for name, parts in pools.items()}


def factors(scale=SCALE, value=2):
    a = np.full((scale.rank, SHAPE[0]), value, np.int32)
    return Outer(scale, a, np.full((scale.rank, SHAPE[1]), 1, np.int32))


def test_the_forger_can_make_good_blobs():
    made = factors()
    expected = made.integers().reshape(SHAPE) * np.float32(made.scale.unit)
    assert (expected == expected[0, 0]).all()
    assert expected[0, 0] == 2 * (1 + 2 + 2) * 2.0**-7
    moment = read(change("m", "o", made.scale.write(), sides("first", made)))["m"]
    assert np.array_equal(moment, expected)
    scaled = read(change("m", "o", made.scale.write(), sides("first", made), [("m", "v")]))["m"]
    assert np.array_equal(scaled, expected * np.sqrt(BASE["v"]))
    weight = read(change("w", "l", [-3, 0.0, 0, *made.scale.write()], sides("weight", made)))["w"]
    assert np.allclose(weight - BASE["w"], expected, atol=1e-6)
    singles = {"weight": pack(np.full(480, 3, np.int32))}
    weight = read(
        change("w", "l", [-3, 0.0, 2, *made.scale.write()], singles | sides("weight", made))
    )["w"]
    assert np.allclose(weight - BASE["w"], expected + 3 / 8, atol=1e-6)
    scale = np.full(2, 1.27, np.float32).view(np.int32)
    pools = {"scale32": pack(scale), "blocks": pack(np.full(480, 100, np.int16))}
    assert np.allclose(read(change("w", "i", None, pools))["w"], 1.0)
    rest = {"update4": pack(np.zeros(480, np.int32))}
    moved = read(change("w", "u", [0, 1.0, 0.0, 0.0], rest, [("w", "m")]))["w"]
    assert np.isfinite(moved).all()
    assert (moved != BASE["w"]).mean() > 0.9


NAN, INF = float("nan"), float("inf")
SCALES = [
    *[[], [1.0], [1.0, 0], [1.0, 0, [1], 5], [None, 0, [1]], ["1", 0, [1]], [1.0, "0", [1]]],
    *[[area, 0, [1]] for area in (NAN, INF, 0.0, -1.0, 1e301, 10**400)],
    *[[1.0, top, [1]] for top in (1001, -2000, 2**80, 0.5, NAN)],
    *[[1.0, 0, counts] for counts in (None, 5, {}, "1", [-1], [1.0], [21], [-1, 22], [10**400])],
    *[[1.0, 0, counts] for counts in ([2**62], [0] * 1000, [1] * 21)],
    [1e299, -999, [1]],
]


@pytest.mark.parametrize("scale", SCALES, ids=lambda scale: str(scale)[:60])
def test_a_hostile_scale_is_refused(scale):
    pools = sides("first", factors(Scale(1.0, 0, (1,))))
    refused(change("m", "o", scale, pools))
    refused(change("m", "o", scale, {}))
    pools = sides("weight", factors(Scale(1.0, 0, (1,))))
    refused(change("w", "l", [0, 0.0, 0, *(scale or [None])], pools))


def test_sums_that_are_not_exact_are_refused_when_they_are_decoded():
    for value in (2**31 - 1, -(2**31)):
        made = factors(Scale(1.0, 0, (0,) * 30 + (2,)), value)
        for kind, params, pool in [("o", [], "first"), ("l", [0, 0.0, 0], "weight")]:
            blob = change("w", kind, [*params, *made.scale.write()], sides(pool, made))
            with pytest.raises(CheckpointError):
                DeltaDecoder(BASE).decode(blob)


def test_factors_far_larger_than_the_lattice_are_refused():
    made = factors(Scale(1e200, -300, (1,)))
    refused(change("w", "l", [-900, 0.0, 0, *made.scale.write()], sides("weight", made)))


@pytest.mark.parametrize("counts", [[], [0], [1]])
def test_a_vector_has_no_factors(counts):
    base = {"w": np.zeros(8, np.float32)}
    for kind, params in [("o", [1.0, 0, counts]), ("l", [0, 0.0, 0, 1.0, 0, counts])]:
        decoder = DeltaDecoder(base)
        document = {
            "seq": 1,
            "table": decoder.chain.table.fingerprint,
            "kinds": kind,
            "params": [params],
            "pools": {},
            "refs": [-1],
        }
        with pytest.raises(CheckpointError):
            decoder.decode(forge(document))


@pytest.mark.parametrize("change_of", [-1, 1, 10_000])
@pytest.mark.parametrize("which", [0, -1])
@pytest.mark.parametrize("kind", ["o", "l", "i"])
def test_pools_of_another_length_are_refused(kind, which, change_of):
    made = factors()
    if kind == "i":
        parts = {"scale32": np.ones(2, np.int32), "blocks": np.ones(480, np.int16)}
        params = None
    else:
        pool = "first" if kind == "o" else "weight"
        runs = [
            (f"{pool}{octave}", count * length)
            for length in SHAPE
            for octave, count in made.scale.classes(length)
        ]
        parts = {name: np.ones(sum(n for p, n in runs if p == name), np.int32) for name, _ in runs}
        params = [*([0, 0.0, 0] if kind == "l" else []), *made.scale.write()]
    name = list(parts)[which]
    size = max(0, parts[name].size + change_of)
    for pools in (
        parts | {name: np.ones(size, parts[name].dtype)},
        {other: part for other, part in parts.items() if other != name},
    ):
        refused(change("w", kind, params, {pool: pack(part) for pool, part in pools.items()}))
    read(change("w", kind, params, {pool: pack(part) for pool, part in parts.items()}))


@pytest.mark.parametrize(
    "params",
    [[], [0], ["a"] * 4, [None] * 4, [9, 1.0, 0.0, 0.0], [-1, 1.0, 0.0, 0.0], [0.5, 1, 1, 1]],
    ids=str,
)
def test_hostile_updates_are_refused(params):
    pools = {"update4": pack(np.zeros(480, np.int32))}
    refused(change("w", "u", params, pools, [("w", "m"), ("m", "v")]))


def test_an_update_without_its_moments_is_refused():
    pools = {"update4": pack(np.zeros(480, np.int32))}
    refused(change("w", "u", [0, 1.0, 0.0, 0.0], pools))
    refused(change("w", "u", [1, 1.0, 1e-7, 0.0], pools, [("w", "m")]))
    read(change("w", "u", [1, 1.0, 1e-7, 0.0], pools, [("w", "m"), ("m", "v")]))


@given(
    st.sampled_from(["o", "l", "i", "u", "v"]),
    st.lists(st.binary(max_size=40), min_size=4, max_size=4),
    st.integers(0, 2**32),
    st.integers(0, 200),
)
@examples(200)
def test_random_symbols_are_refused_or_read(kind, noise, seed, at):
    rng = np.random.default_rng(seed)
    made, whole = factors(), np.full(480, 1, np.int32)
    params, pools = {
        "o": (made.scale.write(), sides("first", made)),
        "l": ([0, 0.5, 2, *made.scale.write()], {"weight": pack(whole)} | sides("weight", made)),
        "i": (None, {"scale32": pack(whole[:2]), "blocks": pack(whole.astype(np.int16))}),
        "u": ([1, 1.0, 1e-7, 0.0], {"update4": pack(whole)}),
        "v": ([1.0], {"axes": pack(whole[:44].astype("i2")), "second": pack(whole.astype("i2"))}),
    }[kind]
    damaged = {}
    for (pool, data), random in zip(pools.items(), noise, strict=False):
        changed = bytearray(data)
        if at < len(changed) and rng.random() < 0.5:
            changed[at] = int(rng.integers(256))
        damaged[pool] = bytes(changed) if rng.random() < 0.9 else random
    blob = change("w", kind, params, pools | damaged, [("w", "m"), ("m", "v")])
    with at_most(1 << 26):
        try:
            decoded = read(blob)
        except CheckpointError:
            pass
        except RuntimeWarning:  # numbers that no encoder has made may leave the range
            pass
        else:
            assert all(decoded[name].shape == SHAPE for name in BASE)


@pytest.mark.parametrize("codec", ["balanced", "smallest", "int8"])
def test_every_changed_byte_and_every_truncation_of_matrices_is_noticed(codec):
    sides = (("kernel", (24, 20)),)
    base, state, other = matrices(2, sides=sides)
    encoder = DeltaEncoder(base, codec, roles(dict(sides)))
    blob = encoder.encode(state)
    decoder = DeltaDecoder(base)
    for position in range(0, len(blob), 1 + len(blob) // 400):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(blob)
            damaged[position] ^= flip
            with pytest.raises(CheckpointError):
                decoder.decode(bytes(damaged))
        with pytest.raises(CheckpointError):
            decoder.decode(blob[:position])
    decoder.decode(blob)
    decoder.decode(encoder.encode(other))


def test_entries_of_matrices_are_what_the_forger_makes():
    base, *states = matrices(3, sides=(("kernel", SHAPE),))
    ends = Ends(base, "balanced", roles(["kernel"]))
    for state in states:
        ends.send(state)
    entries = ends.entries()
    assert entries["m/kernel"].kind == "outer"
    assert Scale.read(entries["m/kernel"].params, MATRIX).rank <= min(SHAPE)
    assert entries["w/kernel"].kind == "lattice"
    assert len(entries["w/kernel"].params) == 6
