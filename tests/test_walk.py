from keras_lc.errors import CheckpointError
from keras_lc.listing import open_directory
from keras_lc.store.locate import directory_at
from keras_lc.walk import walk
from tests.report.test_integrity import branch, flip
from tests.toy import load_all, run, same
from tests.toy import walk as states

STATES = states(6)


def states_of(directory):
    place = directory_at(directory)
    contents = open_directory(place)
    return {
        stored.name: found
        if isinstance(found, CheckpointError)
        else dict(found.decoder.reconstruction)
        for stored, found in walk(place, contents, contents.listed, "walking")
    }


def test_each_state_is_that_of_its_checkpoint_whatever_the_branches(tmp_path):
    run(tmp_path, STATES, keyframe_every=4)
    branch(tmp_path, "cp-0002", "other")
    found, expected = states_of(tmp_path), load_all(tmp_path)
    assert list(found) == list(expected)
    assert all(same(found[name], expected[name]) for name in expected)


def test_what_is_damaged_is_an_error_in_its_place(tmp_path):
    run(tmp_path, STATES, keyframe_every=4)
    flip(tmp_path / "cp-0002.lcd", -40)
    found = states_of(tmp_path)
    bad = [name for name, state in found.items() if isinstance(state, CheckpointError)]
    assert bad == ["cp-0002", "cp-0003", "cp-0004"]
    assert same(found["cp-0006"], STATES[5])
