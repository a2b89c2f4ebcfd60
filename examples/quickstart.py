"""A training that is killed in the middle of epoch 6, starts again and goes on to epoch 8.

    python examples/quickstart.py

The model of Keras' first tutorial learns the handwritten digits that come with
scikit-learn, enlarged to the 28 x 28 pixels of MNIST. It is trained in a process of its own,
which gets SIGKILL and is then simply started once more. Beside `LCModelCheckpoint` runs
`keras.callbacks.ModelCheckpoint`, for comparison. Everything is written to
examples/quickstart/.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

HERE = Path(__file__).parent / "quickstart"
TRAINING = HERE / "training"  # what keras_lc writes
PLAIN = HERE / "modelcheckpoint"  # what keras writes
PICTURE = HERE / "quickstart.png"
EPOCHS, KILLED_IN = 8, 6


def digits():
    """Training and validation images and labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    nearest = [8 * i // 28 for i in range(28)]
    images = images.reshape(-1, 8, 8).astype("float32") / 16
    images = images[:, nearest][:, :, nearest]
    return (images[:1400], labels[:1400]), (images[1400:], labels[1400:])


def build():
    """The compiled model."""
    import keras

    model = keras.Sequential(
        [
            keras.Input((28, 28)),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10),
        ]
    )
    model.compile(
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def train():
    """What a job script runs, the first time and every time after."""
    import keras

    from keras_lc import LCModelCheckpoint, restore_latest

    keras.utils.set_random_seed(0)
    model = build()
    restored = restore_latest(TRAINING, model)
    print("beginning" if restored is None else f"restored {restored.path}", flush=True)
    (x, y), validation = digits()
    model.fit(
        x,
        y,
        epochs=EPOCHS,
        initial_epoch=restored.epoch if restored else 0,
        validation_data=validation,
        verbose=0,
        callbacks=[
            LCModelCheckpoint(TRAINING / "cp-{epoch:04d}"),
            keras.callbacks.ModelCheckpoint(
                PLAIN / "cp-{epoch:04d}.weights.h5", save_weights_only=True
            ),
            keras.callbacks.LambdaCallback(
                on_epoch_begin=lambda epoch, logs: print(f"epoch {epoch + 1}", flush=True)
            ),
            *([] if restored else [await_the_kill()]),
        ],
    )


def await_the_kill():
    """Stops in the middle of an epoch, where the parent's SIGKILL arrives."""
    import keras

    class AwaitTheKill(keras.callbacks.Callback):
        epoch = 0

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch + 1

        def on_train_batch_end(self, batch, logs=None):
            if self.epoch == KILLED_IN and batch == 20:
                print("kill me", flush=True)
                time.sleep(60)

    return AwaitTheKill()


def start():
    """The training in a child process; it is killed where it asks for it."""
    with subprocess.Popen(
        [sys.executable, __file__, "train"], stdout=subprocess.PIPE, text=True
    ) as child:
        for line in child.stdout:
            if line == "kill me\n":
                child.kill()
                print(f"  SIGKILL in the middle of epoch {KILLED_IN}")
            else:
                print(f"  {line}", end="")
    return child.returncode


def compare():
    """One row a checkpoint: bytes, ratio, accuracy live and restored."""
    from keras_lc import list_checkpoints, restore

    _, (x, y) = digits()
    model = build()
    rows = []
    for checkpoint in list_checkpoints(TRAINING):
        restore(checkpoint.path, model)
        accuracy = model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]
        name = Path(checkpoint.path).name
        rows.append((checkpoint, (PLAIN / f"{name}.weights.h5").stat().st_size, accuracy))
    return rows


def show(rows):
    """The table."""
    print(
        f"\n{'checkpoint':10}  {'kind':5}  {'bytes':>9}  {'ModelCheckpoint':>15}  {'ratio':>6}  "
        "val. accuracy live  restored"
    )
    for checkpoint, plain, accuracy in rows:
        print(
            f"{Path(checkpoint.path).name:10}  {checkpoint.kind:5}  {checkpoint.nbytes:9,}  "
            f"{plain:15,}  {plain / checkpoint.nbytes:5.1f}x  "
            f"{checkpoint.logs['val_accuracy']:18.4f}  {accuracy:8.4f}"
        )
    ours, plain = (sum(f.stat().st_size for f in d.iterdir()) for d in (TRAINING, PLAIN))
    print(f"{'directory':17}  {ours:9,}  {plain:15,}  {plain / ours:5.1f}x")
    print(
        "\nThe base is a plain Keras file; the last checkpoint of a run is stored bit for bit.\n"
        f"Picture: {os.path.relpath(PICTURE)}"
    )


def draw(rows):
    """Sizes, and the learning curve across the kill."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    epochs = [checkpoint.epoch for checkpoint, _, _ in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    left.bar(
        [e - 0.2 for e in epochs], [plain / 1e6 for _, plain, _ in rows], 0.4,
        color="0.75", label="ModelCheckpoint",
    )  # fmt: skip
    bars = left.bar(
        [e + 0.2 for e in epochs], [c.nbytes / 1e6 for c, _, _ in rows], 0.4,
        color="C0", label="LCModelCheckpoint",
    )  # fmt: skip
    left.bar_label(bars, [f"{plain / c.nbytes:.0f}x" for c, plain, _ in rows], padding=2)
    left.set(xlabel="epoch", ylabel="MB", title="size of each checkpoint, and how much smaller")
    left.set_ylim(0, 1.3 * max(plain for _, plain, _ in rows) / 1e6)
    left.legend(loc="upper right", ncols=2)
    right.plot(epochs, [c.logs["accuracy"] for c, _, _ in rows], "C2.-", label="training, live")
    right.plot(
        epochs, [c.logs["val_accuracy"] for c, _, _ in rows], "C0.-", label="validation, live"
    )
    right.plot(
        epochs, [a for _, _, a in rows], "C1o", mfc="none", ms=9, label="validation, restored"
    )
    right.axvline(KILLED_IN - 0.5, color="C3", ls="--")
    right.annotate(
        "SIGKILL, started again", (KILLED_IN - 0.5, 0.03), xycoords=("data", "axes fraction"),
        xytext=(-6, 0), textcoords="offset points", ha="right", color="C3",
    )  # fmt: skip
    right.set(xlabel="epoch", ylabel="accuracy", title="learning curve across the kill")
    right.legend(loc="lower right")
    for axes in (left, right):
        axes.set_xticks(epochs)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=130)


def main():
    if sys.argv[1:] == ["train"]:
        train()
        return
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    PLAIN.mkdir()
    print("first start")
    assert start() < 0, "the training was to be killed"
    print("second start")
    assert start() == 0, "the training was to reach its end"
    rows = compare()
    draw(rows)
    show(rows)


if __name__ == "__main__":
    main()
