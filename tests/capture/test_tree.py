import json
from collections import Counter, OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lc.capture.tree import flatten, unflatten
from keras_lc.errors import DamagedError, OptionError

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
arrays = st.builds(lambda n: np.arange(n, dtype=np.int16), st.integers(0, 3))
trees = st.recursive(
    leaves | arrays,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner)
        | st.dictionaries(st.integers(), inner)
        | st.sets(st.integers())
    ),
    max_leaves=12,
)


def there_and_back(value):
    found = {}
    notes = json.loads(json.dumps(flatten(value, "x", found, lambda leaf: False), allow_nan=False))
    return unflatten(notes, "x", lambda kind, name: found[name]), found


def same(one, other):
    if isinstance(one, np.ndarray):
        return one is other
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, set):
        return one == other
    return repr(one) == repr(other)


@given(trees)
def test_trees_come_back(value):
    assert same(value, there_and_back(value)[0])


def test_arrays_are_named_by_their_place():
    one, other = np.ones(1), np.ones(2)
    assert there_and_back({"a/b": [one], "c": {3: other}})[1] == {"x/a%2Fb/0": one, "x/c/3": other}


def test_what_is_like_a_plain_value_becomes_one():
    back, _ = there_and_back([np.float32(1.5), np.bool_(True), OrderedDict(a=1), Counter([2, 2])])
    assert back == [1.5, True, {"a": 1}, Counter({2: 2})]
    assert type(back[3]) is Counter
    assert there_and_back({"$": 1, "of": 2})[0] == {"$": 1, "of": 2}


@pytest.mark.parametrize("odd", [object(), print, {(1, 2): 0}, b"x", 1j, np.array([None])])
def test_what_is_neither_is_refused_by_its_place(odd):
    with pytest.raises(OptionError, match=r"'x/a/1' is a \w+, which cannot be stored"):
        there_and_back({"a": [0, odd]})
    with pytest.raises(OptionError, match="'x/1'"):  # two of one name
        there_and_back({1: np.ones(1), "1": np.ones(1)})


@pytest.mark.parametrize(
    "broken",
    [
        {"$": "float", "of": "many"},
        {"$": "float"},
        {"$": "mapping", "of": [1]},
        {"$": "tuple", "of": 3},
        {"$": "class", "of": "os.system"},
        {"$": ["list"], "of": 0},
        {"$": "array", "of": None},
    ],
)
def test_a_broken_tree_is_told(broken):
    with pytest.raises(DamagedError, match="'x/a' of the notes"):
        unflatten({"a": broken}, "x", lambda kind, name: {}[name])
