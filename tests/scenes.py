"""Saves to disturb: directories with a history, and what must be left of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from keras_lc import workers
from keras_lc.checkpointer import Checkpointer
from keras_lc.store.pack import pack
from tests.disk import disk
from tests.toy import State, load_all, restored, same, save, toy_checkpointer, walk


@dataclass(frozen=True)
class Scene:
    """A directory with a history, and the save in it that is to be disturbed.

    Args:
        options: of the checkpointers.
        before: checkpoints of an earlier run, by another checkpointer.
        history: names saved before the disturbed save.
        name: the disturbed save.
        codec: of the disturbed save.
    """

    name: str
    history: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    packed: bool = False  # all that was saved before is joined into packs
    coarse: bool = False  # disturb only some of the requests that write the HDF5 part
    codec: str | None = None

    def moments(self, requests: int) -> list[int]:
        """The requests to disturb."""
        ends = [*range(1, 5), *range(requests - 9, requests + 1)]
        return sorted(
            {*ends, *range(1, requests + 1, 6)} if self.coarse else range(1, requests + 1)
        )

    @cached_property
    def states(self) -> list[State]:
        return walk(len(self.before) + len(self.history) + 2, seed=len(self.history))

    def prepare(self, directory: Path) -> Checkpointer:
        states = iter(self.states)
        if self.before:
            earlier = toy_checkpointer(directory, **dict(self.options))
            for name in self.before:
                save(earlier, next(states), name)
        checkpointer = toy_checkpointer(directory, **dict(self.options))
        for name in self.history:
            save(checkpointer, next(states), name)
        if self.packed:
            pack(directory)
        return checkpointer

    def save(self, checkpointer: Checkpointer) -> None:
        """The save that is disturbed."""
        save(checkpointer, self.disturbed, self.name, codec=self.codec)

    @property
    def disturbed(self) -> State:
        return self.states[-2]

    @property
    def following(self) -> State:
        return self.states[-1]

    @property
    def max_to_keep(self) -> int | None:
        return dict(self.options).get("max_to_keep")


def _names(count: int) -> tuple[str, ...]:
    return tuple(f"cp-{i:04d}" for i in range(1, count + 1))


_HASTY: tuple[tuple[str, Any], ...] = (("short", 3),)
_PRUNED = (*_HASTY, ("max_to_keep", 1))

SCENES = {
    "first base": Scene("cp-0001"),
    "delta": Scene("cp-0003", ("cp-0001", "cp-0002")),
    "second base": Scene(
        "cp-0003", ("cp-0001", "cp-0002"), options=(("keyframe_every", 2),), coarse=True
    ),
    "base over an old base": Scene(
        "cp-0001", before=("cp-0001", "cp-0002", "cp-0003"), coarse=True
    ),
    "delta over an old delta": Scene(
        "cp-0002", ("cp-0001",), before=("cp-0001", "cp-0002", "cp-0003")
    ),
    "base over an old delta": Scene(
        "cp-0002", before=("cp-0001", "cp-0002", "cp-0003"), coarse=True
    ),
    "delta over an old base": Scene("cp-0001", ("cp-0000",), before=("cp-0001", "cp-0002")),
    "constant name": Scene("best", ("best", "best"), coarse=True),
    "chain dropped": Scene(
        "cp-0004",
        ("cp-0001", "cp-0002", "cp-0003"),
        options=(("keyframe_every", 2), ("max_to_keep", 1)),
    ),
    "delta onto a pack": Scene("cp-0004", ("cp-0001", "cp-0002", "cp-0003"), packed=True),
    "base over a delta of a pack": Scene(
        "cp-0003", before=("cp-0001", "cp-0002", "cp-0003", "cp-0004"), packed=True, coarse=True
    ),
    "delta over a delta of a pack": Scene(
        "cp-0002", ("cp-0000",), before=("cp-0001", "cp-0002", "cp-0003"), packed=True
    ),
    "chain dropped with its pack": Scene(
        "cp-0004",
        ("cp-0001", "cp-0002", "cp-0003"),
        options=(("keyframe_every", 3), ("max_to_keep", 1)),
        packed=True,
        coarse=True,
    ),
    "shortcut": Scene("cp-0004", _names(3), options=_HASTY),
    "shortcut after a shortcut": Scene("cp-0006", _names(5), options=_HASTY),
    "shortcut before a save of another codec": Scene(
        "cp-0005", _names(4), options=(("short", 9), ("codec", "balanced")), codec="lossless"
    ),
    "shortcut past what is pruned": Scene("cp-0004", _names(3), options=_PRUNED),
    "shortcut past a shortcut that is pruned": Scene("cp-0006", _names(5), options=_PRUNED),
    "shortcut past what is pruned from a pack": Scene(
        "cp-0004", _names(3), options=_PRUNED, packed=True
    ),
    "chain dropped with its shortcut": Scene(
        "cp-0006", _names(5), options=(*_PRUNED, ("keyframe_every", 5)), coarse=True
    ),
    "base over the base of a shortcut": Scene(
        "cp-0001", before=_names(5), options=_HASTY, coarse=True
    ),
    "delta over the end of a shortcut": Scene(
        "cp-0004", ("cp-0000",), before=_names(5), options=_HASTY
    ),
}


def counted(scene: Scene, directory: Path) -> int:
    with disk():
        checkpointer = scene.prepare(directory)
    with disk() as whole:
        scene.save(checkpointer)
    return whole.asked


def check(directory: Path, scene: Scene, before: dict[str, State], saved: bool | None) -> None:
    """Every earlier checkpoint is what it was; `saved` says whether the new one must be there,
    None that it may."""
    found = load_all(directory)
    kept = list(before)[-scene.max_to_keep :] if scene.max_to_keep else list(before)
    if saved or scene.name in found:
        kept = kept[1:] if scene.max_to_keep else kept
    for name in kept:
        allowed = [before[name]]
        if name == scene.name and not saved:
            allowed.append(scene.disturbed)
        elif name == scene.name:
            allowed = [scene.disturbed]
        assert any(same(found[name], state) for state in allowed), name
    for name, state in found.items():
        allowed = [before[name]] if name in before else []
        allowed += [scene.disturbed] if name == scene.name else []
        assert any(same(state, one) for one in allowed), name
    if saved:
        assert same(found[scene.name], scene.disturbed)


def check_others(directory: Path, scene: Scene, before: dict[str, State]) -> None:
    for name, state in before.items():
        found = restored(directory, name)
        assert same(found, state) or (name == scene.name and same(found, scene.disturbed)), name


def kill_each(scene: str, directories: Iterable[str]) -> None:
    """In a directory called n, a process that dies at the n-th request of the disturbed save."""
    workers.THREADS = 1  # a thousand small saves
    for directory in directories:
        child = os.fork()
        if not child:
            with disk():
                checkpointer = SCENES[scene].prepare(Path(directory))
            with disk(int(Path(directory).name), lambda: os._exit(9)):
                SCENES[scene].save(checkpointer)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    kill_each(sys.argv[1], sys.argv[2:])
