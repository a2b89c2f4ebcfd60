"""The random states of this process to named arrays and back.

They belong to no model: numpy's, Python's and torch's are drawn from by data sets, layers and
callbacks; those of Keras' own seed generators are variables of the model. No library is
imported for this, only asked if it is there.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

_TWISTER = "MT19937"


def states() -> dict[str, np.ndarray]:
    """Every random state that there is now, copied."""
    found = {"python": _python()}
    kind, key, *rest = np.random.get_state(legacy=True)
    if kind == _TWISTER:
        found["numpy"] = _twister(key, *rest)
    if torch := sys.modules.get("torch"):
        found["torch"] = torch.get_rng_state().numpy().copy()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            for i, state in enumerate(torch.cuda.get_rng_state_all()):
                found[f"cuda-{i}"] = state.numpy().copy()
    if (generator := _tensorflow_generator()) is not None:
        found["tensorflow"] = np.array(generator.state)
    return found


def restore(states: Mapping[str, np.ndarray]) -> None:
    """Put back what `states` gave; what this process has not got is left out."""
    if "python" in states:
        key, position, gauss = _untwisted(states["python"])
        random.setstate((3, (*key.tolist(), position), gauss))
    if "numpy" in states:
        key, position, gauss = _untwisted(states["numpy"])
        np.random.set_state((_TWISTER, key, position, gauss is not None, gauss or 0.0))
    if torch := sys.modules.get("torch"):
        if "torch" in states:
            torch.set_rng_state(torch.from_numpy(states["torch"].copy()))
        if torch.cuda.is_available():
            for i in range(torch.cuda.device_count()):
                if f"cuda-{i}" in states:
                    state = torch.from_numpy(states[f"cuda-{i}"].copy())
                    torch.cuda.set_rng_state(state, i)
    if "tensorflow" in states and (tensorflow := sys.modules.get("tensorflow")):
        tensorflow.random.get_global_generator().reset(states["tensorflow"])


def missing(names: Iterable[str]) -> list[str]:
    """Those of these states that cannot be put back here."""
    libraries = {"torch": "torch", "cuda": "torch", "tensorflow": "tensorflow"}
    return [name for name in names if libraries.get(name.split("-")[0], "sys") not in sys.modules]


def tensorflow_seed() -> int | None:
    """The seed that TensorFlow's operations are made with; None if it is not set."""
    context = sys.modules.get("tensorflow.python.eager.context")
    seed = None if context is None else context.global_seed()
    return None if seed is None else int(seed)


@contextmanager
def apart(seed: int | None = None) -> Iterator[None]:
    """Whatever is drawn meanwhile, afterwards every random state is what it was before.

    Args:
        seed: that TensorFlow makes the seeds of its operations from meanwhile; None for the one
            that it has.
    """
    before = states()
    module = sys.modules.get("tensorflow.python.eager.context")
    context = None if module is None else module.context()
    own = (None, None) if context is None else (context._seed, getattr(context, "_rng", None))
    try:
        if context is not None:
            if seed is not None:
                context._set_global_seed(seed)
            elif own[1] is not None:
                context._rng = random.Random()
                context._rng.setstate(own[1].getstate())
        yield
    finally:
        if context is not None:
            if seed is not None:
                context._set_global_seed(own[0])
            if own[1] is not None:
                context._rng = own[1]
        restore(before)


def _tensorflow_generator() -> Any | None:
    module = sys.modules.get("tensorflow.python.ops.stateful_random_ops")
    return None if module is None else module.global_generator  # asking for it makes one


def _python() -> np.ndarray:
    _, (*key, position), gauss = random.getstate()
    return _twister(key, position, gauss is not None, gauss or 0.0)


def _twister(key: Any, position: int, has_gauss: bool, gauss: float) -> np.ndarray:
    """A Mersenne twister as 628 words: key, position, and half a pair of normal numbers."""
    tail = [np.uint32(position), np.uint32(has_gauss), *np.float64(gauss).reshape(1).view("<u4")]
    return np.concatenate([np.asarray(key, np.uint32), np.asarray(tail, np.uint32)])


def _untwisted(words: np.ndarray) -> tuple[np.ndarray, int, float | None]:
    key, position, has_gauss, tail = words[:624], words[624], words[625], words[626:]
    gauss = float(np.ascontiguousarray(tail, "<u4").view("<f8")[0])
    return np.array(key), int(position), gauss if has_gauss else None
