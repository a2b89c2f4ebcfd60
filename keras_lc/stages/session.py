"""What the stages of one process share: the model, what it holds, and where the run stands."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from secrets import token_hex
from typing import Any

import keras

from keras_lc.capture import randomness
from keras_lc.capture import run as runs
from keras_lc.capture.keras import KerasCapture
from keras_lc.checkpointer import save_alone
from keras_lc.errors import ChangedError, CheckpointError, NotFoundError, OptionError
from keras_lc.loader import Loaded
from keras_lc.restoring import put_back
from keras_lc.stages import settings, states, training
from keras_lc.stages.changes import ERROR, clauses, differences
from keras_lc.stages.fingerprint import model_told
from keras_lc.stages.settings import Settings
from keras_lc.store import stages
from keras_lc.store.directory import Directory
from keras_lc.store.lock import Writer
from keras_lc.store.stages import Book, Parent, State

Build = Callable[[], Any]


@dataclass(frozen=True)
class Place:
    """A state to go on from.

    Attributes:
        parent: how a stage that begins here names it; None for the model as it was built.
        state: the checkpoint.
        settings: what the model is compiled with there; None before it is compiled.
        schedule: the checkpoint whose schedule it has, if that is another one.
    """

    parent: Parent | None
    state: State
    settings: Settings | None
    schedule: State | None = None

    @property
    def origin(self) -> str:
        """Digest of all of it."""
        return stages.origin(self.state, self.schedule)


class Session:
    """A run, as one process has it open.

    Args:
        directory: of the run.
        build: gives a new model each time.
        description: of the run; empty to leave it as it is.
        options: of `LCModelCheckpoint`.
        on_change: what becomes of a cached call that was made otherwise.
        verbose: whether to tell what is done.
    """

    def __init__(
        self,
        directory: Directory,
        build: Build,
        description: str,
        options: dict[str, Any],
        on_change: str,
        verbose: int,
    ):
        self.directory = directory
        self.options = options
        self.on_change = on_change
        self.verbose = verbose
        self.here: Place | None = None
        self.open: str | None = None  # the stage whose block is being run
        self._build = build
        self._description = description
        self._settings: dict[str, Settings] = {}
        self._compiled: Settings | None = None
        self._holds: Place | None = None
        self._model = self.new_model()
        self._flags = settings.flags(self._model)
        self._check_model()

    @property
    def book(self) -> Book:
        """What the files say now."""
        return stages.read(self.directory)

    def book_with(self, id: str) -> Book:  # noqa: A002
        """The same, of a run that has this stage.

        Raises:
            NotFoundError: it has not.
        """
        book = self.book
        if id not in book.stages:
            known = ", ".join(book.stages) or "none"
            raise NotFoundError(f"there is no stage {id!r} in {str(self.directory)!r}: {known}.")
        return book

    def check_no_block(self, *stages: str) -> None:
        """Raise if a block is being run, of one of these stages where any are named.

        Raises:
            OptionError: one is.
        """
        if self.open is not None and (not stages or self.open in stages):
            raise OptionError(f"the block of stage {self.open!r} has not ended yet.")

    @property
    def model(self) -> Any:
        """The model, in the state where the run stands; layers that have been frozen meanwhile
        stay so."""
        if self.here is not None and self._holds != self.here:
            flags, known = self.flags, self.here.settings
            self._holds = None
            if known is not None and self._compiled is not known:
                self._compiled = None
                known.compile(self._model)
                self._compiled = known
            self.put(self.here, self._model, known is not None)
            self._holds = self.here
            settings.set_flags(self._model, flags)
        return self._model

    def go(self, place: Place | None) -> None:
        """The run stands there from now on; the model follows when it is asked for."""
        self.here = place
        known = place.settings if place else None
        settings.set_flags(self._model, known.trainable if known else self._flags)

    @property
    def flags(self) -> list[bool]:
        """Of each layer of the model, whether it is trainable now."""
        return settings.flags(self._model)

    def new_model(self) -> Any:
        """Another model, as it is built. The random states of the process stay as they are, as in
        all that a stage does: whether it is trained or cached makes no difference to what the
        script draws.

        Raises:
            OptionError: what is built is no model that has weights.
        """
        with randomness.apart():
            model = self._build()
        if not isinstance(model, keras.Model):
            raise OptionError(f"build_model gave {model!r}: expected a keras.Model.")
        if not model.built:
            raise OptionError(
                "build_model gave a model without weights yet; begin it with keras.Input(shape), "
                "or call its `build`."
            )
        if model is getattr(self, "_model", None):
            raise OptionError(
                "build_model gave the same model twice; it should make a new one each time."
            )
        return model

    def say(self, text: str) -> None:
        """Tell what is done, if that is wanted."""
        if self.verbose:
            print(text, flush=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Change files of the run, while no other process does."""
        self.directory.make()
        writer = Writer(self.directory)
        try:
            with writer.writing():
                yield
        finally:
            writer.release()

    def write(self, stage: stages.Stage) -> None:
        """Write what is known of a stage, and delete the checkpoints that nothing needs now."""
        with self.writing():
            stages.write_stage(self.directory, stage)
            states.sweep(self.directory, self.book)

    def start(self) -> Place:
        """The model as it was built; what all first stages begin with is stored once."""
        book = self.book
        if book.run.start is None:
            book = replace(book, run=self._write_start(book.run))
        assert book.run.start is not None
        return Place(None, book.run.start, None)

    def place_of(self, parent: Parent) -> Place:
        """Where a stage has ended, or what it has kept.

        Raises:
            NotFoundError: there is no such stage.
            CheckpointError: it has not come to its end.
        """
        kept = self.stage(parent.stage).fits[-1].states
        schedule = None if parent.schedule else kept[stages.END]
        return Place(parent, kept[parent.which], self.settings_of(parent.stage), schedule)

    def going_to(self, parent: Parent) -> Place:
        """The same, for whoever goes on from there; a warning tells that it is stale."""
        place, book = self.place_of(parent), self.book
        if book.is_stale(book.stages[parent.stage]):
            warnings.warn(
                f"stage {parent.stage!r} is stale: what it was trained from has been trained or "
                "made anew since. Run its block with on_change='rerun' to train it anew, too.",
                stacklevel=4,
            )
        return place

    def stage(self, id: str) -> stages.Stage:  # noqa: A002
        """A stage that has come to its end.

        Raises:
            NotFoundError, CheckpointError: as for `place_of`.
        """
        stage = self.book_with(id).stages[id]
        if not stage.complete:
            number = 1 + sum(fit.complete for fit in stage.fits)
            raise CheckpointError(
                f"stage {id!r} has not come to its end: fit {number} was stopped, or never made. "
                "Run its block to have it go on."
            )
        return stage

    def settings_of(self, id: str | None) -> Settings | None:  # noqa: A002
        """What a stage is compiled with: given in this process, or told by its file."""
        if id is None:
            return None
        if id not in self._settings:
            stage = self.book.stages[id]
            above = self.settings_of(stage.parent.stage if stage.parent else None)
            if not stage.compile and above is not None:
                return above
            self._settings[id] = settings.stored(id, stage.compile, above)
        return self._settings[id]

    def know(self, id: str, given: Settings) -> None:  # noqa: A002
        """What a stage is compiled with has been given in this process, and is no other."""
        self._settings[id] = given

    def forget(self, *ids: str) -> None:
        """Stages are gone."""
        for one in ids:
            self._settings.pop(one, None)
        if self.here is not None and self.here.parent and self.here.parent.stage in ids:
            self.go(None)

    def train_from(self, place: Place, wanted: Settings) -> tuple[Any, Loaded]:
        """The model to be trained, and the state that it has been given.

        It is compiled each time: where it has not yet been, Keras draws a batch before training
        to build its metrics, and a fit should not depend on whether others came before it in this
        process.

        Args:
            place: the state.
            wanted: what to compile it with; where that has another optimizer, it begins anew.
        """
        self._holds = self._compiled = None
        wanted.compile(self._model)
        loaded = self.put(place, self._model, wanted.shares_optimizer(place.settings))
        self._compiled = wanted
        return self._model, loaded

    def put(self, place: Place, model: Any, optimizer: bool) -> Loaded:
        """Put a state into a model, with its optimizer or without."""
        loaded = states.load_state(self.directory, place.state)
        if not optimizer:
            training.put_weights(loaded, model)
            return loaded
        schedule = []
        if place.schedule is not None:
            put_back(states.load_state(self.directory, place.schedule), model)
            schedule = training.schedule_of(model)
        put_back(loaded, model)
        training.put_schedule(schedule)
        return loaded

    def rebuild(self) -> None:
        """Begin with a new model."""
        self.here = self._holds = self._compiled = None
        self._settings.clear()
        self._model = self.new_model()
        self._flags = settings.flags(self._model)

    def _check_model(self) -> None:
        run, model = self.book.run, model_told(self._model)
        changes = list(differences(run.model, model)) if run.model else []
        if changes and self.on_change == ERROR:
            raise ChangedError(
                f"{str(self.directory)!r} was made with another model: {clauses(changes)}. Use "
                "another directory, or have all stages trained anew with on_change='rerun'."
            )
        described = self._description or run.description
        if changes or (run.model and described != run.description):
            with self.writing():
                start = None if changes else run.start
                stages.write_run(self.directory, stages.Run(described, model, start))

    def _write_start(self, run: stages.Run) -> stages.Run:
        capture = KerasCapture(self._model, weights_only=True)
        snapshot = runs.with_random(capture.snapshot(), {"now": randomness.states()})
        name = f"start-{token_hex(4)}"
        with self.writing():
            save_alone(self.directory.child(name), capture.described(snapshot), epoch=0)
            start = states.find(self.directory, name)
            description = self._description or run.description
            run = stages.Run(description, model_told(self._model), start)
            stages.write_run(self.directory, run)
        return run
