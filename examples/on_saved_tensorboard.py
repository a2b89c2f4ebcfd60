"""The size of each checkpoint, beside its loss, in TensorBoard.

    python examples/on_saved_tensorboard.py
    tensorboard --logdir examples/on_saved_tensorboard

`on_saved` is called when a checkpoint is durable, in the thread that writes: training goes on.
"""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf

from keras_lc import LCModelCheckpoint

HERE = Path(__file__).with_suffix("")


def scalar(name, value):
    """`tf.summary.scalar`, where TensorBoard itself is not installed."""
    plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
    metadata = tf.compat.v1.SummaryMetadata(plugin_data=plugin)
    tf.summary.write(name, tf.constant(value, tf.float32), metadata=metadata)


def main():
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(256), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(512, 64)).astype("float32")
    writer = tf.summary.create_file_writer(str(HERE / "logs"))

    def record(checkpoint):
        with writer.as_default(step=checkpoint.step):
            scalar("checkpoint/bytes", checkpoint.nbytes)
            scalar("checkpoint/loss", checkpoint.logs["loss"])
        print(f"step {checkpoint.step:3}: {checkpoint.kind:5} of {checkpoint.nbytes:7,} bytes")

    save = LCModelCheckpoint(HERE / "training" / "cp-{epoch:04d}", on_saved=record)
    model.fit(x, x.sum(axis=1), epochs=5, verbose=0, callbacks=[save])
    writer.close()
    print(f"tensorboard --logdir {os.path.relpath(HERE)}")


if __name__ == "__main__":
    main()
