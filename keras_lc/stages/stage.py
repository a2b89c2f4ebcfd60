"""A stage: a block of a script whose calls of `fit` are made once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from secrets import token_hex
from types import TracebackType
from typing import Any

from keras_lc.errors import ChangedError, OptionError
from keras_lc.figures.words import count
from keras_lc.stages import plots, settings, training
from keras_lc.stages.changes import RERUN, clauses, differences
from keras_lc.stages.fingerprint import call_told, told
from keras_lc.stages.fits import Call, history_of, make
from keras_lc.stages.session import Place, Session
from keras_lc.stages.settings import Settings
from keras_lc.store import stages
from keras_lc.store.stages import END, Fit, Parent


class Stage:
    """What `run.stage(...)` gives; to be used in its `with` block."""

    def __init__(
        self, session: Session, id: str, description: str, parent: Parent | None, on_change: str  # noqa: A002
    ):  # fmt: skip
        self.id = id
        self._session = session
        self._description = description
        self._parent = parent
        self._on_change = on_change
        self._settings: Settings | None = None
        self._given: dict[str, Any] = {}
        self._called = 0  # calls of `fit`
        self._before: Place | None = None  # where the run stood when the block began

    @property
    def model(self) -> Any:
        """The model, in the state that this stage has come to."""
        return self._session.model

    def __enter__(self) -> Stage:
        session = self._session
        session.check_no_block()
        self._before = session.here
        if self._parent is not None:
            session.go(session.going_to(self._parent))
        else:
            session.go(session.start() if session.book.run.start else None)
        self._settings = session.settings_of(self._parent.stage if self._parent else None)
        session.open = self.id
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        session = self._session
        session.open = None
        record = self._record()
        try:
            if error is None and record.fits:
                record = self._settled(record)
        finally:
            session.go(self._reached(record))

    def compile(self, **arguments: Any) -> None:
        """Compile the model as `keras.Model.compile` does, when there is something to train.

        What is given is made anew. What is not given carries over from the parent, the optimizer
        with its state. Which layers are trainable is stored, too.

        Args:
            arguments: of `keras.Model.compile`.

        Raises:
            OptionError: it was called before, or after a `fit`, or an argument is not known.
        """
        self._check_open()
        if self._given or self._called:
            raise OptionError(
                f"stage {self.id!r}: compile comes first and once; begin another stage to change "
                "what is compiled."
            )
        if unknown := arguments.keys() - set(settings.ARGUMENTS):
            raise OptionError(f"compile has no argument {', '.join(sorted(unknown))}.")
        carried = {} if self._settings is None else self._settings.parts
        if "optimizer" not in {**carried, **arguments}:
            raise OptionError(f"stage {self.id!r} has no parent to take the optimizer from.")
        self._settings = settings.given(self.id, arguments, self._settings, self._session.flags)
        documents = {name: self._settings.parts[name].document for name in arguments}
        self._given = documents | {settings.TRAINABLE: self._settings.trainable}

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        *,
        epochs: int = 1,
        watch: str | None = None,
        mode: str = "auto",
        load_best: bool = False,
        patience: int | None = None,
        warmup: int = 0,
        callbacks: Iterable[Any] = (),
        data_id: str | None = None,
        **options: Any,
    ) -> Any:
        """Train, or where this has been done before, take what came of it from the store.

        A fit that was killed goes on in the middle. Random states are those that the stage
        before has ended with, whatever the script has drawn meanwhile, and stay the script's own.

        Args:
            x, y: as for `keras.Model.fit`.
            epochs: to train; they are counted from 0 in each fit.
            watch: the metric that tells the best epoch; `"val_loss"` if there is validation
                data, else `"loss"`.
            mode: `"auto"`, `"min"` or `"max"`: what is better.
            load_best: end with the state of the best epoch. The schedule (the optimizer's
                iterations and its learning rate) stays what it has come to.
            patience: stop after so many epochs that were no better.
            warmup: epochs in which the learning rate rises to what it is.
            callbacks: as in Keras.
            data_id: names the data, where it is a data set of which type and shapes alone can be
                seen: give it another name when it becomes another one.
            options: of `keras.Model.fit`.

        Returns:
            The `History` of this fit.

        Raises:
            ChangedError: it was made with other arguments, settings or data, or from another
                state.
            OptionError: an argument is not understood, or the stage was never compiled.
            SystemExit: a signal of `Run(signals=...)` has come; the fit will go on in another
                process.
        """
        self._check_open()
        if "initial_epoch" in options:
            raise OptionError(
                "initial_epoch: a fit of a stage begins by itself where it has ended."
            )
        if not isinstance(epochs, int) or epochs < 1:
            raise OptionError(f"epochs={epochs!r}: expected a whole number from 1 up.")
        if self._settings is None:
            raise OptionError(f"stage {self.id!r} has no parent, so it has to `compile` first.")
        session, number, callbacks = self._session, self._called, list(callbacks)
        validates = "validation_data" in options or bool(options.get("validation_split"))
        watch = watch or ("val_loss" if validates else "loss")
        place = session.here or session.start()
        fingerprint = {
            "parent": place.origin,
            "compile": self._settings.told,
            "callbacks": told(callbacks),
            **call_told(
                x, y, options, data_id, epochs=epochs, watch=watch, mode=mode,
                load_best=load_best, patience=patience, warmup=warmup,
            ),
        }  # fmt: skip
        record = self._checked(self._record(), number, fingerprint)
        if self._given:
            session.know(self.id, self._settings)
        if number < len(record.fits) and record.fits[number].complete:
            fit = record.fits[number]
            session.say(f"{self.id}: fit {number + 1} is cached, {count(len(fit.epoch), 'epoch')}")
            history = history_of(fit, epochs)
        else:
            session.say(f"{self.id}: fit {number + 1} trains, {count(epochs, 'epoch')}")
            record = self._begun(record, number, fingerprint)
            watching = training.Watch(
                watch,
                late=validates and watch.startswith("val_"),
                mode=mode,
                patience=epochs if patience is None else patience,
            )
            call = Call(x, y, epochs, watching, load_best, warmup, callbacks, options)
            fit, history = make(session, self._settings, place, record.fits[number], call)
            session.write(replace(record, fits=[*record.fits[:number], fit]))
        self._called += 1
        session.go(Place(Parent(self.id), fit.states[END], self._settings))
        return history

    def plot_history(self, file: str | os.PathLike[str] | None = None) -> Any:
        """Draw the metrics of all fits of this stage, one after another.

        Args:
            file: to write as well, `.png`, `.svg` or `.pdf`.

        Returns:
            A figure of matplotlib.

        Raises:
            OptionError: there is nothing to draw yet, or matplotlib is missing.
        """
        fits = [fit for fit in self._record().fits if fit.complete]
        return plots.history(self.id, fits, file)

    def _check_open(self) -> None:
        if self._session.open != self.id:
            raise OptionError(f"stage {self.id!r}: this is for use in its `with` block.")

    def _record(self) -> stages.Stage:
        """What is known of this stage, with what the block says of it."""
        known = self._session.book.stages.get(self.id)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = known or stages.Stage(self.id, created=now)
        return replace(record, description=self._description or record.description)

    def _settled(self, record: stages.Stage) -> stages.Stage:
        """The stage as its block has left it, written down.

        Raises:
            ChangedError: it has more fits than the block has made, and may not forget them.
        """
        session = self._session
        if 0 < self._called < len(record.fits):
            if self._on_change != RERUN:
                raise ChangedError(
                    f"stage {self.id!r} has {len(record.fits)} fits, and its block made "
                    f"{self._called}: make all of them, or have the rest forgotten with "
                    "on_change='rerun'."
                )
            record = replace(record, fits=record.fits[: self._called], cached={})
            session.write(record)
        elif record != session.book.stages[self.id]:  # described otherwise
            session.write(record)
        return record

    def _reached(self, record: stages.Stage) -> Place | None:
        """Where the run stands after the block, be it that it has failed: at the end of the stage;
        if there is none yet, where nothing can follow; where it was before if nothing has begun."""
        session = self._session
        if record.complete:
            return session.place_of(Parent(self.id))
        if record.fits:
            return replace(session.here or session.start(), parent=Parent(self.id))
        return self._before

    def _checked(
        self, record: stages.Stage, number: int, fingerprint: dict[str, Any]
    ) -> stages.Stage:
        """The stage without what was made otherwise.

        Raises:
            ChangedError: something was, and may not be forgotten.
        """
        if number >= len(record.fits):
            return record
        before = record.fits[number].fingerprint
        changes = list(differences(before | {"parent": None}, fingerprint | {"parent": None}))
        if before["parent"] != fingerprint["parent"]:
            changes.insert(0, self._other_parent(record, number))
        if changes and self._on_change != RERUN:
            raise ChangedError(
                f"fit {number + 1} of stage {self.id!r} was made otherwise: {clauses(changes)}. "
                "Put it back as it was, begin a stage of another name, or have this one trained "
                "anew with on_change='rerun'."
            )
        return replace(record, fits=record.fits[:number], cached={}) if changes else record

    def _begun(
        self, record: stages.Stage, number: int, fingerprint: dict[str, Any]
    ) -> stages.Stage:
        """The stage with a fit that is under way, be it that it was killed in another process."""
        if number < len(record.fits):
            return record
        compiled = self._given if self._given or number == 0 else record.compile
        fit = Fit(f"{self.id}-{number + 1}-{token_hex(4)}", fingerprint)
        fits = [*record.fits, fit]
        record = replace(record, parent=self._parent, compile=compiled, fits=fits, cached={})
        self._session.write(record)
        return record

    def _other_parent(self, record: stages.Stage, number: int) -> str:
        if number:
            return f"fit {number}, which it follows, has been made anew"
        if record.parent == self._parent:
            above = repr(self._parent.stage) if self._parent else "the model as it was built"
            return f"it was trained from {above}, which has been trained or made anew since"
        return (
            f"it was trained from {_named(record.parent)}, and is to follow {_named(self._parent)}"
        )


def _named(parent: Parent | None) -> str:
    if parent is None:
        return "the model as it was built"
    return f"{parent.stage!r}" if parent.which == END else f"the {parent.which} of {parent.stage!r}"
