import ml_dtypes
import numpy as np
import pytest

from keras_lc.core import TensorSpec
from keras_lc.core.spec import TensorTable, is_float
from keras_lc.errors import CheckpointError, MismatchError, OptionError


def test_a_bad_role_is_refused_by_name():
    with pytest.raises(OptionError, match=r"'a'.*'momentum'.*first_moment"):
        TensorSpec("a", "momentum")


def test_floats_without_a_spec_are_weights_and_the_rest_is_exact():
    state = {"f": np.zeros(1, np.float16), "i": np.zeros(1, int), "s": np.array("x")}
    roles = [spec.role for spec in TensorTable(state).resolve(None)]
    assert roles == ["weight", "exact", "exact"]


def test_what_is_no_float_is_exact_whatever_its_spec():
    table = TensorTable({"i": np.zeros(2, np.int32)})
    assert table.resolve([TensorSpec("i", "second_moment")])[0].role == "exact"


def test_a_spec_of_an_unknown_tensor_is_refused_by_name():
    table = TensorTable({"a": np.zeros(2)})
    with pytest.raises(MismatchError, match="'b'"):
        table.resolve([TensorSpec("b")])
    with pytest.raises(MismatchError, match=r"'a'.*'w'"):
        table.resolve([TensorSpec("a", "first_moment", of="w")])


def test_extension_floats_are_floats():
    for dtype in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, np.float16):
        assert is_float(np.dtype(dtype))
    for dtype in (np.int8, bool, np.complex64, "S3", ml_dtypes.int4):
        assert not is_float(np.dtype(dtype))


def test_the_fingerprint_is_of_names_dtypes_and_shapes():
    def print_of(**state):
        return TensorTable(state).fingerprint

    a, b = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    assert print_of(a=a, b=b) == print_of(b=a, a=b)
    others = [
        print_of(a=a, c=b),
        print_of(a=a),
        print_of(a=a.T, b=b),
        print_of(a=a.reshape(6), b=b),
        print_of(a=a.astype(np.float64), b=b),
        print_of(a=a.view(np.int32), b=b),
    ]
    assert len({print_of(a=a, b=b), *others}) == 7


def test_check_gives_the_arrays_in_table_order():
    state = {"b": np.ones(1), "a": np.zeros(1)}
    assert [float(array[0]) for array in TensorTable(state).check(state)] == [0, 1]


def test_errors_are_checkpoint_errors():
    assert issubclass(OptionError, CheckpointError)
    assert issubclass(MismatchError, CheckpointError)
