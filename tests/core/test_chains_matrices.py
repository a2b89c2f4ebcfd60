"""Chains of larger matrices, whose movement and momentum are outer products."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lc.core import PRESETS, Balanced, DeltaDecoder, DeltaEncoder, balance
from keras_lc.core.codecs import lattice
from keras_lc.core.matrix import view

from .chains import ROOMY, SIDES, Ends, bits, examples, finite, matrices, name_of, roles, rough

CODECS = ["lossless", "balanced", "smallest", "lc", "int8"]
LOSSY = ["balanced", "smallest"]
TALL = (("kernel", (40, 25)), ("bias", (25,)))
SPECS = {"adam": roles(SIDES), "momentum": roles(SIDES, "m")}


def rms(array):
    return float(np.sqrt(np.mean(np.square(array.astype(np.float64)))))


def test_the_shapes_are_those_of_matrices_and_of_a_vector():
    assert [bool(view(shape)) for shape in SIDES.values()] == [True, True, False]
    assert view(dict(TALL)["kernel"])


@pytest.mark.parametrize("dtype", ROOMY, ids=name_of)
@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
@pytest.mark.parametrize("codec", CODECS)
def test_both_ends_agree_on_matrices(codec, optimizer, dtype):
    base, *states = matrices(6, dtype, optimizer)
    ends = Ends(base, codec, SPECS[optimizer])
    kinds = {name: set() for name in base}
    factored = set()
    for state in states:
        decoded = ends.send(state)
        for name, entry in ends.entries().items():
            kinds[name].add(entry.kind)
            matrix = view(state[name].shape)
            if entry.kind == "lattice" and lattice.Step.read(entry.params, matrix).scale:
                factored.add(name)
        for name in state:
            if codec == "lossless":
                assert bits(decoded[name]) == bits(state[name])
            if name.startswith("v/") and codec in ("balanced", "smallest", "int8"):
                assert ((decoded[name] == 0) == (state[name] == 0)).all()
                assert finite(decoded[name])
    if codec in LOSSY:
        assert factored == {"w/dense", "w/conv"}
        assert "outer" in kinds["m/dense"] & kinds["m/conv"]
        assert kinds["w/bias"] == {"lattice"}
    if codec == "int8":
        own = {"w": {"blocks"}, "m": {"blocks"}, "v": {"second"}}
        assert all(found == own[name[0]] for name, found in kinds.items())


@pytest.mark.parametrize(
    ("codec", "optimizer"),
    [(Balanced(), "adam"), (PRESETS["smallest"], "momentum")],
    ids=LOSSY,
)
def test_errors_of_matrices_do_not_grow_over_two_hundred_deltas(codec, optimizer):
    base, *states = matrices(200, np.float32, optimizer, sides=TALL)
    specs = roles(dict(TALL), "mv" if optimizer == "adam" else "m")
    ends, before, fastest = Ends(base, codec, specs), base["w/kernel"], 0.0
    errors, shares = [], []
    for state in states:
        decoded = ends.send(state)
        moved = rms(state["w/kernel"] - before)
        before, fastest = state["w/kernel"], max(fastest, moved)
        entry = ends.entries()["w/kernel"]
        assert entry.kind == "lattice"
        off = np.abs(decoded["w/kernel"].astype(np.float64) - state["w/kernel"])
        step = 2.0 ** lattice.Step.read(entry.params, view(off.shape)).exponent
        rounding = 4 * np.finfo(np.float32).eps * np.abs(state["w/kernel"]).max()
        assert off.max() <= 2 * lattice.FAR * step + rounding
        errors.append(rms(off))
        # not in steps: these are rounded to a power of two
        shares.append(rms(off) / max(moved, balance._SLOW * fastest))
    assert np.mean(errors[-40:]) <= 0.8 * np.mean(errors[20:60])  # since movements get slower
    assert np.mean(shares[-40:]) <= 1.7 * np.mean(shares[20:60])


@pytest.mark.parametrize("dtype", ROOMY, ids=name_of)
@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_a_chain_of_matrices_is_resumed_from_a_decoder(optimizer, dtype):
    base, *states = matrices(9, dtype, optimizer)
    specs = SPECS[optimizer]
    ends = Ends(base, "balanced", specs)
    written = [ends.encoder.encode(state) for state in states[:4]]
    reread = DeltaDecoder(base)
    for blob in written:
        ends.decoder.decode(blob)
        reread.decode(blob)
    ends.encoder = DeltaEncoder.resume(reread, "balanced", specs)
    ends.check(base, ends.decoder.reconstruction)
    for state, codec in zip(states[4:], [None, "smallest", "lossless", "int8", None], strict=True):
        ends.send(state, codec)


@pytest.mark.parametrize("dtype", ROOMY, ids=name_of)
def test_one_delta_of_a_chain_may_have_another_codec(dtype):
    base, *states = matrices(11, dtype)
    ends = Ends(base, "balanced", SPECS["adam"])
    for state, codec in zip(
        states, [None, "lossless", None, *CODECS, None, "lc", None], strict=True
    ):
        decoded = ends.send(state, codec)
        if codec == "lossless":
            for name in state:
                assert bits(decoded[name]) == bits(state[name])


@pytest.mark.parametrize("codec", LOSSY)
@pytest.mark.parametrize("kept", ["w/*", "m/*", "v/*", "*/dense"])
def test_some_tensors_may_be_lossless_beside_matrices_that_are_not(codec, kept):
    base, *states = matrices(5)
    ends = Ends(base, {kept: "lossless", "*": codec}, SPECS["adam"])
    for state in states:
        decoded = ends.send(state)
        for name in state:
            if kept[0] == name[0] or name.endswith(kept[1:]):
                assert bits(decoded[name]) == bits(state[name])


def future(state, name, optimizer):
    """Where a weight arrives when no gradient follows."""
    w, m = (state[f"{part}/{name}"].astype(np.float64) for part in "wm")
    if optimizer == "adam":
        m = -1e-3 * m / (np.sqrt(state[f"v/{name}"].astype(np.float64)) + 1e-7)
    return w, 9 * m


@pytest.mark.parametrize("codec", [Balanced(), PRESETS["smallest"]], ids=LOSSY)
@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_momentum_that_is_not_stored_is_in_the_weights(codec, optimizer):
    base, *states = matrices(12, np.float64, optimizer)
    ends = Ends(base, codec, SPECS[optimizer])
    for state in states:
        decoded = ends.send(state, steps=1)
        for name in ("dense", "conv"):
            (w, way), (w_hat, way_hat) = (future(s, name, optimizer) for s in (state, decoded))
            assert rms(w_hat + way_hat - w - way) < 0.9 * rms(way_hat - way)


@given(
    st.sampled_from(ROOMY).flatmap(
        lambda dtype: st.lists(
            st.lists(rough(dtype, 480, low=-40, high=15), min_size=3, max_size=3),
            min_size=3,
            max_size=4,
        )
    ),
    st.sampled_from(CODECS),
    st.booleans(),
)
@examples(60)
def test_both_ends_agree_on_matrices_of_any_values_without_a_warning(states, codec, positive):
    states = [
        {
            "w/x": w.reshape(20, 24),
            "m/x": m.reshape(24, 20),
            "v/x": (np.abs(v) if positive else v).reshape(2, 10, 24),
        }
        for w, m, v in states
    ]
    ends = Ends(states[0], codec, roles(["x"]))
    for state in states[1:]:
        ends.send(state)
