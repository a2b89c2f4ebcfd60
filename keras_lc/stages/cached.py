"""Operations on the end of a stage, made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import keras

from keras_lc.capture import randomness
from keras_lc.errors import ChangedError, OptionError
from keras_lc.stages.changes import RERUN, clauses, differences
from keras_lc.stages.fingerprint import call_told
from keras_lc.stages.lr_finder import LearningRates, search
from keras_lc.stages.session import Place, Session
from keras_lc.stages.training import follows_schedule
from keras_lc.store.stages import Parent


class Cached:
    """What `run.cached(...)` gives.

    Each operation has one place for its result, or one for each `name` that it is given. It works
    on a model of its own, so that the one of the run stays as it is.
    """

    def __init__(self, session: Session, id: str, on_change: str):  # noqa: A002
        self.id = id
        self._session = session
        self._on_change = on_change

    def evaluate(
        self, x: Any, y: Any = None, *, name: str = "", data_id: str | None = None, **options: Any
    ) -> dict[str, float]:
        """Loss and metrics of the state that the stage has ended with.

        Args:
            x, y: as for `keras.Model.evaluate`.
            name: of this result, where there is more than one.
            data_id: as for `Stage.fit`.
            options: of `keras.Model.evaluate`.

        Raises:
            ChangedError: the result that is stored is of other data or arguments.
            NotFoundError, CheckpointError: there is no such stage, or it has not ended.
        """
        fingerprint = call_told(x, y, options, data_id)
        options = {"verbose": 0} | options

        def made(place: Place) -> dict[str, float]:
            model = self._session.new_model()
            assert place.settings is not None
            place.settings.compile(model)
            self._session.put(place, model, optimizer=True)
            found = model.evaluate(x, y, return_dict=True, **options)
            return {key: float(value) for key, value in found.items()}

        return dict(self._once("evaluate", name, fingerprint, made))

    def find_lr(
        self,
        x: Any,
        y: Any = None,
        *,
        optimizer: Any = None,
        loss: Any = None,
        min_rate: float = 1e-6,
        max_rate: float = 1.0,
        epochs: int = 1,
        name: str = "",
        data_id: str | None = None,
        **options: Any,
    ) -> LearningRates:
        """Train a copy of the model on batches at learning rates that rise, and note the loss.

        Args:
            x, y: as for `keras.Model.fit`.
            optimizer: another one than that of the stage, which would go on with its state; on
                a schedule it begins anew.
            loss: another one than that of the stage.
            min_rate, max_rate: the first rate, and the last one if nothing diverges before.
            epochs: over which it rises.
            name, data_id: as for `evaluate`.
            options: of `keras.Model.fit`.

        Raises:
            OptionError: the rates or the epochs cannot be used.
            ChangedError, NotFoundError, CheckpointError: as for `evaluate`.
        """
        if not (0 < min_rate < max_rate and epochs >= 1):
            raise OptionError(
                f"find_lr: min_rate={min_rate}, max_rate={max_rate}, epochs={epochs}: expected "
                "positive rates, the first one the smaller, and an epoch at least."
            )
        own = {} if optimizer is None else {"optimizer": keras.optimizers.get(optimizer)}
        own |= {} if loss is None else {"loss": loss}
        span = {"min_rate": min_rate, "max_rate": max_rate, "epochs": epochs}
        fingerprint = call_told(x, y, options, data_id, **span, **own)

        def made(place: Place) -> dict[str, list[float]]:
            settings, model = place.settings, self._session.new_model()
            assert settings is not None
            asked = own.get("optimizer") or settings.parts["optimizer"].make("optimizer", self.id)
            carries = "optimizer" not in own and not follows_schedule(asked)
            free = type(asked).from_config(asked.get_config() | {"learning_rate": min_rate})
            settings.compile(model, **own | {"optimizer": free})
            self._session.put(place, model, optimizer=carries)
            return asdict(search(model, x, y, min_rate, max_rate, epochs, **options))

        return LearningRates(**self._once("find_lr", name, fingerprint, made))

    def delete(self, operation: str | None = None, name: str = "") -> None:
        """Forget a result, or all of them.

        Args:
            operation: `"evaluate"` or `"find_lr"`; None for all.
            name: of the result.

        Raises:
            OptionError: there is no such result.
        """
        record = self._session.stage(self.id)
        left = {}
        if operation is not None:
            left = dict(record.cached)
            if left.pop(_key(operation, name), None) is None:
                raise OptionError(
                    f"stage {self.id!r} has no result {_key(operation, name)!r}; it has "
                    f"{', '.join(record.cached) or 'none'}."
                )
        self._session.write(replace(record, cached=left))

    def _once(
        self,
        operation: str,
        name: str,
        fingerprint: dict[str, Any],
        make: Callable[[Place], dict[str, Any]],
    ) -> dict[str, Any]:
        """A result from the store, or made now."""
        session, key = self._session, _key(operation, name)
        place = session.going_to(Parent(self.id))
        record = session.stage(self.id)
        assert place.settings is not None
        fingerprint = {"end": place.origin, "compile": place.settings.told, **fingerprint}
        if key in record.cached:
            changes = list(differences(record.cached[key]["fingerprint"], fingerprint))
            if not changes:
                session.say(f"{self.id}: {key} is cached")
                return dict(record.cached[key]["result"])
            if self._on_change != RERUN:
                raise ChangedError(
                    f"{key} of stage {self.id!r} was made otherwise: {clauses(changes)}. Give this "
                    "one a name= of its own, or have the other one replaced with "
                    "on_change='rerun'."
                )
        session.say(f"{self.id}: {key}")
        with randomness.apart():
            result = make(place)
        done = {"fingerprint": fingerprint, "result": result}
        record = session.stage(self.id)
        session.write(replace(record, cached=record.cached | {key: done}))
        return result


def _key(operation: str, name: str) -> str:
    return f"{operation} {name}" if name else operation
