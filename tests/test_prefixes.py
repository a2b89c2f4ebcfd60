"""Runs of different prefixes in one directory do not know of each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lc import latest_checkpoint, verify
from keras_lc.checkpointer import Checkpointer
from keras_lc.listing import open_directory
from keras_lc.loader import load_named
from keras_lc.store import chain
from keras_lc.store.index import Contents
from keras_lc.store.locate import directory_at
from keras_lc.store.pack import pack
from tests.disk import disk
from tests.toy import State, ToySource, same, save, toy_checkpointer, walk

COUNT = 14
STATES = walk(COUNT)


@dataclass
class Run:
    """The checkpoints of one prefix, saved in a directory."""

    directory: Path
    prefix: str
    options: dict[str, Any]
    saved: dict[str, State] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.checkpointer = self.restarted()

    def restarted(self) -> Checkpointer:
        found = toy_checkpointer(
            self.directory,
            owns=lambda name: name.startswith(self.prefix),
            short=2,
            **self.options,
        )
        if self.saved:
            found.adopt(ToySource([*self.saved.values()][-1]))
        return found

    def save(self, number: int, again: bool) -> None:
        if again:
            self.checkpointer = self.restarted()
        name = f"{self.prefix}{number:04d}"
        save(self.checkpointer, STATES[number], name)
        self.saved[name] = STATES[number]

    def files(self) -> list[tuple[str, str]]:
        """The records of this prefix: of which checkpoint, and of what kind."""
        contents = open_directory(directory_at(self.directory))
        every = [*contents.stored, *contents.shortcuts]
        return sorted(
            (stored.name.partition("~")[0], stored.header["kind"])
            for stored in every
            if stored.name.startswith(self.prefix)
        )

    def holds(self, contents: Contents) -> bool:
        """Whether each checkpoint is what was saved, and the newest are there."""
        own = [stored for stored in contents.listed if stored.name.startswith(self.prefix)]
        for stored in own:
            line = chain.ancestry(contents, stored)
            assert all(one.name.startswith(self.prefix) for one in line)
            found = load_named(self.directory / stored.name).decoder.reconstruction
            assert same(found, self.saved[stored.name])
        most = self.options["max_to_keep"]
        newest = [*self.saved][-most if most else None :]
        assert [stored.name for stored in own][-len(newest) :] == newest or not newest
        return True


OPTIONS = st.fixed_dictionaries(
    {"max_to_keep": st.sampled_from([None, 1, 2, 3]), "keyframe_every": st.sampled_from([3, 6, 99])}
)
TURNS = st.lists(
    st.tuples(st.sampled_from(["cp-", "best-", "both", "pack"]), st.booleans()),
    min_size=4,
    max_size=COUNT,
)


@given(OPTIONS, OPTIONS, TURNS)
@settings(deadline=None, max_examples=25)
def test_each_prefix_is_saved_restored_and_pruned_as_if_it_were_alone(
    tmp_path_factory: pytest.TempPathFactory,
    one: dict[str, Any],
    other: dict[str, Any],
    turns: list[tuple[str, bool]],
) -> None:
    root = tmp_path_factory.mktemp("prefixes")
    options = {"cp-": one, "best-": other}
    with disk():
        shared = {prefix: Run(root / "shared", prefix, options[prefix]) for prefix in options}
        alone = {prefix: Run(root / prefix, prefix, options[prefix]) for prefix in options}
        for number, (turn, again) in enumerate(turns):
            if turn == "pack":
                for place in (root / "shared", root / "cp-", root / "best-"):
                    if place.exists():
                        pack(place)
                continue
            for prefix in options:
                if turn in (prefix, "both"):
                    shared[prefix].save(number, again)
                    alone[prefix].save(number, again)
            contents = open_directory(directory_at(root / "shared"))
            for prefix in options:
                assert shared[prefix].holds(contents)
                assert shared[prefix].files() == alone[prefix].files()
        if shared["cp-"].saved or shared["best-"].saved:
            assert verify(root / "shared").ok
            assert latest_checkpoint(root / "shared")
