import keras
import numpy as np
import pytest

from keras_lc.capture.assigning import put_back
from keras_lc.capture.variables import Tensor, copied
from keras_lc.core import DeltaDecoder, DeltaEncoder, TensorSpec

pytestmark = pytest.mark.backend
SHAPES = {"whole": (80, 90), "tiles": (900, 700), "small": (3,), "empty": (0, 5), "number": ()}


def tensors(shapes, dtype):
    found = {}
    for name, shape in shapes.items():
        variable = keras.Variable(np.zeros(shape), trainable=False, dtype=dtype, name=name)
        found[name] = Tensor(TensorSpec(name), variable)
    return found


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32", "uint8", "bool"])
def test_all_that_is_decoded_is_in_the_variables(dtype):
    rng = np.random.default_rng(0)
    into = tensors(SHAPES, dtype)
    kind = copied(into["small"].variable).dtype
    states = [
        {name: rng.integers(0, 2, shape).astype(kind) for name, shape in SHAPES.items()}
        for _ in range(2)
    ]
    states[1]["whole"] = states[0]["whole"]  # as it is in the base
    encoder, decoder = DeltaEncoder(states[0], "lossless"), DeltaDecoder(states[0])
    for arrays in (states[0], decoder.decode(encoder.encode(states[1]))):
        put_back(into, arrays, states[0])
        for name, tensor in into.items():
            held = copied(tensor.variable)
            assert held.dtype == kind
            assert held.shape == SHAPES[name]
            assert np.array_equal(held, arrays[name])


def test_a_variable_of_another_dtype_is_cast_to():
    into = tensors(SHAPES, "float16")
    stored = {name: np.full(shape, 0.1, np.float32) for name, shape in SHAPES.items()}
    put_back(into, stored, stored)
    for name, tensor in into.items():
        assert np.array_equal(copied(tensor.variable), stored[name].astype(np.float16))


def test_what_is_assigned_is_the_variables_own():
    into, stored = tensors(SHAPES, "float32"), {n: np.ones(s, "f4") for n, s in SHAPES.items()}
    put_back(into, stored, stored)
    before = {name: keras.ops.copy(tensor.variable.value) for name, tensor in into.items()}
    put_back(into, {name: 2 * array for name, array in stored.items()}, stored)
    into["tiles"].variable.assign_add(np.ones(SHAPES["tiles"], "f4"))
    assert np.all(copied(into["tiles"].variable) == 3)
    assert np.all(copied(into["whole"].variable) == 2)
    for name, value in before.items():
        assert np.all(keras.ops.convert_to_numpy(value) == 1), name
        assert np.all(stored[name] == 1)
