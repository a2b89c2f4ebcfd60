import pytest

from keras_lc import CheckpointError
from keras_lc.template import Template, split


@pytest.mark.parametrize("suffix", ["", ".weights.h5", ".keras", ".h5", ".ckpt"])
def test_a_suffix_is_optional_and_left_out(suffix, tmp_path):
    path = Template(tmp_path / ("cp-{epoch:04d}" + suffix)).fill(6, None, {})
    assert split(path) == (str(tmp_path), "cp-0007")


def test_angle_brackets_are_another_spelling():
    assert Template("a/cp-<epoch:04d>").fill(0, None, {}) == "a/cp-0001"
    assert Template("a/<epoch>-<batch:02d>").fill(0, 4, {}) == "a/1-05"


def test_logs_and_batches_are_filled_in():
    template = Template("cp-{epoch}-{batch}-{val_loss:.2f}.keras")
    assert template.fill(1, 9, {"val_loss": 0.256}) == "cp-2-10-0.26.keras"


def test_a_dot_in_a_number_is_no_suffix():
    assert split("a/cp-0.25")[1] == "cp-0.25"


@pytest.mark.parametrize(
    ("text", "word"),
    [("cp-{acc}", "acc"), ("cp-{batch}", "batch"), ("cp-{epoch:x.y}", "cp-"), ("cp-{}", "cp-")],
)
def test_what_cannot_be_filled_in_is_named(text, word):
    with pytest.raises(CheckpointError, match=word):
        Template(text).fill(0, None, {"loss": 1.0})


def test_an_unknown_key_is_the_key_error_that_keras_raises():
    with pytest.raises(KeyError):
        Template("cp-{acc}").fill(0, None, {})


@pytest.mark.parametrize("text", ["training/", "cp-{epoch", "training/.weights.h5", ""])
def test_no_template_at_all_is_refused_at_once(text):
    with pytest.raises(CheckpointError):
        Template(text)


def test_names_of_other_templates_do_not_fit():
    template = Template("training/cp-{epoch:04d}.weights.h5")
    assert template.fits("cp-0007")
    assert not template.fits("best-0007")
    assert not template.fits("cp-")


def test_a_directory_with_fields_is_not_known_before():
    assert Template("runs/{epoch}/cp").directory is None
    assert str(Template("runs/a/cp-{epoch}").directory) == "runs/a"
