"""Several deltas, one after another, as one that leads to the very same state.

Lattices and levels are sums of integers, so the sum of their movements stands for all of them;
everything else is stored anew each time, so the last one does. A merged delta is smaller than
many deltas and larger than a few: it holds the movements with all of their fine digits.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from keras_lc.core import workers as threads
from keras_lc.core.blob import Entry
from keras_lc.core.codecs import exact, first, lattice, outer, second
from keras_lc.core.coding import Coding, code, pack
from keras_lc.core.decoder import DeltaDecoder
from keras_lc.core.state import Chain, State
from keras_lc.core.tiles import every
from keras_lc.errors import MismatchError

_DENSE = 1 << 15  # values on which differences are tried


def merge(decoder: DeltaDecoder, deltas: Iterable[bytes]) -> bytes:
    """One delta that does what several do.

    Args:
        decoder: has the state that the first of them builds on; it is moved on by all.
        deltas: in their order, at least one.

    Raises:
        DamagedError, MismatchError: as `DeltaDecoder.decode`.

    Example:
        >>> import numpy as np
        >>> from keras_lc.core import DeltaDecoder, DeltaEncoder, merge
        >>> base = {"w": np.zeros(1000, np.float32)}
        >>> encoder = DeltaEncoder(base)
        >>> deltas = [encoder.encode({"w": np.full(1000, i, np.float32)}) for i in (1, 2, 3)]
        >>> merged = merge(DeltaDecoder(base), deltas)
        >>> state = DeltaDecoder(base).decode(merged)
        >>> bool(np.array_equal(state["w"], encoder.reconstruction["w"]))
        True
    """
    chain = decoder.chain
    before = [list(tensor) for tensor in chain.tensors]
    sequence, references = chain.sequence, list(chain.references)
    for delta in deltas:
        decoder.decode(delta)
    if chain.sequence == sequence:
        raise MismatchError("there are no deltas to merge.")
    announce = sequence == 0 or chain.references != references
    with threads.start() as workers:
        codings = (_coding(chain, i, before[i]) for level in chain.levels() for i in level)
        return pack(
            workers,
            (coded for _, coded in code(workers, chain.table, codings)),
            sequence + 1,
            chain.sequence,
            chain.table.fingerprint,
            chain.references if announce else None,
        )


def _coding(chain: Chain, i: int, before: list[State]) -> Coding:
    """How tensor `i` comes from the states `before` of its tiles to those of now."""
    after, tiles = chain.tensors[i], chain.table.tiles[i]
    if all(a is b for a, b in zip(after, before, strict=True)):
        return Coding(i, Entry("same", []))
    match after[0]:
        case lattice.Lattice():
            return _jump(i, before, after)
        case second.LogLevel():
            return _levels(i, before, after)
        case first.Scaled(factors=outer.Outer() as factors):
            return Coding(i, Entry("outer", factors.scale.write()), factors.symbols())
        case first.Scaled(unit=unit):
            return Coding(i, Entry("first", [unit]), symbols=lambda j: after[j].integers())
    step = chain.table.sizes[i] // _DENSE | 1
    samples = [
        np.concatenate([s.value()[every(step, t)] for s, t in zip(states, tiles, strict=True)])
        for states in (after, before)
    ]
    if exact.worth(*samples):
        return Coding(
            i,
            Entry("difference", []),
            symbols=lambda j: exact.difference(after[j].value(), before[j].value()),
        )
    return Coding(i, Entry("plain", []), symbols=lambda j: exact.plain(after[j].value()))


def _jump(i: int, before: list[State], after: list[lattice.Lattice]) -> Coding:
    def anchor(state: State) -> np.ndarray:
        found: np.ndarray = state.anchor if isinstance(state, lattice.Lattice) else state.value()
        return found

    def origin(j: int) -> lattice.Lattice:
        state = before[j]
        same = isinstance(state, lattice.Lattice) and not anchored
        return state if same else lattice.start(after[j].anchor)

    anchored = any(a.anchor is not anchor(b) for a, b in zip(after, before, strict=True))
    units = [s.unit for s in [*map(origin, range(len(after))), *after] if s.q.any()]
    exponent = after[0].exponent
    assert exponent is not None
    step = lattice.Jump(exponent, min([*units, exponent - lattice.FINE]), anchored)
    shared = [np.concatenate([exact.plain(a.anchor) for a in after])] if anchored else []
    return Coding(
        i,
        Entry("jump", step.write()),
        shared,
        lambda j: lattice.way(origin(j), after[j], step),
    )


def _levels(i: int, before: list[State], after: list[second.LogLevel]) -> Coding:
    origin, last = before[0], after[0]
    drift = last.axes - origin.axes if isinstance(origin, second.LogLevel) else last.axes

    def symbols(j: int) -> np.ndarray:
        state, now = before[j], after[j]
        if not isinstance(state, second.LogLevel):
            state = second.start(state.value(), now.axes, now.view, now.tile)
        moves: np.ndarray = now.level - state.level
        return moves

    return Coding(i, Entry("second", [last.factor]), [drift], symbols)
