"""Chains of tensors of several tiles."""

from functools import cache

import ml_dtypes
import numpy as np
import pytest

from keras_lc import workers as threads
from keras_lc.core import PRESETS, DeltaDecoder, DeltaEncoder, TensorSpec, balance, report, tiles
from keras_lc.core import blob as blobs
from keras_lc.core.codecs import lattice, second
from keras_lc.core.matrix import view
from keras_lc.core.streams import large

from .chains import CODECS, ROOMY, Ends, bits, finite, name_of

SMALL = 256
SIZES = [SMALL - 1, SMALL, SMALL + 1, 4 * SMALL, 4 * SMALL + 1, 9 * SMALL + 7]
# rows that no tile ends with, columns longer than a tile, tensors of one tile and of none
SHAPES = [(24, 20), (40, 33), (10, 700), (3, 3, 16, 9), (300, 5), (16, 256), (0, 3), (1,), ()]
ROLES = [TensorSpec("m", "first_moment", "w"), TensorSpec("v", "second_moment", "w")]
of_each_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
of_each_dtype = pytest.mark.parametrize("dtype", ROOMY, ids=name_of)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "TILE", SMALL)
    monkeypatch.setattr(second, "TILE", SMALL)


@cache
def moving(shape, dtype=np.float32, deltas=3):
    """A base and the states after it, of one weight under Adam."""
    rng = np.random.default_rng(0)
    w, m, v = 0.2 * rng.normal(size=shape), np.zeros(shape), np.zeros(shape)
    goal, states = w + rng.normal(size=shape), []
    for _ in range(deltas + 1):
        gradient = w - goal + 0.3 * rng.normal(size=shape)
        m, v = 0.9 * m + 0.1 * gradient, 0.99 * v + 0.01 * gradient**2
        w = w - 1e-2 * m / (np.sqrt(v) + 1e-7)
        arrays = {"w": w, "m": m, "v": v}
        states.append({name: np.asarray(array).astype(dtype) for name, array in arrays.items()})
    return states


def sent(states, codec, specs=ROLES):
    """Both ends after all states, which they agree on, and what was decoded of each."""
    ends = Ends(states[0], codec, specs)
    return ends, [ends.send(state) for state in states[1:]]


def check(states, found, codec):
    for state, decoded in zip(states[1:], found, strict=True):
        for name, live in state.items():
            if codec == "lossless":
                assert bits(decoded[name]) == bits(live)
            assert finite(decoded[name])
        assert ((decoded["v"] == 0) == (state["v"] == 0)).all()


@of_each_codec
@pytest.mark.parametrize("size", SIZES)
def test_both_ends_agree_on_vectors_of_some_tiles(size, codec, small_tiles):
    states = moving((size,))
    check(states, sent(states, codec)[1], codec)


@pytest.mark.parametrize(
    ("codec", "shape"),
    [
        *[(codec, shape) for codec in PRESETS for shape in SHAPES],
        *[(codec, (40, 33)) for name, codec in CODECS.items() if name not in PRESETS],
    ],
    ids=str,
)
def test_both_ends_agree_on_matrices_of_some_tiles(shape, codec, small_tiles):
    states = moving(shape)
    check(states, sent(states, codec)[1], codec)


@of_each_dtype
@pytest.mark.parametrize("codec", PRESETS)
@pytest.mark.parametrize("shape", [(1500,), (40, 33)], ids=str)
def test_both_ends_agree_on_tiles_of_each_dtype(shape, codec, dtype, small_tiles, monkeypatch):
    monkeypatch.setattr("keras_lc.core.live._SAMPLE", 100)  # samples that begin anywhere in a tile
    states = moving(shape, dtype)
    check(states, sent(states, codec)[1], codec)


@pytest.mark.parametrize("dtype", ["i1", "u2", ">i4", "c8", "U3", "?", ml_dtypes.float8_e5m2])
@pytest.mark.parametrize("codec", ["lossless", "balanced"])
def test_tiles_of_what_is_never_lossy_come_back(codec, dtype, small_tiles):
    rng = np.random.default_rng(0)
    states = [{"x": rng.integers(0, 2, 2100).astype(dtype)} for _ in range(4)]
    _, found = sent(states, codec, None)
    for state, decoded in zip(states[1:], found, strict=True):
        assert bits(decoded["x"]) == bits(state["x"])


@pytest.mark.parametrize("codec", PRESETS)
@pytest.mark.parametrize(
    "shape",
    [
        *[(tiles.TILE + off,) for off in (-1, 0, 1)],
        (725, 730),
    ],
    ids=str,
)
def test_both_ends_agree_on_real_tiles(shape, codec):
    states = moving(shape, deltas=2)
    ends, found = sent(states, codec)
    check(states, found, codec)
    _, pools = blobs.unpack(ends.blob, 3)
    assert any(pool == large(pool[:-1]) for pool in pools) == (np.prod(shape) > tiles.TILE)


@of_each_codec
def test_the_number_of_threads_does_not_show(codec, small_tiles, monkeypatch):
    shapes = {"a": (2500,), "b": (40, 33), "c": (300,), "d": (33, 40)}
    states = [
        {
            f"{part}/{name}": moving(shape)[at][part]
            for name, shape in shapes.items()
            for part in "wmv"
        }
        for at in range(4)
    ]
    kinds = {"m": "first_moment", "v": "second_moment"}
    specs = [
        TensorSpec(f"{part}/{name}", kind, f"w/{name}")
        for part, kind in kinds.items()
        for name in shapes
    ]
    # a moment of another shape than its weight is planned beside it
    specs[3] = TensorSpec("m/d", "first_moment", "w/b")
    if isinstance(codec, dict):
        codec = {pattern.replace("kernel", "a"): name for pattern, name in codec.items()}
    written = {}
    for count in (1, 2, 4):
        monkeypatch.setattr(threads, "THREADS", count)
        encoder = DeltaEncoder(states[0], codec, specs)
        written[count] = [encoder.encode(state) for state in states[1:]]
    assert written[1] == written[2] == written[4]
    for count in (1, 3):
        monkeypatch.setattr(threads, "THREADS", count)
        decoder = DeltaDecoder(states[0])
        for blob in written[4]:
            decoded = decoder.decode(blob)
        for name, array in encoder.reconstruction.items():
            assert bits(decoded[name]) == bits(array)


@pytest.mark.parametrize("codec", PRESETS)
@pytest.mark.parametrize("shape", [(1500,), (9 * SMALL,), (40, 33), (10, 700)], ids=str)
def test_what_a_value_becomes_does_not_depend_on_its_tile(shape, codec, small_tiles, monkeypatch):
    monkeypatch.setattr("keras_lc.core.live._SAMPLE", 100)
    states = [{name: state[name] for name in "wm"} for state in moving(shape)]
    cut, apart = sent(states, codec, ROLES[:1])
    monkeypatch.setattr(tiles, "TILE", 1 << 16)
    whole, together = sent(states, codec, ROLES[:1])
    assert cut.entries() == whole.entries()
    for one, other in zip(apart, together, strict=True):
        for name in one:
            assert bits(one[name]) == bits(other[name])


@of_each_codec
def test_a_chain_of_tiles_is_resumed_from_a_decoder(codec, small_tiles):
    base, *states = moving((1500,), deltas=6)
    ends = Ends(base, codec, ROLES)
    written = [ends.encoder.encode(state) for state in states[:3]]
    reread = DeltaDecoder(base)
    for blob in written:
        ends.decoder.decode(blob)
        reread.decode(blob)
    ends.encoder = DeltaEncoder.resume(reread, codec, ROLES)
    for state, other in zip(states[3:], [None, "lossless", None], strict=True):
        ends.send(state, other)


@pytest.mark.parametrize("order", [list(PRESETS), list(PRESETS)[::-1]], ids=["down", "up"])
@pytest.mark.parametrize("shape", [(1500,), (40, 33)], ids=str)
def test_tiles_of_one_codec_are_taken_over_by_the_next(shape, order, small_tiles):
    base, *states = moving(shape, deltas=12)
    ends = Ends(base, "balanced", ROLES)
    for state, codec in zip(states, [*order, None, *order[::-2]], strict=False):
        decoded = ends.send(state, codec)
        if codec == "lossless":
            assert all(bits(decoded[name]) == bits(state[name]) for name in state)


@pytest.mark.parametrize("codec", PRESETS)
@pytest.mark.parametrize("shape", [(1500,), (40, 33)], ids=str)
def test_a_report_knows_the_bytes_and_errors_of_tiles(shape, codec, small_tiles):
    base, *_, state = moving(shape)
    ends = Ends(base, codec, ROLES)
    decoded = ends.send(state)
    rows = report(base, state, codec, ROLES)
    total = sum(row.bits * state[row.name].size / 8 for row in rows)
    assert ends.size - 700 < total < ends.size + 100  # of a few symbols, each on its own
    for row in rows:
        off = decoded[row.name].astype(np.float64) - state[row.name].astype(np.float64)
        assert row.largest_error == np.abs(off).max()
        assert row.kind == ends.entries()[row.name].kind


@of_each_dtype
@pytest.mark.parametrize("told", [True, False], ids=["told", "blind"])
@pytest.mark.parametrize("shape", [(1500,), (40, 33), (10, 700)], ids=str)
def test_fast_keeps_every_weight_within_half_a_step(shape, told, dtype, small_tiles):
    base, *states = moving(shape, dtype, 10)
    if not told:
        base, *states = ({"w": state["w"]} for state in (base, *states))
    ends, before, fastest = Ends(base, "fast", ROLES if told else []), base["w"], 0.0
    real, seen = np.float64 if dtype is np.float64 else np.float32, set()
    for state in states:
        decoded, entry = ends.send(state)["w"].astype(np.float64), ends.entries()["w"]
        live = state["w"].astype(np.float64)
        largest, moved = np.abs(live).max(), np.sqrt(np.mean((live - before) ** 2))
        before, fastest = live, max(fastest, moved)
        wanted = PRESETS["fast"].tolerance * max(moved, balance._SLOW * fastest)
        most = 2**0.5 * max(balance._STEP**0.5 * wanted, float(np.finfo(real).eps) * largest)
        step = most
        if entry.kind != "same":
            read = lattice.Step.read(entry.params, view(shape))
            seen.add(read.beta != 0)
            step = 2.0**read.exponent
            assert step <= 1.01 * most
            assert read.scale is None
        rounding = float(ml_dtypes.finfo(dtype).eps) / 2 + 4 * float(np.finfo(real).eps)
        assert np.abs(decoded - live).max() <= step / 2 + rounding * (largest + step)
    assert seen == ({True, False} if told else {False}) or seen == {told}


@of_each_dtype
def test_blocks_are_256_values_of_the_flat_tensor(dtype, small_tiles):
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.normal(size=13)).repeat(256)[: 12 * 256 + 9]
    live = (sizes * rng.uniform(-1, 1, sizes.size)).astype(dtype)
    decoded = Ends({"w": 0 * live}, "int8").send({"w": live})["w"].astype(np.float64)
    info, wide = ml_dtypes.finfo(dtype), live.astype(np.float64)
    for first in range(0, live.size, 256):
        block, found = wide[first : first + 256], decoded[first : first + 256]
        largest = np.abs(block).max()
        bound = largest / 254 + np.abs(found) * float(info.eps) / 2 + 1e-12 * largest
        assert (np.abs(block - found) <= bound).all()
        assert np.abs(found).max() == pytest.approx(largest, rel=1e-12)


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize("place", [1, 700, 1499])
@pytest.mark.parametrize("codec", ["balanced", "fast", "lc", "int8"])
@pytest.mark.parametrize("shape", [(1500,), (30, 50)], ids=str)
def test_what_is_not_finite_in_one_tile_is_kept_exactly(
    shape, codec, place, bad, small_tiles, monkeypatch
):
    monkeypatch.setattr("keras_lc.core.live._SAMPLE", 100)
    base, *states = moving(shape, deltas=4)
    ends = Ends(base, codec, ROLES)
    lossy = [name for name in "wmv" if name == "w" or codec != "lc"]
    ends.send(states[0])
    for name in lossy:
        sick = {other: array.copy() for other, array in states[1].items()}
        sick[name].reshape(-1)[place] = bad
        decoded = ends.send(sick)
        assert bits(decoded[name]) == bits(sick[name])
        assert all(finite(decoded[other]) for other in "wmv" if other != name)
        for state in states[2:]:
            check([base, state], [ends.send(state)], codec)
    kinds = {name: entry.kind for name, entry in ends.entries().items()}
    assert not {"difference", "plain"} & {kinds[name] for name in lossy}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 700, 1499])
def test_what_is_not_finite_is_kept_beside_movements_of_other_buckets(place, bad, small_tiles):
    base = np.zeros(1500, np.float32)
    then = 100 * np.random.default_rng(0).normal(size=1500).astype(np.float32)
    then[place] = bad
    assert bits(Ends({"w": base}, "lc").send({"w": then})["w"]) == bits(then)
    assert bits(Ends({"w": then}, "lc").send({"w": base})["w"]) == bits(base)


@pytest.mark.parametrize("phase", [1.1, 1.4, 2.3, 3.1, 5.7])
@pytest.mark.parametrize("shape", [(1500,), (40, 33)], ids=str)
def test_the_size_of_the_coming_updates_is_kept_over_all_tiles(shape, phase, small_tiles):
    rng = np.random.default_rng(0)
    m = rng.normal(size=shape).astype(np.float32)
    v = np.full(shape, phase, np.float32)
    v.reshape(-1)[:SMALL] = 1
    for codec in ("balanced", "fast", "int8"):
        ends = Ends({"w": m, "m": 0 * m, "v": 0 * v}, codec, ROLES)
        v_hat = ends.send({"w": m, "m": m, "v": v})["v"]
        size = np.ones_like(m) if codec == "int8" else m**2 / np.sqrt(v)
        assert abs(np.sum(size * np.sqrt(v / v_hat)) / np.sum(size) - 1) < 0.04


def test_a_first_moment_that_is_not_finite_is_kept_where_the_second_is_zero():
    m, v = np.linspace(-1, 1, 300, dtype=np.float32), np.ones(300, np.float32)
    sick = m.copy()
    v[7], sick[7] = 0, np.nan
    for codec in ("balanced", "fast", "smallest", "int8"):
        ends = Ends({"w": m, "m": m, "v": v}, codec, ROLES)
        assert bits(ends.send({"w": m, "m": sick, "v": v})["m"]) == bits(sick)


@pytest.mark.parametrize("place", [1, -1])
@pytest.mark.parametrize("codec", ["balanced", "fast"])
@pytest.mark.parametrize("shape", [(1500,), (30, 50)], ids=str)
def test_one_tile_that_is_too_far_for_the_lattice_makes_the_tensor_exact(
    shape, codec, place, small_tiles, monkeypatch
):
    monkeypatch.setattr("keras_lc.core.live._SAMPLE", 100)  # of which that value is none
    states = [{"w": state["w"].copy()} for state in moving(shape, deltas=7)]
    for state in states[3:5]:
        state["w"].reshape(-1)[place] = 2.0**14
    ends, kept = Ends(states[0], codec), []
    for state in states[1:]:
        decoded = ends.send(state)["w"]
        kept.append(ends.entries()["w"].kind in ("difference", "plain"))
        assert (bits(decoded) == bits(state["w"])) == kept[-1]
        assert np.abs(decoded - state["w"]).max() < 0.1
    assert kept == [False, False, True, False, True, False, False]


@pytest.mark.parametrize(
    ("codec", "shape", "limit"),
    [
        ("fast", (1500,), 1 << 11),
        ("fast", (30, 50), 1 << 11),
        ("balanced", (30, 50), 1 << 13),
    ],
    ids=str,
)
@pytest.mark.parametrize("place", [0, 700, 1499])
def test_integers_of_no_tile_outgrow_the_lattice(
    shape, codec, limit, place, small_tiles, monkeypatch
):
    monkeypatch.setattr(lattice, "LIMIT", limit)
    monkeypatch.setattr("keras_lc.core.live._SAMPLE", 100)
    rng = np.random.default_rng(0)
    base, *states = moving(shape, deltas=60 if codec == "balanced" else 30)
    ends, flags = Ends(base, codec, ROLES), set()
    walk = 0.0
    for state in states:
        walk += 0.4 * rng.random()
        w = state["w"].copy()
        w.reshape(-1)[place] += walk
        decoded = ends.send(state | {"w": w})
        entry = ends.entries()["w"]
        flags.add((entry.kind, bool(entry.kind == "lattice" and entry.params[2] & 1)))
        for tile in ends.decoder.chain.tensors[ends.decoder.chain.table.index["w"]]:
            q = getattr(tile, "q", None)
            assert q is None or np.abs(q.array).max() <= q.most <= lattice.LIMIT
        assert np.abs(decoded["w"] - w).max() < 0.5
    assert {("lattice", False), ("lattice", True)} <= flags


@of_each_codec
@pytest.mark.parametrize("parts", ["wmv", "wm"])
@pytest.mark.parametrize("shape", [(1500,), (40, 33)], ids=str)
def test_large_inputs_are_neither_changed_nor_kept(shape, parts, codec, small_tiles):
    base, *states = ({name: state[name] for name in parts} for state in moving(shape, deltas=2))
    ends = Ends(base, codec, ROLES[: len(parts) - 1])
    for state in states:
        live = {name: array.copy() for name, array in state.items()}
        blob = ends.encoder.encode(live)
        for name, array in live.items():
            assert bits(array) == bits(state[name])
            array[...] = 1
        ends.check(state, ends.decoder.decode(blob))


@pytest.mark.parametrize("codec", PRESETS)
def test_large_inputs_may_be_read_only_and_of_any_strides(codec, small_tiles):
    def frozen(array):
        array.flags.writeable = False
        return array

    def strided(array):
        return np.repeat(array, 2, axis=0)[::2]

    base, *states = moving((40, 33))
    encoders = {
        change: DeltaEncoder({name: change(a.copy()) for name, a in base.items()}, codec, ROLES)
        for change in (np.ascontiguousarray, frozen, strided, np.asfortranarray)
    }
    for state in states:
        written = {
            encoder.encode({name: change(a.copy()) for name, a in state.items()})
            for change, encoder in encoders.items()
        }
        assert len(written) == 1
