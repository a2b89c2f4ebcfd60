import json

import keras
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_lc.core.codecs import exact, update
from keras_lc.errors import DamagedError

from .chains import bits, examples, name_of, raw

DTYPES = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ">f4"]
PRECISE = [np.float32, np.float64]
NUMBERS = st.one_of(
    st.floats(-1e300, 1e300), st.sampled_from([0, 1, -1, 1e-7, 1e-3, 5e-324, 1e300, 10**300])
)
STEP = 20


def adam(dtype=np.float32, size=20_000, decay=0.0, epsilon=1e-7, steps=STEP, idle=0.0, seed=0):
    """Weights and moments after each step of Adam, as Keras computes it."""
    rng = np.random.default_rng(seed)
    one = np.dtype(dtype).type
    w = (0.05 * rng.normal(size=size)).astype(dtype)
    m, v = np.zeros_like(w), np.zeros_like(w)
    scale = 1e-3 * np.exp(1.5 * rng.normal(size=size)) * (rng.random(size) >= idle)
    states = [(w, m, v)]
    for t in range(1, steps + 1):
        g = (scale * rng.normal(size=size)).astype(dtype)
        m = m + (g - m) * one(0.1)
        v = v + (g * g - v) * one(0.01)
        alpha = one(1e-3 * (1 - 0.99**t) ** 0.5 / (1 - 0.9**t))
        w = w - w * one(decay) * one(1e-3)
        w = w - (m * alpha) / (np.sqrt(v) + one(epsilon))
        states.append((w, m, v))
    return states


def sgd(dtype=np.float32, size=20_000, nesterov=False, decay=0.0, seed=0):
    """Weights, moments and earlier moments around a step of SGD, as Keras computes it."""
    rng = np.random.default_rng(seed)
    one = np.dtype(dtype).type
    w = (0.05 * rng.normal(size=size)).astype(dtype)
    m, g = ((scale * rng.normal(size=size)).astype(dtype) for scale in (1e-3, 0.1))
    after = m * one(0.9) - g * one(0.01)
    now = w - w * one(decay) * one(0.01)
    now = now + (after * one(0.9) - g * one(0.01)) if nesterov else now + after
    return now, w, after, m


def last(states):
    """What `fit` is asked about the last step."""
    (before, _, _), (now, m, v) = states[-2:]
    return now, before, m, v


def agreeing(params, now, before, *moments):
    """The share of values that `predict` gives to the last bit."""
    assert params is not None
    m, v, m_before = (*moments, None, None)[:3]
    params = json.loads(json.dumps(params))
    found = update.predict(before, m, v, params, m_before)
    return float(np.mean(found == now))


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("form", range(4))
def test_any_values_are_predicted_and_corrected(dtype, form):
    @given(st.lists(raw(dtype, 9), min_size=4, max_size=4), st.tuples(NUMBERS, NUMBERS, NUMBERS))
    @examples(40)
    def check(arrays, numbers):
        now, before, m, other = arrays
        kept = [bits(array) for array in arrays]
        guess = update.predict(before, m, other, [form, *numbers], other)
        assert guess.dtype == before.dtype
        assert guess.shape == before.shape
        symbols = exact.difference(now, guess)
        assert bits(exact.decode(symbols, now.dtype, guess).value()) == bits(now)
        assert [bits(array) for array in arrays] == kept

    check()


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("moments", ["m", "m and v", "m twice"])
def test_any_values_can_be_asked_about(dtype, moments):
    @given(st.lists(raw(dtype, 40), min_size=4, max_size=4))
    @examples(40)
    def check(arrays):
        now, before, m, other = arrays
        v = other if moments == "m and v" else None
        m_before = other if moments == "m twice" else None
        params = update.fit(now, before, m, v, m_before)
        if params is not None:
            update.predict(before, m, v, json.loads(json.dumps(params)), m_before)

    check()


@given(
    *[
        hnp.arrays(np.float32, 30, elements=st.sampled_from([0, -0.0, 1e-45, 1, -1, 3e38]))
        for _ in range(4)
    ]
)
@examples(60)
def test_zeros_and_extremes_can_be_asked_about(now, before, m, other):
    for v, m_before in ((other, None), (None, None), (None, other)):
        params = update.fit(now, before, m, v, m_before, known=[[0, -1.0, 0.0, 0.0]])
        if params is not None:
            update.predict(before, m, v, params, m_before)


@pytest.mark.parametrize("dtype", PRECISE, ids=name_of)
@pytest.mark.parametrize("epsilon", [1e-7, 1e-8, 1e-3])
def test_adam_is_found(dtype, epsilon):
    step = last(adam(dtype, epsilon=epsilon))
    params = update.fit(*step)
    assert agreeing(params, *step) == 1
    assert params[0] == update.ADAM
    assert params[2:] == [epsilon, 0]
    assert params[1] == float(str(np.dtype(dtype).type(params[1])))  # no idle digits


@pytest.mark.parametrize("dtype", PRECISE, ids=name_of)
@pytest.mark.parametrize(
    ("decay", "epsilon", "idle"),
    [(0.1, 1e-7, 0), (0.1, 1e-3, 0), (0.1, 1e-7, 0.9), (0.1, 1e-3, 0.9), (1e-3, 1e-7, 0.9)],
)
def test_adamw_is_found(dtype, decay, epsilon, idle):
    step = last(adam(dtype, decay=decay, epsilon=epsilon, idle=idle))
    params = update.fit(*step)
    assert agreeing(params, *step) > 0.99
    assert params[3] == pytest.approx(1e-3 * decay, rel=1e-3)


def test_the_first_step_is_found():
    states = adam(steps=1)
    assert agreeing(update.fit(*last(states)), *last(states)) == 1


def test_values_that_never_move_do_not_hide_the_others():
    step = last(adam(idle=0.95))
    assert agreeing(update.fit(*step), *step) == 1


def test_values_that_are_kept_at_zero_do_not_hide_the_others():
    now, before, m, v = last(adam())
    alive = np.random.default_rng(1).random(now.size) > 0.2
    step = now * alive, before * alive, m, v
    assert agreeing(update.fit(*step), *step) == np.mean(alive)


def test_values_that_are_no_numbers_do_not_hide_the_others():
    arrays = [array.copy() for array in last(adam(size=1000))]
    for place, (array, value) in enumerate(zip(arrays, (np.nan, np.inf, -np.inf, -1), strict=True)):
        array[100 * place] = value
    assert agreeing(update.fit(*arrays), *arrays) == pytest.approx(0.997, abs=0.0011)


def test_values_that_follow_something_else_do_not_hide_the_others():
    now, before, m, v = last(adam())
    v = v.copy()
    # as where the optimizer goes by the largest `v` so far
    v[::4] *= 1 - 0.02 * np.random.default_rng(1).random(v[::4].size, np.float32)
    assert agreeing(update.fit(now, before, m, v), now, before, m, v) > 0.74


@pytest.mark.parametrize("dtype", PRECISE, ids=name_of)
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_momentum_is_found(dtype, decay):
    now, before, m, m_before = sgd(dtype, decay=decay)
    for known in (None, m_before):
        params = update.fit(now, before, m, None, known)
        assert agreeing(params, now, before, m) > (0.99 if decay else 0.999999)
        assert params[0] == update.MOMENTUM


@pytest.mark.parametrize("dtype", PRECISE, ids=name_of)
def test_nesterov_is_found_with_the_moment_before(dtype):
    now, before, m, m_before = sgd(dtype, nesterov=True)
    params = update.fit(now, before, m, None, m_before)
    assert agreeing(params, now, before, m, None, m_before) > 0.98
    assert params[:2] == [update.NESTEROV, pytest.approx(0.9)]
    assert update.fit(now, before, m, None) is None


def test_nesterov_in_two_additions_is_found():
    _, before, m, m_before = sgd()
    params = [update.NESTEROV_APART, 0.9, 0.0, 0.0]
    now = update.predict(before, m, None, params, m_before)
    assert update.fit(now, before, m, None, m_before) == params


def test_narrow_floats_round_after_each_operation():
    now, before, m, _ = sgd(ml_dtypes.bfloat16)
    assert update.fit(now, before, m, None) == [update.MOMENTUM, -1, 0, 0]
    m, v = (np.full(3, x, np.float16) for x in (0.3, 0.07))
    before = np.ones(3, np.float16)
    rate, epsilon = np.float16(0.9), np.float16(0.001)
    by_hand = before - (m * rate) / (np.sqrt(v) + epsilon)
    assert bits(update.predict(before, m, v, [1, 0.9, 0.001, 0.0])) == bits(by_hand)


def test_byte_order_and_strides_do_not_matter():
    now, before, m, v = last(adam(size=2000))
    params = update.fit(now, before, m, v)
    other = [np.repeat(array, 2)[::2].astype(">f4") for array in (now, before, m, v)]
    assert update.fit(*other) == params
    guess = update.predict(*other[1:], params)
    assert guess.dtype == ">f4"
    assert np.array_equal(guess, update.predict(before, m, v, params))


@pytest.mark.parametrize("dtype", PRECISE, ids=name_of)
def test_what_does_not_follow_is_not_found(dtype):
    states = adam(dtype)
    now, before, m, v = last(states)
    rng = np.random.default_rng(1)
    noise = (1e-3 * rng.normal(size=now.size)).astype(dtype)
    assert update.fit(before + noise, before, m, v) is None
    assert update.fit(before + noise, before, m, None) is None
    assert update.fit(before + noise, before, m, None, noise[::-1].copy()) is None
    assert update.fit(now, states[-3][0], m, v) is None  # two steps at once
    assert update.fit(now, before, m[::-1].copy(), v) is None
    assert update.fit(noise, before, m, v) is None


def test_what_does_not_move_is_not_found():
    _, before, m, v = last(adam(size=100))
    assert update.fit(before, before, m, v) is None
    empty = before[:0]
    assert update.fit(empty, empty, empty, empty) is None


def test_tensors_that_do_not_fit_together_are_not_found():
    now, before, m, v = last(adam(size=100))
    assert update.fit(now, before, m[:-1], v) is None
    assert update.fit(now, before, m, v.astype(np.int32)) is None
    assert update.fit(*(array.astype(np.int32) for array in (now, before, m, v))) is None


def test_a_few_values_need_the_numbers_of_another_tensor():
    step = last(adam())
    few = [array[:7] for array in step]
    assert update.fit(*few) is None
    params = update.fit(*step)
    wrong = [[update.ADAM, 0.5, 1e-7, 0.0], [update.MOMENTUM, -1.0, 0.0, 0.0]]
    assert update.fit(*few, known=[*wrong, params]) == params
    assert update.fit(*few, known=wrong) is None


def test_numbers_that_miss_most_values_are_not_taken():
    step = last(adam())
    params = update.fit(*step)
    now, *rest = (array[:21].copy() for array in step)
    now[:10] += 1
    assert update.fit(now, *rest, known=[params]) == params
    now[10:12] += 1
    assert update.fit(now, *rest, known=[params]) is None


def test_numbers_of_another_tensor_save_the_search(monkeypatch):
    step = last(adam())
    params = update.fit(*step)
    monkeypatch.setattr(update._Search, "run", lambda search: pytest.fail("searched"))
    assert update.fit(*step, known=[params]) == params


@pytest.mark.parametrize(
    "params",
    [
        [],
        [1, 0.1, 1e-7],
        [1, 0.1, 1e-7, 0.0, 0.0],
        [4, 0.1, 1e-7, 0.0],
        [-1, 0.1, 1e-7, 0.0],
        [0.5, 0.1, 1e-7, 0.0],
        [True, 0.1, 1e-7, 0.0],
        [1, float("nan"), 1e-7, 0.0],
        [1, 0.1, float("inf"), 0.0],
        [1, 0.1, 1e-7, -float("inf")],
        [1, 10**400, 1e-7, 0.0],
        [1, "0.1", 1e-7, 0.0],
        [1, None, 1e-7, 0.0],
        [1, [0.1], 1e-7, 0.0],
        [[1], 0.1, 1e-7, 0.0],
    ],
)
def test_impossible_numbers_are_damage(params):
    array = np.ones(3, np.float32)
    with pytest.raises(DamagedError, match="impossible"):
        update.predict(array, array, array, params, array)


@pytest.mark.parametrize("form", [update.ADAM, update.NESTEROV, update.NESTEROV_APART])
def test_a_missing_moment_is_damage(form):
    array = np.ones(3, np.float32)
    with pytest.raises(DamagedError, match="impossible"):
        update.predict(array, array, None, [form, 0.1, 0.0, 0.0])


@pytest.mark.parametrize(
    "other",
    [np.ones(4, np.float32), np.ones((3, 1), np.float32), np.ones(3, int), np.ones(3, complex)],
)
def test_tensors_that_do_not_fit_together_are_damage(other):
    array = np.ones(3, np.float32)
    for arrays in ((array, other, array), (array, array, other), (other, array, array)):
        with pytest.raises(DamagedError, match="impossible"):
            update.predict(*arrays, [update.ADAM, 0.1, 0.0, 0.0])


def test_a_step_of_keras_is_found():
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(48)])
    optimizer = keras.optimizers.Adam(3e-3)
    model.compile(optimizer, "mse")
    rng = np.random.default_rng(0)
    batches = rng.normal(size=(4, 32, 64)).astype(np.float32)
    steps = []
    for batch in batches:
        model.train_on_batch(batch, batch[:, :48] ** 2)
        kernel, m, v = model.layers[0].kernel, optimizer._momentums[0], optimizer._velocities[0]
        steps.append([np.array(keras.ops.convert_to_numpy(x)).reshape(-1) for x in (kernel, m, v)])
    step = last(steps)
    assert agreeing(update.fit(*step), *step) > 0.99
    assert update.fit(step[0], steps[0][0], *step[2:]) is None
