"""A delta that leads from a base straight to the last checkpoint of its chain: those that it
passes need not be decoded one by one, nor kept when they are pruned.
"""

from __future__ import annotations

from contextlib import suppress

from keras_lc.core import DeltaEncoder
from keras_lc.errors import StoreError
from keras_lc.store import index, record
from keras_lc.store.directory import Directory
from keras_lc.store.index import Stored

_MANY = 8  # deltas, past which one may pay
_FEW = 5  # past which it may if it is cheap
_LARGE = 1 << 22  # bytes of a base, from which on decoding a delta more takes noticeable time
_SMALL = 0.25  # of such a base, up to which it is cheap


class Shortcuts:
    """Those of one chain after another.

    Attributes:
        due: whether the chain has been extended, by a delta of its own codec, since one was tried.
    """

    def __init__(self) -> None:
        self.due = False
        self._size = 0  # bytes that the last one took, or would have taken

    def begin(self) -> None:
        """There is a new base."""
        self.due, self._size = False, 0

    def write(
        self,
        directory: Directory,
        chain: list[Stored],
        encoder: DeltaEncoder,
        fewest: int | None = None,
    ) -> list[Stored]:
        """Write one, if it pays, and return what then leads to the last checkpoint.

        Args:
            directory: of the chain.
            chain: its base and deltas.
            encoder: has the state of the last.
            fewest: how many deltas it must pass, where that is another number than usual.
        """
        if not self._pays(chain, fewest):
            return chain
        self.due = False
        delta = encoder.whole()
        self._size = sum(map(len, delta))
        if not self._pays(chain, fewest):
            return chain
        base, last = chain[0], chain[-1]
        file = f"{last.name}~{last.leads_to[:8]}{index.SHORTCUT}"
        header = last.header | {"kind": "shortcut", "of": last.leads_to, "parent": base.digest}
        # there is no need of it: what cannot be written now fails at the next save
        with suppress(StoreError):
            with directory.write_once(file) as opened:
                record.write(opened, header, delta)
            return [base, index.read_header(directory, file)]
        return chain

    def cheap(self, chain: list[Stored]) -> bool:
        """Whether one is so small beside its base that it is made often; it is at least about as
        large as each of the deltas that it passes."""
        base, *passed = chain
        size = max([self._size, *(delta.nbytes for delta in passed)])
        return base.nbytes >= _LARGE and size <= _SMALL * base.nbytes

    def _pays(self, chain: list[Stored], fewest: int | None) -> bool:
        """Whether it is smaller than the deltas that it passes, so far as its size is known, and
        passes so many that it is worth the time."""
        passed = chain[1:]
        if fewest is None:
            fewest = _FEW if self.cheap(chain) else _MANY
        return len(passed) >= fewest and self._size <= sum(delta.nbytes for delta in passed)
