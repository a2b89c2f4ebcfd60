"""A run that goes on from a restored checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from keras_lc.listing import list_checkpoints
from tests.toy import ToySource, kinds, load_all, restored, run, same, save, toy_checkpointer, walk


@pytest.mark.parametrize("codec", ["lossless", "balanced"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_run_that_goes_on_from_a_restored_state_writes_a_delta_to_it(
    tmp_path: Path, at: int, codec: str
) -> None:
    states = walk(5)
    run(tmp_path, states[:3], codec=codec)
    before = load_all(tmp_path)
    checkpointer = toy_checkpointer(tmp_path, codec=codec)
    checkpointer.adopt(ToySource(before[f"cp-000{at}"]))
    save(checkpointer, states[3], "more-1", codec="lossless")
    save(checkpointer, states[4], "more-2", codec="lossless")
    first, second = list_checkpoints(tmp_path)[-2:]
    assert (first.kind, first.parent) == ("delta", str(tmp_path / f"cp-000{at}"))
    assert (second.kind, second.parent) == ("delta", first.path)
    found = load_all(tmp_path)
    assert all(same(found[name], before[name]) for name in before)
    assert same(found["more-1"], states[3])
    assert same(found["more-2"], states[4])


@pytest.mark.parametrize(
    "source",
    [
        ToySource(walk(2, seed=1)[1]),
        ToySource(walk(2)[1], step=7),
        ToySource(walk(2, rows=5)[1]),
        ToySource(walk(2)[1] | {"weights/1": np.zeros(4, np.float32)}),
    ],
    ids=["other weights", "other step", "other shapes", "one weight"],
)
def test_a_run_that_goes_on_from_anything_else_writes_a_base(
    tmp_path: Path, source: ToySource
) -> None:
    run(tmp_path, walk(2))
    checkpointer = toy_checkpointer(tmp_path)
    checkpointer.adopt(source)
    state = dict(source.snapshot().arrays)
    save(checkpointer, state, "more")
    assert kinds(tmp_path)["more"] == "base"
    assert same(restored(tmp_path, "more"), state)


def test_only_a_checkpoint_of_this_run_is_adopted(tmp_path: Path) -> None:
    states = walk(3)
    run(tmp_path, states[:2])
    checkpointer = toy_checkpointer(tmp_path, owns=lambda name: name.startswith("other"))
    checkpointer.adopt(ToySource(states[1]))
    save(checkpointer, states[2], "more")
    assert kinds(tmp_path)["more"] == "base"


def test_a_damaged_checkpoint_or_none_at_all_is_not_adopted(tmp_path: Path) -> None:
    states = walk(3)
    checkpointer = toy_checkpointer(tmp_path / "none")
    checkpointer.adopt(ToySource(states[1]))
    save(checkpointer, states[2], "more")
    assert kinds(tmp_path / "none") == {"more": "base"}
    run(tmp_path, states[:2])
    path = tmp_path / "cp-0002.lcd"
    path.write_bytes(path.read_bytes()[:-40] + bytes(40))
    checkpointer = toy_checkpointer(tmp_path)
    checkpointer.adopt(ToySource(states[1]))
    save(checkpointer, states[2], "more")
    assert kinds(tmp_path)["more"] == "base"
    assert same(restored(tmp_path, "more"), states[2])


def test_the_chain_that_was_adopted_counts_towards_the_next_base(tmp_path: Path) -> None:
    states = walk(5)
    run(tmp_path, states[:2], keyframe_every=3)
    checkpointer = toy_checkpointer(tmp_path, keyframe_every=3)
    checkpointer.adopt(ToySource(states[1]))
    for state in states[2:]:
        save(checkpointer, state, f"more-{int(state['optimizer/0'])}")
    assert list(kinds(tmp_path).values()) == ["base", "delta", "delta", "base", "delta"]
