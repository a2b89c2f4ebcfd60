"""Several deltas, one after another, as one that leads to the very same state.

Lattices and levels are sums of integers, so the sum of their movements stands for all of them;
everything else is stored anew each time, so the last one does. A merged delta is smaller than
many deltas and larger than a few: it holds the movements with all of their fine digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from keras_lc import workers as threads
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
    return b"".join(_delta(chain, sequence + 1, announce, lambda i: _since(chain, i, before[i])))


def whole(chain: Chain) -> list[bytes]:
    """One delta, in pieces, that leads from the base to the state of a chain, which has had
    deltas."""
    return _delta(chain, 1, True, lambda i: _from_base(chain, i))


def _delta(
    chain: Chain, first: int, announce: bool, coding: Callable[[int], Coding]
) -> list[bytes]:
    with threads.start() as workers:
        codings = (coding(i) for level in chain.levels() for i in level)
        return pack(
            workers,
            (coded for _, coded in code(workers, chain.table, codings)),
            first,
            chain.sequence,
            chain.table.fingerprint,
            chain.references if announce else None,
        )


def _since(chain: Chain, i: int, before: list[State]) -> Coding:
    """How tensor `i` comes from the states `before` of its tiles to those of now."""
    after, tiles = chain.tensors[i], chain.table.tiles[i]
    if all(a is b for a, b in zip(after, before, strict=True)):
        return Coding(i, Entry("same", []))
    if isinstance(after[0], lattice.Lattice):
        origins = [
            b if isinstance(b, lattice.Lattice) else lattice.start(b.value()) for b in before
        ]
        kept = all(a.anchor is o.anchor for a, o in zip(after, origins, strict=True))
        return _jump(i, origins if kept else None, after)
    if isinstance(after[0], exact.Exact):
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
    return _anew(i, after)


def _from_base(chain: Chain, i: int) -> Coding:
    """How tensor `i` comes from the base to the state of now."""
    after = chain.tensors[i]
    if chain.untouched[i] is not None:
        return Coding(i, Entry("same", []))
    if isinstance(after[0], lattice.Lattice):
        origins = [lattice.start(state.anchor) for state in after] if chain.anchored[i] else None
        return _jump(i, origins, after)
    return _anew(i, after)


def _anew(i: int, after: list[State]) -> Coding:
    """A tensor by itself."""
    match after[0]:
        case second.LogLevel(axes=axes, factor=factor):
            entry = Entry("second", [factor, 1])
            return Coding(i, entry, [axes], symbols=lambda j: after[j].level)
        case first.Scaled(factors=outer.Outer() as factors):
            return Coding(i, Entry("outer", factors.scale.write()), factors.symbols())
        case first.Scaled(unit=unit):
            return Coding(i, Entry("first", [unit]), symbols=lambda j: after[j].integers())
    return Coding(i, Entry("plain", []), symbols=lambda j: exact.plain(after[j].value()))


def _jump(i: int, origins: list[lattice.Lattice] | None, after: list[lattice.Lattice]) -> Coding:
    """A tensor on a lattice; without origins around an anchor that is stored with it."""
    anchored = origins is None
    shared = [np.concatenate([exact.plain(a.anchor) for a in after])] if anchored else []
    starts = origins or [lattice.start(state.anchor) for state in after]
    units = [state.unit for state in [*starts, *after] if state.q]
    exponent = after[0].exponent
    assert exponent is not None
    step = lattice.Jump(exponent, min([*units, exponent - lattice.FINE]), anchored)
    return Coding(
        i, Entry("jump", step.write()), shared, lambda j: lattice.way(starts[j], after[j], step)
    )
