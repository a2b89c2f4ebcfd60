"""Where a `fit` stands in its data, found again without training.

What has been drawn is drawn once more: a pipeline whose randomness is seeded, or comes from
the random states that are put back first, gives the same batches, whatever it is made of.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import keras
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.trainers.data_adapters.tf_dataset_adapter import TFDatasetAdapter
from keras.src.trainers.data_adapters.torch_data_loader_adapter import TorchDataLoaderAdapter
from keras.src.trainers.epoch_iterator import EpochIterator

from keras_lc.capture import running


def replay(data: EpochIterator, epochs: int) -> None:
    """Bring the data of a `fit` that has not begun to where so many epochs leave it.

    An iterator that lasts longer than an epoch (`steps_per_epoch`, a generator) is drawn from
    as often as they did. Of a data set that is iterated anew in each epoch, the iterators are
    made, which is what a shuffle counts, and its epoch hooks are called.
    """
    for _ in range(epochs if _remembers(data) else 0):
        whole = data.steps_per_epoch is not None or data.num_batches is None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of data that has run out, as it did before
            with data.catch_stop_iteration():
                for number, (_, _, iterator) in enumerate(data._enumerate_iterator()):
                    if whole or number == 0:
                        draw(iterator, data.steps_per_execution)


def draw(iterator: Iterator[Any], steps: int) -> Any:
    """The first of so many batches, all of which are drawn.

    Raises:
        StopIteration: there is none.
    """
    batches = islice(iterator, steps)
    first = next(batches)
    for _ in batches:
        pass
    return first


def _remembers(data: EpochIterator) -> bool:
    """Whether an epoch's batches depend on the epochs before, but for the random states."""
    adapter = data.data_adapter
    if data.steps_per_epoch is not None:
        return True
    if isinstance(adapter, TorchDataLoaderAdapter):
        loader = adapter._dataloader
        return any(
            getattr(part, "generator", None) is not None for part in (loader, loader.sampler)
        )
    return not isinstance(adapter, ArrayDataAdapter)


def doubts(data: EpochIterator, seed: int | None, seed_then: int | None, within: bool) -> list[str]:
    """What keeps the batches from being those of the run before: a sentence each.

    Args:
        data: of the `fit`.
        seed: of TensorFlow now, None if it is not set.
        seed_then: the same in the run before.
        within: whether an epoch was left unfinished.
    """
    adapter = data.data_adapter
    same = seed is not None and seed == seed_then
    advice = "call `keras.utils.set_random_seed` with a constant at the start of the script."
    if isinstance(adapter, ArrayDataAdapter):
        tensorflow = keras.backend.backend() == "tensorflow"
        lasting = within or data.steps_per_epoch is not None
        if tensorflow and adapter._shuffle and lasting and not same:
            return [
                "TensorFlow shuffles arrays by its global seed, which is "
                + ("not set" if seed is None else "not that of the run before")
                + f", so the rest of the epoch is not known; {advice}"
            ]
    if isinstance(adapter, TFDatasetAdapter):
        for dataset in _pipeline(adapter._dataset):
            seeds = [int(getattr(dataset, name, 1)) for name in ("_seed", "_seed2")]
            if seeds == [0, 0]:
                return [f"the data set shuffles without a seed; give it one, or {advice}"]
            if hasattr(dataset, "_seed") and seed != seed_then:
                return [f"the global seed of TensorFlow is not that of the run before; {advice}"]
    return []


def _pipeline(dataset: Any) -> Iterator[Any]:
    yield dataset
    for before in getattr(dataset, "_inputs", list)():
        yield from _pipeline(before)


class Skipping:
    """Stands in for a model's train function while batches that are done are drawn again.

    Args:
        model: whose `fit` runs.
        fit: that one; in any other, training goes on as if this were not there.
        logs: what callbacks are told of each batch.
    """

    def __init__(self, model: Any, fit: running.Running, logs: Mapping[str, float]):
        self._model = model
        self._fit = fit
        self._logs = dict(logs)
        self._train: Callable[..., Any] = model.train_function
        model.train_function = self

    def end(self) -> None:
        """Train again."""
        if self._model.train_function is self:
            self._model.train_function = self._train

    def __call__(self, *arguments: Any) -> Any:
        found = running.find(self._model)
        if found is None or found.callbacks is not self._fit.callbacks:
            self.end()
            return self._train(*arguments)
        *state, data = arguments  # of JAX alone there is a state
        try:
            if isinstance(data, list):  # torch has drawn them
                first = data[0]
            else:
                first = draw(data, self._fit.data.steps_per_execution)
            self._build(first)
        except BaseException:
            self.end()
            raise
        return (self._logs, *state) if state else self._logs

    def _build(self, batch: Any) -> None:
        """Metrics come into being with the first batch, if it is not one that is trained."""
        metrics = self._model._compile_metrics
        if metrics is not None and not metrics.built:
            self._model._symbolic_build(data_batch=batch)
