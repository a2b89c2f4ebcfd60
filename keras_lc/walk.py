"""Every checkpoint of a directory, decoded one after another, each record once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from keras_lc.errors import CheckpointError
from keras_lc.loader import Decoded, decode, load
from keras_lc.progress import shown
from keras_lc.store.directory import Directory
from keras_lc.store.index import Contents, Stored


def walk(
    directory: Directory, contents: Contents, targets: Iterable[Stored], what: str
) -> Iterator[tuple[Stored, Decoded | CheckpointError]]:
    """The states of checkpoints, or why one cannot be decoded.

    A decoded state is that of its checkpoint until the next one is asked for.

    Args:
        directory: where they are.
        contents: all that is there.
        targets: parents before children.
        what: is being done, for the bar that shows when it takes long.
    """
    every = list(targets)
    before: Decoded | None = None
    last: str | None = None  # digest of what `before` is
    for stored in shown(every, len(every), what):
        try:
            if stored.parent is None:
                before = decode(directory, stored, None)
            elif before is not None and stored.parent == last:
                before = decode(directory, stored, before)
            else:
                before = load(directory, contents, stored)
            last = stored.digest
            yield stored, before
        except CheckpointError as error:
            before, last = None, None
            yield stored, error
