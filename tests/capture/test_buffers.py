"""What a snapshot is copied into, and what a chain keeps of it."""

import sys

import numpy as np
import pytest

from keras_lc.capture import Snapshot
from keras_lc.capture.buffers import Buffers
from keras_lc.checkpointer import Checkpointer
from keras_lc.core import TensorSpec, pages
from tests.toy import load_all, memory_growth, same

STATE = {
    "weights/0": np.arange(40_000, dtype=np.float32),
    "weights/1": np.ones(3, np.float32),
    "seeds/0": np.array([1, 2], np.uint32),
}


def shared(one, other):
    return {name for name in one if np.shares_memory(one[name], other[name])}


def test_what_is_given_away_is_replaced_once():
    buffers = Buffers()
    first = buffers.fill(STATE.items())
    buffers.give(["weights/0", "seeds/0"])
    buffers.touch()
    second = buffers.fill((name, array + array) for name, array in STATE.items())
    assert shared(first, second) == {"weights/1"}
    assert np.array_equal(first["weights/0"], STATE["weights/0"])
    third = buffers.fill(STATE.items())
    assert shared(second, third) == set(STATE)
    assert same(third, STATE)


def test_other_shapes_and_dtypes_have_other_buffers():
    buffers = Buffers()
    first = buffers.fill(STATE.items())
    changed = STATE | {"weights/0": np.ones((7, 9)), "weights/1": np.ones(3, np.float16)}
    second = buffers.fill(changed.items())
    assert shared(first, second) == {"seeds/0"}
    assert same(second, changed)
    assert set(buffers.names) == set(STATE)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_pages_are_made_when_they_are_touched():
    array = np.zeros(8 << 20, np.float32)
    buffers = Buffers()
    buffers.fill([("w", array)])
    assert memory_growth(lambda: buffers.give(["w"])) < array.nbytes / 4
    assert memory_growth(buffers.touch) > 0.9 * array.nbytes
    assert memory_growth(lambda: buffers.fill([("w", array)])) < array.nbytes / 4


class Training:
    """A state that is overwritten as soon as it has been copied."""

    def __init__(self, directory, tensors, size, **options):
        self.rng = np.random.default_rng(0)
        self.noise = np.float32(1e-4) * self.rng.standard_normal(size, np.float32)
        self.arrays = {
            f"weights/{i}": self.rng.standard_normal(size, np.float32) for i in range(tensors)
        }
        self.specs = [TensorSpec(name, "weight") for name in self.arrays]
        self.buffers, self.step = Buffers(), 0
        self.checkpointer = Checkpointer(directory, **options)

    def run(self, steps, codec=None):
        """So many saves, each durable before the next; the states."""
        for _ in range(steps):
            arrays = self.buffers.fill(self.arrays.items())
            for array in self.arrays.values():
                array += self.noise
            self.rng.shuffle(self.noise)
            name = f"cp-{self.step:04d}"
            layout = None if self.step else {}
            snapshot = Snapshot(arrays, self.specs, self.step, layout, buffers=self.buffers)
            self.checkpointer.save(snapshot, name, 1, codec=codec)
            self.checkpointer.wait()
            self.step += 1


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("codec", ["lossless", "fast", {"weights/0": "fast", "*": "lossless"}])
def test_what_a_chain_keeps_is_not_overwritten(tmp_path, codec, background):
    training = Training(tmp_path, 3, 20_000, codec=codec, background=background)
    wanted = {}
    for own in [None, None, "lossless", None, None, "fast", "lossless", None]:
        wanted[f"cp-{training.step:04d}"] = {k: a.copy() for k, a in training.arrays.items()}
        training.run(1, own)
    training.checkpointer.close()
    found = load_all(tmp_path)
    assert list(found) == list(wanted)
    for name, state in wanted.items():
        for key, array in state.items():
            assert np.abs(found[name][key] - array).max() < 1e-3
    if codec == "lossless":
        exact = [name for i, name in enumerate(wanted) if i != 5]
        assert all(same(found[name], wanted[name]) for name in exact)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("codec", ["lossless", "fast"])
def test_a_save_takes_two_and_a_half_states(tmp_path, codec):
    Training(tmp_path / "first", 1, 1).run(1)  # all that is imported then
    training = Training(tmp_path, 24, 1 << 20, codec=codec)
    nbytes = sum(array.nbytes for array in training.arrays.values())
    pages.give_back()
    least, most = 1.9 * nbytes, 2.5 * nbytes + (32 << 20)  # that for a base of any size
    assert least < memory_growth(lambda: training.run(6)) < most
    # the memory for the next one is there, but not where there need be no other
    assert memory_growth(lambda: training.buffers.fill(training.arrays.items())) < nbytes / 4
    training.run(1, "lossless")
    assert memory_growth(lambda: training.buffers.fill(training.arrays.items())) > nbytes / 2
    training.checkpointer.close()
