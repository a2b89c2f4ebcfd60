"""A training spread over several virtual devices of one process, with both callbacks.

    python tests/distributed_training.py mirrored|parallel DIRECTORY

with KERAS_BACKEND=tensorflow, or KERAS_BACKEND=jax and
XLA_FLAGS=--xla_force_host_platform_device_count=4. It checks itself that what was saved is what
Keras saved, and goes on from it.
"""

import sys
from pathlib import Path

import keras
from models import X, Y, dense, equal, fit, state
from test_parity_fit import assert_same, callbacks

from keras_lc import LCModelCheckpoint, restore_latest

DEVICES = 4


def spread(mode):
    """What makes a compiled model whose training is spread."""
    if mode == "parallel":
        keras.distribution.set_distribution(keras.distribution.DataParallel())
        assert len(keras.distribution.list_devices()) == DEVICES
        return dense
    import tensorflow as tf

    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        processor, [tf.config.LogicalDeviceConfiguration()] * DEVICES
    )
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(DEVICES)])
    assert strategy.num_replicas_in_sync == DEVICES

    def build():
        with strategy.scope():
            return dense()

    return build


def main(mode, directory):
    build = spread(mode)
    model = build()
    options = {"batch_size": 20}
    fit(model, callbacks(directory, "{epoch}"), epochs=3, **options)
    assert_same(directory, 3)
    other = build()
    restored = restore_latest(directory / "ours", other)
    assert restored.epoch == 3
    assert equal(state(other), state(model))
    save = LCModelCheckpoint(directory / "ours" / "{epoch}")
    for one in (model, other):
        fit(one, [save] if one is other else [], epochs=5, initial_epoch=3, **options)
    assert equal(state(other), state(model))
    assert equal(state(restore_latest(directory / "ours", build()).model), state(other))
    assert other.evaluate(X, Y, verbose=0) == model.evaluate(X, Y, verbose=0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
    print("done")
