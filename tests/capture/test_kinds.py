"""What must hold for every kind of model: its whole state, in Keras' places, comes back."""

from types import SimpleNamespace

import h5py
import pytest
from models import equal

from keras_lc.capture.configuration import rebuild
from keras_lc.capture.keras import KerasCapture
from keras_lc.errors import MismatchError
from tests.capture.kinds import KINDS, everything, train

pytestmark = pytest.mark.backend


def contents(file):
    """HDF5 path to array."""
    found = {}

    def visit(place, item):
        if isinstance(item, h5py.Dataset):
            found[place] = item[()]

    file.visititems(visit)
    return found


@pytest.fixture(params=KINDS, scope="module")
def kind(request, tmp_path_factory):
    """A model that has been trained, what was captured of it then, what Keras saved of it, and
    what it became."""
    file = tmp_path_factory.mktemp("plain") / "keras.weights.h5"
    model = train(KINDS[request.param](), 2)
    before = everything(model)
    capture = KerasCapture(model)
    snapshot = capture.described(capture.snapshot())
    arrays = {name: array.copy() for name, array in snapshot.arrays.items()}
    model.save_weights(file)
    with h5py.File(file) as opened:
        saved = contents(opened)
    return SimpleNamespace(
        name=request.param,
        build=KINDS[request.param],
        arrays=arrays,
        snapshot=snapshot,
        before=before,
        saved=saved,
        after=everything(train(model, 4, seed=1)),
    )


def test_training_goes_on_as_if_it_had_not_been_restored(kind):
    other = kind.build()
    KerasCapture(other).restore(kind.arrays, kind.snapshot.about)
    assert equal(everything(other), kind.before)
    assert equal(everything(train(other, 4, seed=1)), kind.after)


def test_the_layout_is_what_keras_itself_writes(kind):
    layout = kind.snapshot.layout
    assert layout.keys() == kind.saved.keys()
    for place, content in layout.items():
        array = kind.arrays[content] if isinstance(content, str) else content
        stored = kind.saved[place]  # Keras stores bfloat16 as its bits
        assert array.view(stored.dtype).tobytes() == stored.tobytes(), place


def test_nothing_is_stored_twice(kind):
    named = {content for content in kind.snapshot.layout.values() if isinstance(content, str)}
    copies = [  # but for the counters of optimizers that are not used
        place for place, c in kind.snapshot.layout.items() if not isinstance(c, str) and c.ndim
    ]
    merged = ["layers/dense/vars/0"] if kind.name == "lora" else []
    assert copies == merged
    apart = {name for name in kind.arrays if name not in named}
    expected = {name for name in kind.arrays if name.startswith("seeds/")}
    if kind.name == "lora":
        expected |= {"weights/0", "weights/2", "weights/3"}
    assert apart == expected


def rebuilt(arrays, about):
    model = rebuild(about, "'training/cp-0001'")
    KerasCapture(model).restore(arrays, about)
    return model


def test_without_a_model_it_is_rebuilt(kind):
    refused = {"float8": "inputs_scale", "torch module": "pickle"}
    if kind.name in refused:
        with pytest.raises(MismatchError, match=refused[kind.name]):
            rebuilt(kind.arrays, kind.snapshot.about)
        return
    other = rebuilt(kind.arrays, kind.snapshot.about)
    assert equal(everything(other), kind.before)
