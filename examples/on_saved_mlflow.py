"""Each checkpoint's file and figures in a run of MLflow, while training goes on.

    python examples/on_saved_mlflow.py

Without MLflow (`pip install mlflow`) it prints what it would have logged. `on_saved` is called in
the thread that writes, where MLflow knows of no active run: the run is named by its id.
"""

import os
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_lc import LCModelCheckpoint

HERE = Path(__file__).with_suffix("")


def logged_by_mlflow():
    """What `on_saved` calls: figures and file of a checkpoint go to a run that begins now."""
    import mlflow

    run, client = mlflow.start_run().info.run_id, mlflow.MlflowClient()

    def log(checkpoint):
        for name, value in figures(checkpoint).items():
            client.log_metric(run, name, value, step=checkpoint.step)
        client.log_artifact(run, file_of(checkpoint), "checkpoints")

    print(f"logging to run {run} of {mlflow.get_tracking_uri()}")
    return log


def printed(checkpoint):
    print(f"step {checkpoint.step}: {figures(checkpoint)} and the file {file_of(checkpoint)}")


def figures(checkpoint):
    return {**checkpoint.logs, "checkpoint_bytes": checkpoint.nbytes}


def file_of(checkpoint):
    return checkpoint.path + (".weights.h5" if checkpoint.kind == "base" else ".lcd")


def main():
    if find_spec("mlflow"):
        log = logged_by_mlflow()
    else:
        print("MLflow is not installed (pip install mlflow); this is what it would get:")
        log = printed
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(256), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(512, 64)).astype("float32")
    save = LCModelCheckpoint(HERE / "training" / "cp-{epoch:04d}", on_saved=log)
    model.fit(x, x.sum(axis=1), epochs=5, verbose=0, callbacks=[save])


if __name__ == "__main__":
    main()
