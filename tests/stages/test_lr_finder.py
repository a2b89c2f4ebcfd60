"""What a search for a learning rate suggests, and when it ends."""

import keras
import numpy as np
import pytest

from keras_lc.stages import LearningRates
from keras_lc.stages.lr_finder import search

RATES = list(np.logspace(-5, 0, 51))


def found(losses):
    return LearningRates(RATES[: len(losses)], list(losses))


def test_the_suggestion_of_a_model_that_learns_lies_where_the_loss_falls():
    falling = [2.3 - 1.5 * max(0, i - 20) / 20 for i in range(40)]
    assert RATES[20] < found([*falling, 2, 4, 8, 16]).suggestion < RATES[40]


@pytest.mark.parametrize("least", [3, 28])
def test_the_suggestion_of_a_trained_model_does_not_hang_on_the_batch_of_least_loss(least):
    noise = 0.1 + 0.01 * (-1.0) ** np.arange(36)
    noise[least] = 0.01
    rising = 0.1 * 1.5 ** np.arange(10)
    assert RATES[25] / 10 < found([*noise, *rising]).suggestion < RATES[38] / 10


def test_without_a_loss_there_is_no_suggestion():
    assert found([]).suggestion is None
    assert found([np.nan]).suggestion is None
    assert found([0.5, 0.4, np.nan]).suggestion == float(f"{RATES[1] / 10:.3g}")


@pytest.mark.backend
def test_a_search_ends_when_the_loss_diverges_and_not_at_one_hard_batch():
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((1,)), dense])
    model.compile("sgd", "mse", run_eagerly=True)
    x, y = np.ones((20, 1), "float32"), np.ones((20, 1), "float32")
    y[11] = 3.0
    options = {"epochs": 1, "batch_size": 1, "shuffle": False}
    still = search(model, x, y, 1e-9, 1e-8, **options)
    assert np.allclose(still.losses, y[:, 0] ** 2, rtol=1e-4)
    assert np.allclose(still.rates, np.geomspace(1e-9, 1e-8, 20))
    assert 2 < len(search(model, x, y, 1e-2, 1e4, **options).rates) < 16
