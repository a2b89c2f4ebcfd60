import keras
import numpy as np
import pytest
from models import X, Y

from keras_lc import CheckpointError, skip_batches


class Squares(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return np.array([i * i])


def test_a_tf_data_set_stays_one():
    import tensorflow as tf

    rest = skip_batches(tf.data.Dataset.range(6).batch(2), 1)
    assert isinstance(rest, tf.data.Dataset)
    assert [batch.tolist() for batch in rest.as_numpy_iterator()] == [[2, 3], [4, 5]]


def test_an_iterator_goes_on():
    batches = iter(range(5))
    rest = skip_batches(batches, 2)
    assert next(rest) == 2
    assert next(batches) == 3


@pytest.mark.parametrize("n", [0, 3, 4])
def test_a_list_and_a_py_dataset(n):
    assert list(skip_batches([0, 1, 4, 9], n)) == [0, 1, 4, 9][n:]
    assert [int(batch[0]) for batch in skip_batches(Squares(), n)] == [0, 1, 4, 9][n:]


def test_fit_takes_what_is_left():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    batches = [(X[i : i + 10], Y[i : i + 10]) for i in range(0, 60, 10)]
    model.fit(skip_batches(batches, 4), verbose=0, shuffle=False, steps_per_epoch=2)
    assert int(model.optimizer.iterations) == 2


def test_too_few_batches_are_an_error():
    with pytest.raises(CheckpointError, match="has 3 batches, and 4"):
        list(skip_batches([1, 2, 3], 4))


@pytest.mark.parametrize("wrong", [np.ones(3), {"x": 1}, 7, "text"])
def test_what_has_no_batches_is_refused(wrong):
    with pytest.raises(CheckpointError, match=type(wrong).__name__):
        skip_batches(wrong, 1)


@pytest.mark.parametrize("n", [-1, 1.0, True, None])
def test_a_number_of_batches_is_wanted(n):
    with pytest.raises(CheckpointError, match="n="):
        skip_batches([1], n)
