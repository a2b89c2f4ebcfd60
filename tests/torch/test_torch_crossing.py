"""Keras on its backend of PyTorch, and the adapter, read each other's weights."""

import keras
import numpy as np
import pytest
import torch
from torch import nn

from keras_lc import LCModelCheckpoint, restore
from keras_lc.errors import MismatchError
from keras_lc.torch import Checkpointer, load, save

NAMES = {
    "0.weight": "net/hidden/kernel.T",
    "0.bias": "net/hidden/bias",
    "1.weight": "net/norm/gamma",
    "1.bias": "net/norm/beta",
    "1.running_mean": "net/norm/moving_mean",
    "1.running_var": "net/norm/moving_variance",
    "2.weight": "weights/6.T",
    "2.bias": "net/out/bias",
}
BACK = {
    theirs.removesuffix(".T"): ours + ".T" * theirs.endswith(".T") for ours, theirs in NAMES.items()
}
X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")


def keras_model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, name="hidden"),
            keras.layers.BatchNormalization(name="norm", epsilon=1e-5),
            keras.layers.Dense(2, name="out"),
        ],
        name="net",
    )
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False, run_eagerly=True)
    return model


class Net(nn.Sequential):
    """The same, and PyTorch counts batches besides."""

    def __init__(self):
        norm = nn.BatchNorm1d(5)
        norm.num_batches_tracked = None
        super().__init__(nn.Linear(4, 5), norm, nn.Linear(5, 2))


def outputs(model):
    if isinstance(model, keras.Model):
        return keras.ops.convert_to_numpy(model(X, training=False))
    with torch.no_grad():
        return model.eval()(torch.from_numpy(X)).numpy()


@pytest.mark.backend
def test_a_checkpoint_of_keras_is_read_by_torch(tmp_path):
    model = keras_model()
    saves = LCModelCheckpoint(tmp_path / "cp-{epoch}", codec="lossless")
    model.fit(X, X[:, :2], epochs=2, verbose=0, callbacks=[saves])
    net = Net()
    restored = load(tmp_path / "cp-2", net, names=NAMES)
    assert restored.epoch == 2
    np.testing.assert_allclose(outputs(net), outputs(model), atol=1e-5)
    with pytest.raises(MismatchError, match="optimizer/0 is given, and not in the checkpoint"):
        load(tmp_path / "cp-2", net, torch.optim.Adam(net.parameters()), names=NAMES)


@pytest.mark.backend
def test_a_checkpoint_of_torch_is_read_by_keras(tmp_path):
    net, model = Net(), keras_model()
    with Checkpointer(tmp_path) as checkpointer:
        net(torch.from_numpy(X)).sum().backward()
        checkpointer.save(net, epoch=3, step=1)
    restored = restore(tmp_path / "cp-000001", model, names=BACK)
    assert restored.epoch == 3
    np.testing.assert_allclose(outputs(model), outputs(net), atol=1e-5)
    before = outputs(model)
    wrong = BACK | {"net/hidden/kernel": "0.weight", "net/out/bias": "missing"}
    with pytest.raises(MismatchError) as met:
        restore(tmp_path / "cp-000001", model, names=wrong)
    assert "weights/0 (net/hidden/kernel, shape (4, 5)) has shape (5, 4) in the check" in str(
        met.value
    )
    assert "weights/7 (net/out/bias, shape (2,)) is 'missing' in `names`, which" in str(met.value)
    assert np.array_equal(outputs(model), before)


def test_a_torch_model_under_other_names(tmp_path):
    one, other = nn.Linear(3, 2), nn.ModuleDict({"a": nn.Linear(3, 2)})
    save(tmp_path / "one", one)
    load(tmp_path / "one", other, names={"a.weight": "weight", "a.bias": "weights/bias"})
    assert torch.equal(one.weight, other["a"].weight)
    with pytest.raises(
        MismatchError, match=r"weights/a\.bias \(shape \(2,\)\) is in the model, no"
    ):
        load(tmp_path / "one", other, names={"a.weight": "weight"})
