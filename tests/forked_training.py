"""Trainings that go on from their newest checkpoint; for a parent that kills them.

For each line that comes in, a directory and a number of epochs, a process is forked that trains
there. It tells when a state is taken, with its digest, and when it is durable. Forking saves the
time that importing Keras takes.
"""

import os
import sys

import keras
from models import X, Y, dense

from keras_lc import LCModelCheckpoint, checkpointer, restore_latest, saver, shortcuts
from tests.core.golden.make import digest

SHORT, KEYFRAME, KEEP = 3, 14, 4  # so that shortcuts, bases and pruning are met often


class Told(checkpointer.Checkpointer):
    def save(self, snapshot, name, epoch, **options):
        tell(f"taken {epoch} {digest(snapshot.arrays)}")
        super().save(snapshot, name, epoch, **options)


def tell(line):
    os.write(1, f"{line}\n".encode())


def train(directory, epochs):
    keras.utils.set_random_seed(1)
    model = dense()
    model.run_eagerly = True
    restored = restore_latest(directory, model)
    begin = restored.epoch if restored else 0
    tell(f"from {begin}")
    saving = LCModelCheckpoint(
        f"{directory}/cp-{{epoch:05d}}",
        codec="lossless",
        keyframe_every=KEYFRAME,
        max_to_keep=KEEP,
        on_saved=lambda info: tell(f"saved {info.epoch}"),
    )
    options = {"batch_size": 60, "shuffle": False, "verbose": 0, "callbacks": [saving]}
    model.fit(X, Y, epochs=begin + epochs, initial_epoch=begin, **options)


def main():
    saver.Checkpointer = Told
    shortcuts._MANY = SHORT
    for line in sys.stdin:
        directory, epochs = line.split()
        child = os.fork()
        if not child:
            train(directory, int(epochs))
            os._exit(0)
        tell(f"process {child}")
        status = os.waitpid(child, 0)[1]
        tell(f"ended {status}")


if __name__ == "__main__":
    main()
