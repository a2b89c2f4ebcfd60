import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lc.core import LC, Balanced, DeltaDecoder, DeltaEncoder, TensorSpec
from keras_lc.errors import MismatchError, OptionError

from .chains import CODECS, FLOATS, SPECS, Ends, bits, examples, raw, rough, training


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_both_ends_agree_on_a_long_chain(codec):
    base, *states = training(80 if codec == "balanced" else 30)
    ends = Ends(base, codec, SPECS)
    for state in states:
        ends.send(state)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_both_ends_agree_without_specs(codec):
    base, *states = training(20)
    ends = Ends(base, codec)
    for state in states:
        ends.send(state)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_arrays_that_are_given_are_kept_where_they_are_bit_for_bit(codec):
    base, *states = training(9)
    copying, keeping = (DeltaEncoder(base, codec, SPECS) for _ in range(2))
    ends = Ends(base, codec, SPECS)
    for i, state in enumerate(states):
        own = None if i % 3 else "lossless"
        given = {name: array.copy() for name, array in state.items() if name != "m/kernel"}
        before = copying.reconstruction
        changed = {name for name in given if bits(state[name]) != bits(before[name])}
        blob = b"".join(keeping.pieces({**state, **given}, own, given=given))
        assert blob == copying.encode(state, own) == ends.encoder.encode(state, own)
        ends.decoder.decode(blob)
        found = keeping.reconstruction
        for name, array in ends.decoder.reconstruction.items():
            assert bits(found[name]) == bits(array)
        kept = {name for name in given if np.shares_memory(found[name], given[name])}
        assert kept == set(keeping.kept)
        assert not own or kept == changed
    assert b"".join(keeping.whole()) == b"".join(copying.whole())


@pytest.mark.parametrize("rate", [1e-7, 1e-2, 1.0])
def test_both_ends_agree_at_other_rates(rate):
    base, *states = training(40, seed=1, rate=rate)
    ends = Ends(base, "balanced", SPECS)
    for state in states:
        ends.send(state)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("specs", [SPECS, None], ids=["same specs", "no specs"])
def test_both_ends_agree_after_resume(codec, specs):
    base, *states = training(14)
    ends = Ends(base, codec, SPECS)
    written = [ends.encoder.encode(state) for state in states[:6]]
    for blob in written:
        ends.decoder.decode(blob)
    reread = DeltaDecoder(base)
    for blob in written:
        reread.decode(blob)
    ends.encoder = DeltaEncoder.resume(reread, codec, specs)
    for name, array in ends.encoder.reconstruction.items():
        assert bits(array) == bits(ends.decoder.reconstruction[name])
    for state in states[6:]:
        ends.send(state)


def test_resume_may_change_the_codec():
    base, *states = training(24)
    ends = Ends(base, "lossless")
    for position, codec in enumerate(CODECS.values()):
        ends.send(states[position])
        reread = DeltaDecoder(base)
        reread.chain = ends.encoder._chain
        ends.encoder = DeltaEncoder.resume(reread, codec, SPECS)
    ends.send(states[-1])


@pytest.mark.parametrize("override", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("codec", ["balanced", "lossless", "lc"])
def test_one_delta_may_have_another_codec(codec, override):
    base, *states = training(11)
    ends = Ends(base, codec, SPECS)
    for position, state in enumerate(states):
        ends.send(state, override if position % 4 == 2 else None)


def test_a_lossless_delta_in_a_balanced_chain_is_lossless():
    base, *states = training(12)
    ends = Ends(base, "balanced", SPECS)
    for state in states[:5]:
        ends.send(state)
    decoded = ends.send(states[5], "lossless")
    for name, array in states[5].items():
        assert bits(decoded[name]) == bits(array)
    for state in states[6:]:
        ends.send(state)


@given(
    st.sampled_from(FLOATS).flatmap(
        lambda dtype: st.lists(
            st.lists(st.one_of(raw(dtype, 9), rough(dtype, 9)), min_size=3, max_size=3),
            min_size=2,
            max_size=5,
        )
    ),
    st.lists(st.sampled_from([*CODECS.values()]), min_size=4, max_size=4),
)
@examples(200)
def test_both_ends_agree_whatever_the_values(states, codecs):
    states = [dict(zip(["w", "m", "v"], state, strict=True)) for state in states]
    specs = [TensorSpec("m", "first_moment", "w"), TensorSpec("v", "second_moment", "w")]
    codecs = [{"*": codec} if not isinstance(codec, dict) else "balanced" for codec in codecs]
    with np.errstate(all="ignore"):
        ends = Ends(states[0], codecs[0], specs)
        for state, codec in zip(states[1:], codecs, strict=False):
            ends.send(state, codec)


@given(
    st.sampled_from(FLOATS).flatmap(
        lambda dtype: st.lists(rough(dtype, 40), min_size=3, max_size=6)
    ),
    st.sampled_from(["balanced", "lc", "lossless", "smallest", "int8"]),
)
@examples(100)
def test_finite_states_need_no_warning(states, codec):
    states = [{"w": array, "v": np.abs(array), "m": array} for array in states]
    specs = [TensorSpec("m", "first_moment", "w"), TensorSpec("v", "second_moment", "w")]
    ends = Ends(states[0], codec, specs)
    for state in states[1:]:
        ends.send(state)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_the_same_states_give_the_same_bytes(codec):
    base, *states = training(5)
    shuffled = [dict(reversed(state.items())) for state in states]
    one, other = DeltaEncoder(base, codec, SPECS), DeltaEncoder(base, codec, SPECS[::-1])
    for state, turned in zip(states, shuffled, strict=True):
        assert one.encode(state) == other.encode(turned)


@pytest.mark.parametrize("codec", ["balanced", "fast", "smallest"])
def test_a_moment_of_another_shape_does_not_depend_on_what_is_planned_first(codec):
    rng = np.random.default_rng(0)
    w, m = rng.normal(size=(40, 30)), rng.normal(size=(30, 40))
    found = []
    for weight, moment in ("ab", "ba"):
        ends = Ends({weight: w, moment: m}, codec, [TensorSpec(moment, "first_moment", weight)])
        decoded = ends.send({weight: w + 0.1 * m.reshape(w.shape), moment: 1.1 * m})
        found.append(bits(decoded[moment]))
    assert found[0] == found[1]


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_inputs_are_neither_changed_nor_kept(codec):
    base, *states = training(6)
    live = {name: array.copy() for name, array in base.items()}
    ends = Ends(live, codec, SPECS)
    for array in live.values():
        array[...] = 1
    for state in states:
        live = {name: array.copy() for name, array in state.items()}
        blob = ends.encoder.encode(live)
        for name, array in state.items():
            assert bits(live[name]) == bits(array)
            live[name][...] = 1
        ends.check(state, ends.decoder.decode(blob))


@pytest.mark.parametrize("codec", ["lossless", "balanced", "lc"])
def test_read_only_inputs_are_taken(codec):
    base, *states = training(3)
    ends = Ends(base, codec, SPECS)
    for state in states:
        frozen = {name: array.copy() for name, array in state.items()}
        for array in frozen.values():
            array.flags.writeable = False
        ends.send(frozen)


@pytest.mark.parametrize("codec", ["lossless", "balanced", "lc"])
def test_the_reconstruction_is_a_read_only_mapping(codec):
    base, state = training(1)
    encoder = DeltaEncoder(base, codec, SPECS)
    encoder.encode(state)
    assert sorted(encoder.reconstruction) == sorted(base)
    assert len(encoder.reconstruction) == len(base)
    for array in encoder.reconstruction.values():
        assert not array.flags.writeable
    with pytest.raises(KeyError):
        encoder.reconstruction["no such tensor"]


def test_before_the_first_delta_the_reconstruction_is_the_base():
    base, _ = training(1)
    for name, array in DeltaEncoder(base).reconstruction.items():
        assert bits(array) == bits(base[name])


@pytest.mark.parametrize("name", [name for name in CODECS if name != "int8"])  # no reference
def test_an_unchanged_state_costs_next_to_nothing(name):
    rng = np.random.default_rng(0)
    state = {
        "w": rng.normal(size=100_000).astype(np.float32),
        "m": rng.normal(size=100_000).astype(np.float32),
        "v": rng.random(100_000).astype(np.float32),
    }
    specs = [TensorSpec("m", "first_moment", "w"), TensorSpec("v", "second_moment", "w")]
    ends = Ends(state, CODECS[name], specs)
    ends.send(state)
    for _ in range(3):
        ends.send(state)
        assert ends.size < 200


@pytest.mark.parametrize("codec", ["balanced", "lossless"])
def test_a_state_that_stands_still_after_moving_costs_next_to_nothing(codec):
    rng = np.random.default_rng(0)
    base = rng.normal(size=100_000).astype(np.float32)
    moved = base + (1e-3 * rng.normal(size=base.size)).astype(np.float32)
    ends = Ends({"w": base}, codec)
    ends.send({"w": moved})
    for _ in range(4):
        ends.send({"w": moved})
        assert ends.size < 200


@pytest.mark.parametrize("codec", ["lossless", "balanced"])
def test_a_thousand_biases_cost_hardly_more_than_one_tensor(codec):
    rng = np.random.default_rng(0)
    base = rng.normal(size=(1000, 16)).astype(np.float32)
    moved = base + (1e-3 * rng.normal(size=base.shape)).astype(np.float32)
    whole = DeltaEncoder({"w": base}, codec).encode({"w": moved})
    split = DeltaEncoder({f"b/{i:03}": row for i, row in enumerate(base)}, codec)
    parts = split.encode({f"b/{i:03}": row for i, row in enumerate(moved)})
    assert len(parts) < len(whole) + 2500


def test_balanced_is_small():
    rng = np.random.default_rng(0)
    base = {"w": rng.normal(size=100_000).astype(np.float32)}
    moved = {"w": base["w"] + (1e-3 * rng.normal(size=100_000)).astype(np.float32)}
    assert len(DeltaEncoder(base).encode(moved)) < base["w"].nbytes / 20


def test_the_prediction_from_the_moments_saves_bytes():
    rng = np.random.default_rng(0)
    direction = rng.normal(size=50_000)
    base = rng.normal(size=50_000).astype(np.float32)
    moved = base + (1e-3 * direction + 3e-4 * rng.normal(size=50_000)).astype(np.float32)
    first = {"w": base, "m": 0 * base, "v": 0 * base}
    then = {"w": moved, "m": direction.astype(np.float32), "v": np.ones_like(base)}
    roles = [TensorSpec("m", "first_moment", "w"), TensorSpec("v", "second_moment", "w")]
    blind = [TensorSpec("m", "first_moment"), TensorSpec("v", "second_moment")]
    codec = Balanced(tolerance=0.2)
    sizes = {}
    for name, specs in {"told": roles, "blind": blind}.items():
        sizes[name] = len(DeltaEncoder(first, codec, specs).encode(then))
    assert sizes["told"] < 0.9 * sizes["blind"]


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_the_number_of_steps_may_be_named_and_need_not_be_right(codec):
    base, *states = training(12)
    ends = Ends(base, codec, SPECS)
    for state, steps in zip(states, [1, 1, None, 0, 5, 100, 10**6, 1, None, 2, 3, 1], strict=True):
        ends.send(state, steps=steps)


def test_an_empty_state_is_a_state():
    ends = Ends({})
    assert ends.send({}) == {}


def test_a_missing_tensor_is_named():
    encoder = DeltaEncoder({"a": np.zeros(2), "b/c": np.zeros(2)})
    with pytest.raises(MismatchError, match=r"missing.*'b/c'"):
        encoder.encode({"a": np.zeros(2)})


def test_a_surplus_tensor_is_named():
    encoder = DeltaEncoder({"a": np.zeros(2)})
    with pytest.raises(MismatchError, match=r"not in the base.*'b/c'"):
        encoder.encode({"a": np.zeros(2), "b/c": np.zeros(2)})


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros(3), r"float64\[3\]"),
        (np.zeros((2, 1)), r"float64\[2, 1\]"),
        (np.zeros(2, np.float32), r"float32\[2\]"),
        (np.zeros(2, np.int64), r"int64\[2\]"),
    ],
)
def test_another_shape_or_dtype_is_named(array, found):
    encoder = DeltaEncoder({"a": np.zeros(2), "b": np.zeros(2)})
    with pytest.raises(MismatchError, match=rf"'b' is {found}.*float64\[2\]"):
        encoder.encode({"a": np.zeros(2), "b": array})


def test_objects_are_refused_by_name():
    with pytest.raises(OptionError, match="'a' holds Python objects"):
        DeltaEncoder({"a": np.array([None])})


def test_a_refused_state_leaves_the_chain_as_it_was():
    base, *states = training(4)
    ends = Ends(base, "balanced", SPECS)
    ends.send(states[0])
    with pytest.raises(MismatchError):
        ends.encoder.encode({})
    with pytest.raises(OptionError):
        ends.encoder.encode(states[1], "no such codec")
    with pytest.raises(OptionError):
        ends.encoder.encode(states[1], {"w/*": "lossless"})
    ends.send(states[1])


def test_an_unknown_codec_is_refused_at_once():
    for codec in ("zip", {"*": "zip"}, {"b": "lossless"}, None, 3, [LC(2)]):
        with pytest.raises(OptionError):
            DeltaEncoder({"a": np.zeros(2)}, codec)


def test_a_state_of_other_tensors_does_not_fit():
    base, state = training(1)
    encoder = DeltaEncoder(base)
    assert encoder.fits(state)
    assert not encoder.fits({"a": np.zeros(2)})


@pytest.mark.parametrize("codec", ["balanced", "lossless", "lc"])
def test_a_reconstruction_is_not_changed_by_later_deltas(codec):
    base, *states = training(4)
    encoder, decoder = DeltaEncoder(base, codec), DeltaDecoder(base)
    kept = []
    for state in states:
        decoded = decoder.decode(encoder.encode(state))
        frozen = {name: array.copy() for name, array in decoded.items()}
        kept.append((decoded, encoder.reconstruction, frozen))
    for decoded, encoded, frozen in kept:
        for name, array in frozen.items():
            assert decoded[name].tobytes() == encoded[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_the_error_that_was_made_is_told(codec):
    base, *states = training(6)
    encoder = DeltaEncoder(base, codec, SPECS)
    for state in states:
        encoder.encode(state)
    made = []
    for spec in encoder.specs:
        if spec.role == "weight" and state[spec.name].dtype.kind == "f" and state[spec.name].size:
            live = state[spec.name].astype(np.float64)
            missed = encoder.reconstruction[spec.name].astype(np.float64) - live
            made.append(np.sqrt(np.square(missed).mean() / np.square(live).mean()))
    assert encoder.error() == pytest.approx(max(made), rel=0.02)
    assert (encoder.error() == 0) == (codec == "lossless")


def test_there_is_no_error_in_what_goes_bit_for_bit():
    values = np.linspace(-1, 1, 50, dtype=np.float32)
    encoder = DeltaEncoder({"w": values, "huge": values, "zero": values}, "balanced")
    assert encoder.error() == 0
    odd = np.append(values[:-1] + 1, np.float32(np.nan))
    encoder.encode({"w": odd, "huge": values * 3e38, "zero": 0 * values})
    assert 0 <= encoder.error() < 0.05
