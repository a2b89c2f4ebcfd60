"""Run: a training script that never trains twice."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from keras_lc.core.presets import CodecLike
from keras_lc.errors import OptionError
from keras_lc.stages.cached import Cached
from keras_lc.stages.changes import check_on_change
from keras_lc.stages.deleting import delete_run, delete_stages
from keras_lc.stages.session import Session
from keras_lc.stages.stage import Stage
from keras_lc.store.locate import directory_at
from keras_lc.store.stages import BEST, END, LAST, Parent

if TYPE_CHECKING:
    from keras_lc.report.tree import Tree

_ID = re.compile(r"[A-Za-z0-9][\w.+-]*")
_FOLLOW: Any = object()  # the stage that was loaded or run last


class Run:
    """A directory of stages: blocks of training whose results are stored, and taken from there
    when the script is run again.

    Args:
        directory: path or URL; made when the first stage is trained.
        build_model: gives a new `keras.Model`, built (it begins with `keras.Input`); what it is
            compiled with does not count.
        description: for people; the one that is stored stays if it is empty.
        codec: of the epochs of a fit while it is under way, as for `LCModelCheckpoint`. With
            `"lossless"` a training that was killed ends bit for bit like one that was not.
        final_codec: of the last epoch of a fit.
        keyframe_every: checkpoints from one base to the next.
        signals: names such as `("SIGUSR1", "SIGTERM")`: after one of them the fit that is under
            way is saved, and the script ends with the exit code 75; it goes on there when it is
            run again.
        on_change: `"error"`, or `"rerun"` to train anew what was made otherwise.
        verbose: 0 to say nothing of what is cached and what is trained.

    Raises:
        OptionError: an argument is not understood, or no model is built.
        ChangedError: the stages of this directory are of another model.
        DamagedError, FormatError: a file of the run cannot be read.

    Example:
        >>> import keras, numpy as np, tempfile
        >>> from keras_lc.stages import Run
        >>> def build_model():
        ...     return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> x, y = np.ones((8, 4)), np.ones((8, 2))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     for _ in range(2):
        ...         run = Run(directory, build_model)
        ...         with run.stage("sgd") as stage:
        ...             stage.compile(optimizer="sgd", loss="mse")
        ...             history = stage.fit(x, y, epochs=3, verbose=0)
        sgd: fit 1 trains, 3 epochs
        sgd: fit 1 is cached, 3 epochs
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        build_model: Callable[[], Any],
        description: str = "",
        *,
        codec: CodecLike = "lossless",
        final_codec: CodecLike = "lossless",
        keyframe_every: int = 64,
        signals: Iterable[str | int] = (),
        on_change: str = "error",
        verbose: int = 1,
    ):
        text = os.fspath(directory)
        if "{" in text or "<" in text:
            raise OptionError(f"{text!r}: a run has one directory, without fields to fill in.")
        options = {
            "codec": codec,
            "final_codec": final_codec,
            "keyframe_every": keyframe_every,
            "signals": tuple(signals),
        }
        self._on_change = check_on_change(on_change)
        self._session = Session(
            directory_at(text), build_model, description, options, self._on_change, verbose
        )

    @property
    def model(self) -> Any:
        """The model, in the state of the stage that was loaded or run last."""
        return self._session.model

    def stage(
        self,
        id: str | int,  # noqa: A002
        description: str = "",
        parent: str | int | None = _FOLLOW,
        on_change: str | None = None,
    ) -> Stage:
        """A stage, for a `with` block.

        Args:
            id: text or a number.
            description: for people.
            parent: the stage whose end it begins with; None for the model as it was built. If it
                is not given, that is the stage that was loaded or run last, in the state that
                was loaded.
            on_change: as for `Run`, of this stage alone.

        Raises:
            OptionError: the id cannot be used.
            NotFoundError, CheckpointError: when the block begins: there is no such parent, or it
                has not come to its end.
        """
        name = _id(id)
        above = self._followed(name) if parent is _FOLLOW else parent
        if not isinstance(above, Parent | None):
            above = Parent(_id(above))
        if above is not None and above.stage in self._session.book.family(name):
            raise OptionError(f"stage {name!r} cannot follow {above.stage!r}, which follows it.")
        return Stage(
            self._session, name, description, above, check_on_change(on_change, self._on_change)
        )

    def cached(self, id: str | int, on_change: str | None = None) -> Cached:  # noqa: A002
        """Operations on the end of a stage: `evaluate` and `find_lr`, each made once.

        Args:
            id: of a stage that has come to its end.
            on_change: as for `Run`, of these operations alone.
        """
        return Cached(self._session, _id(id), check_on_change(on_change, self._on_change))

    def load(self, id: str | int, which: str = END, schedule: bool = True) -> Any:  # noqa: A002
        """Have the run stand where a stage has ended; the next one follows it.

        Args:
            id: of a stage that has come to its end, in whatever process.
            which: `"end"`, as the block left it, or the `"best"` or `"last"` epoch of its last
                fit, weights, optimizer and schedule.
            schedule: False to have the schedule (the optimizer's iterations and its learning
                rate) as at the end of the stage.

        Returns:
            The model, compiled.

        Raises:
            NotFoundError, CheckpointError: there is no such stage, or it has not ended.
            MismatchError: what it is compiled with cannot be made in this process.
            OptionError: `which` is none of these.
        """
        if which not in (END, BEST, LAST):
            raise OptionError(f"which={which!r}: expected 'end', 'best' or 'last'.")
        session = self._session
        session.go(session.going_to(Parent(_id(id), which, schedule)))
        return session.model

    def tree(self) -> Tree:
        """The stages, each below the one that it was trained from; a table in a notebook, text
        for `print`."""
        from keras_lc.report.tree import tree

        return tree(str(self._session.directory))

    def delete(self, id: str | int | None = None, cascade: bool = False) -> None:  # noqa: A002
        """Delete a stage, or without an id the run: what is stored, and results with it.

        Args:
            id: of the stage.
            cascade: also delete the stages that were trained from it.

        Raises:
            NotFoundError: there is no such stage.
            OptionError: others were trained from it.
        """
        if id is None:
            delete_run(self._session)
        else:
            delete_stages(self._session, _id(id), cascade)

    def _followed(self, name: str) -> Parent | None:
        """What a stage follows that is not told: what was loaded or run last; if that is itself
        or below it, or nothing, then what it followed before."""
        book, here = self._session.book, self._session.here
        before = book.stages[name].parent if name in book.stages else None
        last = here.parent if here else None
        if last is None or last.stage in book.family(name):
            return before
        return last


def _id(id: str | int) -> str:  # noqa: A002
    text = str(id)
    if isinstance(id, bool) or not isinstance(id, str | int) or not _ID.fullmatch(text):
        raise OptionError(
            f"{id!r} is no id of a stage: expected a number, or letters, digits and _ . + - in it."
        )
    return text
