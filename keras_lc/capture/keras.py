"""A Keras model's training state: weights, seeds, buffers of torch modules, states of recurrent
layers, what else layers keep, and optimizers.

Tensors are named by group and ordinal (`weights/3`, `seeds/0`, `optimizer/5`), since a
variable's path changes between processes and may not even be unique. Paths are kept as
labels for messages.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from keras_lc.capture import RUN, Snapshot, kept
from keras_lc.capture.assigning import put_back
from keras_lc.capture.buffers import Buffers
from keras_lc.capture.configuration import build, configuration
from keras_lc.capture.layout import layout
from keras_lc.capture.matching import cast, faults, refuse
from keras_lc.capture.naming import Place, find
from keras_lc.capture.optimizers import build_optimizer, moments, optimizers_of, title
from keras_lc.capture.variables import Tensor, copied, torch_buffers, view
from keras_lc.core import TensorSpec, several
from keras_lc.core.spec import Role
from keras_lc.errors import MismatchError, OptionError

_ANOTHER = "Build the model that was saved, or restore without a model to have it rebuilt."
_UNKNOWN: tuple[Role, None] = ("exact", None)
_STATES = "states/"
_APART = (RUN, _STATES, "kept/", "assets/")  # not compared variable by variable


class KerasCapture:
    """Copies the training state of a model into buffers that it keeps, and puts it back.

    Args:
        model: a `keras.Model`; built when a snapshot is taken.
        weights_only: leave the optimizers out.

    Raises:
        OptionError: it is no model.
    """

    def __init__(self, model: Any, weights_only: bool = False):
        if not isinstance(model, keras.Model):
            raise OptionError(f"expected a keras.Model, not {type(model).__name__}: {model!r}.")
        self.model = model
        self.weights_only = weights_only
        self._buffers = Buffers()
        self._assets: list[dict[str, np.ndarray]] | None = None

    @property
    def step(self) -> int:
        """Iterations that the optimizer has made; of several, the one that has made most."""
        self._sync()
        return max((int(copied(one.iterations)) for one in optimizers_of(self.model)), default=0)

    @property
    def specs(self) -> list[TensorSpec]:
        """The role of each tensor of a snapshot."""
        return [tensor.spec for tensor in self._tensors()]

    def begin(self) -> None:
        """At the start of a `fit`: vocabularies may have become others. While it runs they do not,
        since it has been compiled with them."""
        self._assets = None

    def snapshot(self) -> Snapshot:
        """Copy the state. The arrays are the capture's own buffers, which the next snapshot
        overwrites."""
        self._sync()
        tensors = list(self._tensors())
        arrays = self._buffers.fill((tensor.spec.name, view(tensor.variable)) for tensor in tensors)
        specs = [tensor.spec for tensor in tensors]
        return Snapshot(arrays, specs, self.step, buffers=self._buffers)

    def described(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot just taken, with what a base needs besides: how Keras lays the arrays
        out in a file, and how the model is built."""
        keepers = self._keepers()
        tensors = list(self._tensors(keepers))
        names = {id(tensor.holder): tensor.spec.name for tensor in tensors}
        stores = [(keeper.layer, keeper.store) for keeper in keepers]
        places = layout(self.model, optimizers_of(self.model), stores, names, self.weights_only)
        about = {
            "framework": "keras",
            "backend": keras.backend.backend(),
            "keras": keras.__version__,
            "labels": {tensor.spec.name: tensor.label for tensor in tensors},
            "optimizers": [
                {"class": title(one), "trains": self._ordinals(one._trainable_variables)}
                for one in self._all_optimizers()
            ],
            "keepers": kept.told(keepers, names),
        }
        return replace(snapshot, layout=places, about=about | configuration(self.model))

    def restore(
        self,
        arrays: Mapping[str, np.ndarray],
        about: Mapping[str, Any],
        like: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Put a state back; the model is untouched unless all of it fits.

        A model without optimizer takes the rest of the state. An optimizer that is not built
        yet is built.

        Args:
            arrays: every tensor by name; each may be computed when asked for.
            about: what `described` has told of the state.
            like: arrays of the same shapes and dtypes that are there already.

        Raises:
            MismatchError: a tensor is missing, surplus, or of another shape or type, or an
                optimizer is of another class or trains other weights; the message names it.
        """
        if not self.model.built:
            build(self.model, about)
        has_optimizer = any(name.startswith("optimizer/") for name in arrays)
        self.weights_only = not (has_optimizer and optimizers_of(self.model))
        without = (*_APART, "optimizer/") if self.weights_only else _APART
        names = [name for name in arrays if not name.startswith(without)]
        labels, like = about.get("labels", {}), arrays if like is None else like
        tensors = {tensor.spec.name: tensor for tensor in self._model_tensors()}
        rest = [name for name in names if not name.startswith("optimizer/")]
        refuse(
            faults([*{**dict.fromkeys(rest), **tensors}], tensors, arrays, like, labels), _ANOTHER
        )
        if not self.weights_only:
            optimizers = self._build_optimizers(about.get("optimizers") or [], labels)
            tensors |= {tensor.spec.name: tensor for tensor in self._slots(optimizers)}
            refuse(
                faults([*{**dict.fromkeys(names), **tensors}], tensors, arrays, like, labels),
                _ANOTHER,
            )
        keepers = about.get("keepers")
        if keepers is not None:
            kept.check(self.model, keepers)
            kept.put_back(self.model, keepers, arrays)
        put_back(tensors, arrays, like)
        self._restore_states(arrays)

    def restore_weights(
        self,
        arrays: Mapping[str, np.ndarray],
        about: Mapping[str, Any],
        like: Mapping[str, np.ndarray],
        names: Mapping[str, str],
    ) -> None:
        """Put the weights of a checkpoint of another framework into a built model, and nothing
        else.

        Args:
            arrays, about, like: as for `restore`.
            names: path of each weight, or `weights/3`, to what the checkpoint calls it, as for
                `naming.find`.

        Raises:
            MismatchError: a weight is not named, or does not fit; the model is unchanged.
        """
        places: list[Place] = []
        unfit: list[str] = []
        for i, weight in enumerate(self.model.weights):
            wanted = names.get(weight.path, names.get(f"weights/{i}"))
            place = None if wanted is None else find(wanted, like, about.get("labels", {}))
            title = f"weights/{i} ({weight.path}, shape {tuple(weight.shape)})"
            if place is None:
                unfit.append(f"{title} is {wanted!r} in `names`, which the checkpoint has not")
            elif (shape := place.seen(like[place.name]).shape) != tuple(weight.shape):
                unfit.append(f"{title} has shape {shape} in the checkpoint, as {place.name}")
            else:
                places.append(place)
        refuse(unfit, "Name a weight for each, with `.T` behind one that is to be transposed.")
        stored = several(arrays, [place.name for place in places])
        for weight, place, array in zip(self.model.weights, places, stored, strict=True):
            weight.assign(cast(place.seen(array), weight.dtype))

    def _restore_states(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Those of recurrent layers, which are of one batch size."""
        states = kept.rnn_states(self.model)
        stored = [arrays[name] for name in arrays if name.startswith(_STATES)]
        if [a.shape for a in stored] == [tuple(state.shape) for state in states]:
            for i, state in enumerate(states):
                state.assign(cast(arrays[f"{_STATES}{i}"], state.dtype))
        elif stored and states:
            warnings.warn(
                "the states of recurrent layers are not put back: those of the model have the "
                f"shapes {[tuple(state.shape) for state in states]}, those of the checkpoint "
                f"{[array.shape for array in stored]}.",
                stacklevel=5,
            )

    def _sync(self) -> None:
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()  # jax keeps the state elsewhere while it trains

    def _all_optimizers(self) -> list[Any]:
        return [] if self.weights_only else optimizers_of(self.model)

    def _optimizers(self) -> list[Any]:
        found = self._all_optimizers()
        if len(found) > 1:
            # where a train step has its own, that which the model is compiled with is never used
            return [one for one in found if one.built]
        for one in found:
            if not one.built:
                build_optimizer(one, self.model.trainable_variables)
        return found

    def _tensors(self, keepers: list[kept.Keeper] | None = None) -> Iterator[Tensor]:
        model = list(self._model_tensors())
        yield from model
        for i, state in enumerate(kept.rnn_states(self.model)):
            yield Tensor(TensorSpec(f"{_STATES}{i}", "exact"), state)
        known = {id(tensor.variable) for tensor in model}
        for name, array in kept.kept(self._keepers() if keepers is None else keepers, known):
            yield Tensor(TensorSpec(name, "exact"), array)
        yield from self._slots(self._optimizers())

    def _keepers(self) -> list[kept.Keeper]:
        if self._assets is None:
            self._assets = kept.assets_of(self.model)
        return kept.keepers(self.model, self._assets)

    def _model_tensors(self) -> Iterator[Tensor]:
        model = self.model
        weights = {id(variable) for variable in model.weights}
        trainable = {id(variable) for variable in model.trainable_variables}
        for i, variable in enumerate(model.weights):
            # statistics of layers (BatchNormalization) are few, and must not change sign; scales
            # of quantised layers are trainable by name, but overwritten
            learned = id(variable) in trainable and not variable.overwrite_with_gradient
            role: Role = "weight" if learned else "exact"
            yield Tensor(TensorSpec(f"weights/{i}", role), variable)
        seeds = [variable for variable in model.variables if id(variable) not in weights]
        for i, variable in enumerate(seeds):
            yield Tensor(TensorSpec(f"seeds/{i}", "exact"), variable)
        for i, buffer in enumerate(torch_buffers(model)):
            yield Tensor(TensorSpec(f"buffers/{i}", "exact"), buffer)

    def _slots(self, optimizers: list[Any]) -> Iterator[Tensor]:
        weights = {id(variable): f"weights/{i}" for i, variable in enumerate(self.model.weights)}
        slots = {key: slot for one in optimizers for key, slot in moments(one).items()}
        variables = [variable for one in optimizers for variable in one.variables]
        for i, variable in enumerate(variables):
            role, of = slots.get(id(variable), _UNKNOWN)
            owner = None if of is None or role == "weight" else weights.get(of)
            yield Tensor(TensorSpec(f"optimizer/{i}", role, owner), variable)

    def _build_optimizers(
        self, stored: list[dict[str, Any]], labels: Mapping[str, str]
    ) -> list[Any]:
        """The optimizers whose state was stored, built; they must be of the classes that were
        stored and train the same weights."""
        optimizers, weights = self._all_optimizers(), self.model.weights
        if not stored:
            return self._optimizers()
        used = []
        found = " and ".join(title(optimizer) for optimizer in optimizers)
        wanted = " and ".join(state["class"] for state in stored)
        if found != wanted:
            raise MismatchError(
                f"the checkpoint was saved with the optimizer {wanted}, the model is compiled "
                f"with {found}; compile it with {wanted}."
            )
        for optimizer, state in zip(optimizers, stored, strict=True):
            theirs = {i for i in state["trains"] if i in range(len(weights))}
            if not theirs and len(stored) > 1:
                continue
            if optimizer.built:
                trains = optimizer._trainable_variables
            elif optimizer is getattr(self.model, "optimizer", None):
                trains = self.model.trainable_variables
            else:
                trains = [weights[i] for i in state["trains"] if i in theirs]
            ours = set(self._ordinals(trains))
            refuse(
                [
                    f"weights/{i} ({labels.get(f'weights/{i}', '?')}) is trained by the optimizer "
                    f"of the {'model' if i in ours else 'checkpoint'} alone"
                    for i in sorted(ours ^ theirs)
                ],
                "Freeze the same layers before `compile`, or restore before `compile` to take "
                "the weights alone.",
            )
            if not optimizer.built:
                build_optimizer(optimizer, trains)
            used.append(optimizer)
        return used

    def _ordinals(self, variables: Iterable[Any]) -> list[int]:
        """Which of the weights these are, -1 for what is none."""
        weights = {id(variable): i for i, variable in enumerate(self.model.weights)}
        return [weights.get(id(variable), -1) for variable in variables]
