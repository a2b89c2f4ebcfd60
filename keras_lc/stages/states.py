"""The checkpoints of a run: which are kept, each as one delta against what it was trained from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress

from keras_lc.core import merge
from keras_lc.errors import DamagedError
from keras_lc.listing import open_directory
from keras_lc.loader import Loaded, load, payload
from keras_lc.store import chain, index, pack, record, stages
from keras_lc.store.directory import Directory
from keras_lc.store.index import Contents, Stored
from keras_lc.store.stages import State

_OWN = re.compile(r"(.+-\d+-[0-9a-f]{8})(-\d{4,}(-b\d+)?|\.(end|best|last))(~[0-9a-f]{8})?")
_START = re.compile(r"start-[0-9a-f]{8}")


def load_state(directory: Directory, state: State) -> Loaded:
    """Decode a checkpoint that a stage names.

    Raises:
        DamagedError: it is missing, or it or what it builds on is damaged.
    """
    contents = open_directory(directory)
    stored = contents.by_digest.get(state.digest)
    if stored is None:
        raise DamagedError(
            f"{directory.child(state.name)!r}, digest {state.digest[:12]}, is missing or has been "
            "replaced. Delete the stage to have it trained anew."
        )
    return load(directory, contents, stored)


def find(directory: Directory, name: str) -> State:
    """The checkpoint that has a name now."""
    for stored in reversed(open_directory(directory).listed):
        if stored.name == name:
            return State(name, stored.digest)
    raise DamagedError(f"{directory.child(name)!r} is gone, which was saved just now.")


def condense(directory: Directory, prefix: str, best: State, last: State) -> tuple[State, State]:
    """Store two epochs of a fit as one delta each, which leads to the very same state: the best
    one from where the fit began, the last one from the best one. The epochs between are not
    needed any more."""
    contents = open_directory(directory)
    ends = [contents.by_digest[state.digest] for state in dict.fromkeys([best, last])]
    before: Stored | None = None
    found: list[State] = []
    for stored, which in zip(ends, (stages.BEST, stages.LAST), strict=False):
        route = chain.ancestry(contents, stored, shortcuts=False)
        own = [i for i, one in enumerate(route) if one.name.startswith(f"{prefix}-")]
        first = own[0] - (route[own[0]].parent is not None)
        if found and ends[0] in route:
            first = route.index(ends[0])
        elif found:  # the chain began anew between them
            before = None
        if first == len(route) - 1:  # a base
            before = stored
        else:
            start = before or route[first]
            before = _merged(directory, contents, route[first:], start, f"{prefix}.{which}")
        found.append(State(before.name, before.digest))
    return found[0], found[-1]


def _merged(
    directory: Directory, contents: Contents, route: list[Stored], parent: Stored, name: str
) -> Stored:
    """A delta on `parent`, which has the state that the route begins with, to the end of it."""
    blobs = [bytes(payload(directory, stored)) for stored in route[1:]]
    if len(blobs) == 1:
        blob = blobs[0]
    else:
        blob = merge(load(directory, contents, route[0]).decoder, blobs)
    serial = open_directory(directory).next_serial
    header = {"name": name, "parent": parent.digest, "serial": serial}
    with directory.write_once(name + index.DELTA) as file:
        record.write(file, route[-1].header | header, [blob])
    return index.read_header(directory, name + index.DELTA)


def sweep(directory: Directory, book: stages.Book) -> None:
    """Delete the checkpoints of a run that no stage needs, and nothing of anyone else."""
    contents = index.scan(directory)
    if contents.withheld or contents.damaged:
        return  # what cannot be read may build on any other
    under_way = {f.prefix for s in book.stages.values() for f in s.fits if not f.complete}
    named = {state.digest for stage in book.stages.values() for state in stage.states()}
    if book.run.start:
        named.add(book.run.start.digest)
    keep = [
        stored
        for stored in contents.stored
        if stored.digest in named or not _is_over(stored.name, under_way)
    ]
    needed = _needed(contents, keep)
    drop = [s for s in reversed(contents.stored) if s.digest not in needed]
    drop += [s for s in contents.shortcuts if s.digest not in needed and _is_own(s.name)]
    if drop:
        pack.remove(directory, contents, drop)
        index.write_index(directory, index.scan(directory))


def _is_own(name: str) -> bool:
    return bool(_OWN.fullmatch(name) or _START.fullmatch(name))


def _is_over(name: str, under_way: Iterable[str]) -> bool:
    """Whether a checkpoint was made by a fit that is not under way."""
    made = _OWN.fullmatch(name)
    return made[1] not in under_way if made else bool(_START.fullmatch(name))


def _needed(contents: Contents, keep: Iterable[Stored]) -> set[str]:
    """Digests of these and of all that they build on; a shortcut is needed where that is gone."""
    found = set()
    for stored in keep:
        with suppress(DamagedError):
            try:
                route = chain.ancestry(contents, stored, shortcuts=False)
            except DamagedError:
                route = chain.ancestry(contents, stored)
            found |= {one.digest for one in route}
        found.add(stored.digest)
    return found
