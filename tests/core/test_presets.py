import numpy as np
import pytest

from keras_lc.core import LC, PRESETS, Balanced, DeltaEncoder, Int8, Lossless, Rules
from keras_lc.errors import CheckpointError, OptionError


def test_presets_are_found_by_name():
    for name, codec in PRESETS.items():
        assert Rules(name).of("any/tensor") == codec
        assert Rules(codec).of("any/tensor") == codec
        assert str(Rules(name)) == str(Rules(codec)) == name
    assert {"lossless", "balanced", "smallest", "lc", "int8"} <= set(PRESETS)


def test_the_first_rule_that_matches_wins():
    rules = Rules({"a/*": "lossless", "a/b*": "lc", "*": Balanced(tolerance=0.1)})
    assert rules.of("a/b") == Lossless()
    assert rules.of("b") == Balanced(tolerance=0.1)
    assert Rules({"*": "lc", "a": "lossless"}).of("a") == LC()


def test_patterns_heed_case():
    assert Rules({"A*": "lossless", "*": "lc"}).of("abc") == LC()


@pytest.mark.parametrize("codec", ["zip", "", None, 3, [LC()], {"*": "zip"}, {"*": None}, LC])
def test_an_unknown_codec_is_named_with_the_known_ones(codec):
    with pytest.raises(OptionError, match=r"is not known; use one of lossless, balanced, .*int8"):
        Rules(codec)


@pytest.mark.parametrize("rules", [{}, {"a/*": "lossless"}])
def test_a_tensor_without_a_rule_is_named(rules):
    with pytest.raises(OptionError, match=r"'b/c'.*'\*'"):
        Rules(rules).of("b/c")


@pytest.mark.parametrize("bits", [0, 9, -1, 2.5, "2", None])
def test_bits_of_lc_are_one_to_eight(bits):
    with pytest.raises(OptionError, match="1 to 8"):
        LC(bits)


def build_and_encode(make):
    base = {"w": np.zeros(9, np.float32), "m": np.zeros(9, np.float32)}
    encoder = DeltaEncoder(base, make())
    encoder.encode({name: array + np.float32(0.1) for name, array in base.items()})


@pytest.mark.parametrize(
    "make",
    [
        lambda: LC(2.0),
        lambda: LC(2, "models"),
        lambda: LC(table=None),
        *[
            lambda option=option, value=value: Balanced(**{option: value})
            for option in ("tolerance", "largest_share")
            for value in (float("nan"), float("inf"), 0.0, -1.0, "3", None)
        ],
    ],
    ids=range(15),
)
def test_settings_that_make_no_sense_are_refused(make):
    with pytest.raises(CheckpointError):
        build_and_encode(make)


def test_rules_are_shown_in_words():
    rules = Rules({"a/*": "lossless", "*": LC(3)})
    assert str(rules) == "a/*: lossless, *: LC(bits=3, table='tensor')"


def test_each_preset_says_what_it_does_to_each_role():
    assert not Lossless().kinds
    for codec in (Balanced(), LC(), Int8()):
        assert "exact" not in codec.kinds
        assert codec.kinds["weight"]
    assert PRESETS["smallest"].tolerance > PRESETS["balanced"].tolerance
