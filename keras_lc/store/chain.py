"""Who builds on whom: parents by digest, and what may be deleted."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from keras_lc.errors import DamagedError
from keras_lc.store.index import Contents, Stored


def ancestry(contents: Contents, target: Stored, shortcuts: bool = True) -> list[Stored]:
    """The base and every delta up to `target`, in the order of decoding: by the last shortcut
    before it, if there is one.

    Raises:
        DamagedError: one of them is missing; the message names where the chain breaks.
    """
    chain = [target]
    while (parent := chain[-1].parent) is not None:
        direct = contents.shortcut_to.get(chain[-1].leads_to) if shortcuts else None
        if direct is not None:
            chain[-1] = direct
            parent = direct.parent
        elif shortcuts and parent in contents.shortcut_to and parent not in contents.by_digest:
            chain.append(contents.shortcut_to[parent])
            continue
        if parent not in contents.by_digest or len(chain) > len(contents.stored) + 1:
            raise DamagedError(
                f"{chain[-1].where} builds on a checkpoint with digest {str(parent)[:12]}, which "
                "is missing or has been altered or rewritten."
            )
        chain.append(contents.by_digest[parent])
    return chain[::-1]


def broken(contents: Contents) -> dict[str, str]:
    """Digests of those that lack what they build on, to the reason."""
    reasons: dict[str, str] = {}
    sound: set[str | None] = {None}
    for stored in contents.stored:
        try:
            if stored.parent not in sound:
                ancestry(contents, stored)
            sound.add(stored.digest)
        except DamagedError as error:
            reasons[stored.digest] = str(error)
    return reasons


def children(contents: Contents) -> dict[str, list[Stored]]:
    """Digest to the checkpoints that build on it."""
    found: dict[str, list[Stored]] = {}
    for stored in contents.stored:
        if stored.parent is not None:
            found.setdefault(stored.parent, []).append(stored)
    return found


def has_children(contents: Contents, stored: Stored) -> bool:
    """Whether any other checkpoint builds on this one."""
    every = [*contents.stored, *contents.shortcuts]
    return any(other.parent == stored.digest for other in every)


def disposable(contents: Contents, keep: Iterable[Stored]) -> list[Stored]:
    """What none of `keep` needs, children before their parents, then shortcuts; of those of a
    base the last one stays."""
    needed: set[str] = set()
    sound: set[str] = set()
    for stored in keep:
        needed.add(stored.digest)
        direct = contents.shortcut_to.get(stored.digest)
        if stored.parent in sound and direct is None:  # its parent's way is needed already
            sound.add(stored.digest)
            continue
        with suppress(DamagedError):
            needed |= {ancestor.digest for ancestor in ancestry(contents, stored)}
            sound.add(stored.digest)
    return [
        *(stored for stored in reversed(contents.stored) if stored.digest not in needed),
        *(s for s in contents.shortcuts if not _is_used(contents, s, needed)),
    ]


def _is_used(contents: Contents, shortcut: Stored, needed: set[str]) -> bool:
    if shortcut.parent not in needed:
        return False
    same_base = [other for other in contents.shortcuts if other.parent == shortcut.parent]
    if shortcut is same_base[-1]:
        return True
    target = contents.by_digest.get(shortcut.leads_to)
    if shortcut.digest not in needed or target is None:
        return shortcut.digest in needed
    try:
        route = ancestry(contents, target, shortcuts=False)
    except DamagedError:
        return True
    return any(stored.digest not in needed for stored in route)
