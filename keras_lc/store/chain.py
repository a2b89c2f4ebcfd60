"""Who builds on whom: parents by digest, and what may be deleted."""

from __future__ import annotations

from collections.abc import Iterable

from keras_lc.errors import DamagedError
from keras_lc.store.index import Contents, Stored


def ancestry(contents: Contents, target: Stored) -> list[Stored]:
    """The base and every delta up to `target`, in the order of decoding.

    Raises:
        DamagedError: one of them is missing; the message names where the chain breaks.
    """
    chain = [target]
    while (parent := chain[-1].parent) is not None:
        if parent not in contents.by_digest or len(chain) > len(contents.stored):
            raise DamagedError(
                f"{chain[-1].where} builds on a checkpoint with digest {parent[:12]}, which is "
                "missing or has been altered or rewritten."
            )
        chain.append(contents.by_digest[parent])
    return chain[::-1]


def children(contents: Contents) -> dict[str, list[Stored]]:
    """Digest to the checkpoints that build on it."""
    found: dict[str, list[Stored]] = {}
    for stored in contents.stored:
        if stored.parent is not None:
            found.setdefault(stored.parent, []).append(stored)
    return found


def has_children(contents: Contents, stored: Stored) -> bool:
    """Whether any other checkpoint builds on this one."""
    return any(other.parent == stored.digest for other in contents.stored)


def disposable(contents: Contents, keep: Iterable[Stored]) -> list[Stored]:
    """Checkpoints that none of `keep` needs, children before their parents."""
    needed = set()
    for stored in keep:
        try:
            needed |= {ancestor.digest for ancestor in ancestry(contents, stored)}
        except DamagedError:
            needed.add(stored.digest)
    return [stored for stored in reversed(contents.stored) if stored.digest not in needed]
