"""Delta checkpoints for PyTorch: model, optimizers, schedulers, scaler and random states.

    with Checkpointer("training") as checkpointer:
        restored = checkpointer.restore_latest(model, optimizer, scheduler)
        for epoch in range(restored.epoch if restored else 0, 128):
            ...
            checkpointer.save(model, optimizer, scheduler, epoch=epoch + 1, step=step)

A directory is one as `LCModelCheckpoint` writes it: `list_checkpoints`, `verify`, `pack` and
`export` take it, and `keras_lc.restore(path, as_numpy=True)` reads it without PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from keras_lc import checkpointer, loader, restoring, workers
from keras_lc.capture.torch import Lossy, Several, TorchCapture, Training, several
from keras_lc.capture.torch.model import Model
from keras_lc.capture.torch.restoring import Source, restore
from keras_lc.core.presets import CodecLike
from keras_lc.errors import CheckpointError, MismatchError
from keras_lc.listing import CheckpointInfo, strip_suffix
from keras_lc.loader import Loaded
from keras_lc.template import Template

__all__ = ["Checkpointer", "Restored", "load", "save"]

_ROLES: Lossy = ("weight", "first_moment", "second_moment")


@dataclass(frozen=True)
class Restored(restoring.Restored):
    """What a restore gives back.

    Attributes:
        model: the model, its state put back.
        path: path of the checkpoint, without suffix.
        epoch: completed epochs.
        batch: batches done in the unfinished epoch.
        step: steps of the optimizer.
        logs: the metrics at the time of saving.
        extra: what was saved as `extra`.
        left_out: with `strict=False`, what did not fit, a sentence each.
    """

    extra: Any = None
    left_out: tuple[str, ...] = ()


class Checkpointer:
    """Saves the state of a training loop: one base, then compressed deltas.

    `save` only copies the state; encoding and writing go on beside the training. As a context it
    ends with the last checkpoint durable, also when the training is left by an exception. One
    process at a time saves into a directory; of a `DistributedDataParallel` training, one rank.

    Args:
        directory: path or URL; made when the first checkpoint is saved.
        codec: how deltas are stored, as for `LCModelCheckpoint`: a name, a codec of
            `keras_lc.core`, or a mapping from patterns of tensor names to these. Names are
            `weights/<key>`, `buffers/<key>`, `optimizer/<title>/<key>/<state>`.
        max_to_keep: number of newest checkpoints to keep, with what they build on.
        background: False encodes and writes before `save` returns.
        name: of a checkpoint; `{step}`, `{epoch}`, `{batch}` and names of logs are filled in.
        keyframe_every: checkpoints from one base to the next.
        lossy: which tensors a lossy codec may change: roles, or a function of a
            `keras_lc.core.TensorSpec`. All others are stored bit for bit, as is everything that is
            no parameter and no known moment.
        on_saved: called with a `CheckpointInfo` after each durable save, in the writing thread.
        on_error: `"raise"` a failed save at the next one or at the end, or `"warn"`.

    Raises:
        OptionError, TemplateError: an argument is not understood.

    Example:
        >>> import tempfile, torch
        >>> from keras_lc.torch import Checkpointer
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = torch.optim.AdamW(model.parameters())
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     with Checkpointer(directory, codec="lossless") as checkpointer:
        ...         for step in range(1, 4):
        ...             model(torch.ones(8, 4)).square().sum().backward()
        ...             optimizer.step()
        ...             checkpointer.save(model, optimizer, epoch=0, step=step)
        ...     again = torch.nn.Linear(4, 2)
        ...     restored = Checkpointer(directory).restore_latest(again)
        ...     restored.step, torch.equal(again.weight, model.weight)
        (3, True)
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        codec: CodecLike = "balanced",
        max_to_keep: int | None = None,
        background: bool = True,
        *,
        name: str = "cp-{step:06d}",
        keyframe_every: int = 64,
        lossy: Lossy = _ROLES,
        on_saved: Callable[[CheckpointInfo], Any] | None = None,
        on_error: str = "raise",
    ):
        self.directory = os.fspath(directory)
        self._name = Template(name)
        self._capture = TorchCapture(lossy)
        self._joint = checkpointer.Checkpointer(
            directory, codec, keyframe_every, max_to_keep, background, on_saved, on_error,
            owns=self._name.fits,
        )  # fmt: skip

    def save(
        self,
        model: Model,
        optimizer: Several = None,
        scheduler: Several = None,
        scaler: Any = None,
        *,
        epoch: int,
        step: int,
        batch: int = 0,
        logs: Mapping[str, Any] | None = None,
        extra: Any = None,
        codec: CodecLike | None = None,
    ) -> None:
        """Make a checkpoint; it is durable after `wait`. A save that is still under way is waited
        for.

        Args:
            model: a module, or a mapping of names to modules. Wrappers such as
                `torch.compile`'s and `DistributedDataParallel` are seen through.
            optimizer, scheduler: one, or a list or mapping of several; an optimizer trains
                parameters of the model.
            scaler: a `GradScaler`, or another object with `state_dict` and `load_state_dict`.
            epoch: completed epochs.
            step: steps that the optimizer has made.
            batch: batches done in the unfinished epoch.
            logs: name to number.
            extra: what else is needed to go on, such as the state of a sampler: numbers, text,
                None, tensors, arrays, and lists and mappings of them.
            codec: another codec for this checkpoint, `"lossless"` for the last one.

        Raises:
            OptionError: something cannot be stored without pickling it; it is named.
            CheckpointError: the save before has failed.
        """
        self._joint.wait()  # the buffers of the snapshot are in use until then
        training = _training(model, optimizer, scheduler, scaler)
        fields = {**(logs or {}), "step": step, "batch": batch}
        name = strip_suffix(self._name.fill(epoch - 1, None, fields))
        snapshot = self._capture.snapshot(training, step, extra)
        if self._joint.base_due(name, snapshot):
            snapshot = self._capture.described(training, snapshot)
        self._joint.save(snapshot, name, epoch, batch, logs, codec)

    def restore_latest(
        self,
        model: Model,
        optimizer: Several = None,
        scheduler: Several = None,
        scaler: Any = None,
        *,
        strict: bool = True,
        random: bool = True,
        threads: int | None = None,
    ) -> Restored | None:
        """Put the newest intact checkpoint back, and go on with its chain.

        Args:
            model, optimizer, scheduler, scaler: as for `save`. Objects that are not given are
                left out; the others must fit.
            strict: False leaves out what does not fit, and tells it as `left_out`.
            random: put back the random states of Python, numpy and torch.
            threads: that decode; None for as many as there are processors, up to four.

        Returns:
            What was restored, or None when there is no checkpoint yet.

        Raises:
            MismatchError: the checkpoint is of other objects; nothing is changed.
            DamagedError: there are checkpoints, but none is intact.
            OptionError: `threads` is not a number from 1 up.
        """
        self._joint.wait()
        training = _training(model, optimizer, scheduler, scaler)
        with workers.using(threads):
            loaded = loader.load_latest(self.directory, self._name.fits)
            return None if loaded is None else self._go_on(loaded, training, strict, random)

    def restore(
        self,
        path: str | os.PathLike[str],
        model: Model,
        optimizer: Several = None,
        scheduler: Several = None,
        scaler: Any = None,
        *,
        strict: bool = True,
        random: bool = True,
        threads: int | None = None,
    ) -> Restored:
        """Put one checkpoint of the directory back, and go on with its chain.

        Args:
            path: its name, or its path, or a word such as `"best"`, as for `keras_lc.restore`.
            model, optimizer, scheduler, scaler, strict, random, threads: as for
                `restore_latest`.

        Raises:
            NotFoundError: there is no such checkpoint; near names are listed.
            MismatchError, DamagedError: as for `restore_latest`.
        """
        self._joint.wait()
        name = os.path.basename(os.fspath(path))
        training = _training(model, optimizer, scheduler, scaler)
        with workers.using(threads):
            loaded = loader.load_named(self._joint.directory.child(name))
            return self._go_on(loaded, training, strict, random)

    def wait(self) -> None:
        """Return when every save asked for is durable; a failure of the last is raised here."""
        self._joint.wait()

    def close(self) -> None:
        """Wait, and let other processes save into the directory."""
        self._joint.close()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except CheckpointError as failure:
            if error is None:
                raise
            error.add_note(f"The last checkpoint was not saved either: {failure}")

    def _go_on(self, loaded: Loaded, training: Training, strict: bool, random: bool) -> Restored:
        restored = _put_back(loaded, training, strict, random, {})
        specs = self._capture.specs(training, restored.extra)
        if {spec.name for spec in specs} == set(loaded.base.arrays):
            self._joint.resume(loaded, specs)
        return restored


def save(
    path: str | os.PathLike[str],
    model: Model,
    optimizer: Several = None,
    scheduler: Several = None,
    scaler: Any = None,
    *,
    epoch: int = 0,
    step: int = 0,
    logs: Mapping[str, Any] | None = None,
    extra: Any = None,
) -> None:
    """Write the state as one file of its own, every bit of it, and return when it is durable.

    Args:
        path: of the file, with or without `.weights.h5`; one that is there is replaced.
        model, optimizer, scheduler, scaler, epoch, step, logs, extra: as for
            `Checkpointer.save`.

    Raises:
        OptionError: something cannot be stored without pickling it; it is named.
        StoreError: the file cannot be written.

    Example:
        >>> import tempfile, torch, keras_lc.torch
        >>> model, again = torch.nn.Linear(4, 2), torch.nn.Linear(4, 2)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     keras_lc.torch.save(directory + "/linear", model, extra={"classes": ["a", "b"]})
        ...     keras_lc.torch.load(directory + "/linear", again).extra
        {'classes': ['a', 'b']}
    """
    capture, training = TorchCapture(_ROLES), _training(model, optimizer, scheduler, scaler)
    snapshot = capture.described(training, capture.snapshot(training, step, extra))
    checkpointer.save_alone(path, snapshot, epoch, logs=logs)


def load(
    path: str | os.PathLike[str],
    model: Model,
    optimizer: Several = None,
    scheduler: Several = None,
    scaler: Any = None,
    *,
    strict: bool = True,
    random: bool = True,
    names: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> Restored:
    """Put one checkpoint back, of a `Checkpointer`, of `save`, or of `LCModelCheckpoint`.

    Args:
        path: for example `"training/cp-000128"` or `"training/best"`, as for `keras_lc.restore`.
        model, optimizer, scheduler, scaler, strict, random, threads: as for
            `Checkpointer.restore_latest`.
        names: key of a tensor of the model to what the checkpoint calls it, where that is
            something else: a key of another model, or the path of a variable of Keras; `.T`
            behind it transposes, as the kernel of a dense layer needs.

    Raises:
        NotFoundError, MismatchError, DamagedError: as for `Checkpointer.restore`.
    """
    training = _training(model, optimizer, scheduler, scaler)
    with workers.using(threads):
        return _put_back(loader.load_named(path), training, strict, random, names or {})


def _training(model: Model, optimizer: Several, scheduler: Several, scaler: Any) -> Training:
    return Training(model, several(optimizer), several(scheduler), scaler)


def _put_back(
    loaded: Loaded, training: Training, strict: bool, random: bool, names: Mapping[str, str]
) -> Restored:
    source = Source(loaded.decoder.reconstruction, loaded.base.arrays, loaded.base.about, names)
    try:
        extra, left_out = restore(training, source, strict, random)
    except MismatchError as error:
        raise MismatchError(f"{loaded.info.path!r} was not restored: {error}") from error
    known = vars(restoring.restored(loaded, training.model))
    return Restored(**known, extra=extra, left_out=tuple(left_out))
