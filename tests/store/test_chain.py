from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lc.errors import DamagedError
from keras_lc.listing import list_checkpoints
from keras_lc.loader import load_named
from keras_lc.store import chain
from keras_lc.store.index import BASE, DELTA, Contents, Stored
from tests.toy import file_names, run, same, save, toy_checkpointer, walk

# the parent of each node is an earlier one, or none
FORESTS = st.integers(1, 12).flatmap(
    lambda count: st.tuples(*[st.none() | st.integers(0, max(0, i - 1)) for i in range(count)])
)


def forest(parents: tuple[int | None, ...]) -> Contents:
    stored = []
    for i, above in enumerate(parents):
        parent = None if i == 0 else above
        suffix = BASE if parent is None else DELTA
        header = {"serial": i} | ({} if parent is None else {"parent": f"digest {parent}"})
        stored.append(Stored(f"cp-{i}{suffix}", 1, "x", f"digest {i}", header))
    return Contents(stored)


@given(FORESTS)
@settings(deadline=None)
def test_an_ancestry_goes_from_a_base_by_parents_to_its_target(
    parents: tuple[int | None, ...],
) -> None:
    contents = forest(parents)
    for target in contents.stored:
        line = chain.ancestry(contents, target)
        assert line[0].parent is None
        assert line[-1] is target
        assert all(b.parent == a.digest for a, b in pairwise(line))


@given(FORESTS, st.data())
@settings(deadline=None)
def test_what_is_disposable_is_all_and_only_what_no_kept_one_needs(
    parents: tuple[int | None, ...], data: st.DataObject
) -> None:
    contents = forest(parents)
    keep = data.draw(st.lists(st.sampled_from(contents.stored)))
    needed = {s.digest for kept in keep for s in chain.ancestry(contents, kept)}
    dropped = chain.disposable(contents, keep)
    assert {s.digest for s in dropped} == {s.digest for s in contents.stored} - needed
    gone: set[str] = set()
    for stored in dropped:  # a kill between two deletions leaves nothing without its parent
        children = {s.digest for s in contents.stored if s.parent == stored.digest}
        assert children <= gone
        gone.add(stored.digest)


@given(FORESTS, st.data())
@settings(deadline=None)
def test_a_missing_ancestor_is_an_error_that_names_where_the_chain_breaks(
    parents: tuple[int | None, ...], data: st.DataObject
) -> None:
    contents = forest(parents)
    lost = data.draw(st.sampled_from(contents.stored))
    rest = Contents([stored for stored in contents.stored if stored is not lost])
    for target in rest.stored:
        line = chain.ancestry(contents, target)
        if lost in line:
            child = line[line.index(lost) + 1]
            with pytest.raises(DamagedError, match=child.file):
                chain.ancestry(rest, target)
        else:
            assert chain.ancestry(rest, target) == line


def test_children_are_found_by_digest() -> None:
    contents = forest((None, 0, 1, None))
    assert [chain.has_children(contents, stored) for stored in contents.stored] == [
        True,
        True,
        False,
        False,
    ]


def test_a_swapped_base_is_an_error_for_its_deltas(tmp_path: Path) -> None:
    states, others = walk(3), walk(3, seed=5)
    run(tmp_path / "one", states)
    run(tmp_path / "other", others)
    ours, theirs = (tmp_path / d / "cp-0001.weights.h5" for d in ("one", "other"))
    first, second = ours.read_bytes(), theirs.read_bytes()
    ours.write_bytes(second)
    for name in ("cp-0002", "cp-0003"):
        with pytest.raises(DamagedError, match=r"cp-0002\.lcd"):
            load_named(tmp_path / "one" / name)
    assert same(load_named(tmp_path / "one/cp-0001").decoder.reconstruction, others[0])
    theirs.write_bytes(first)
    ours.write_bytes(first)
    assert same(load_named(tmp_path / "one/cp-0003").decoder.reconstruction, states[2])


def test_a_swapped_delta_is_an_error_for_its_children(tmp_path: Path) -> None:
    run(tmp_path / "one", walk(3))
    run(tmp_path / "other", walk(3, seed=5))
    (tmp_path / "one/cp-0002.lcd").write_bytes((tmp_path / "other/cp-0002.lcd").read_bytes())
    for name in ("cp-0002", "cp-0003"):
        with pytest.raises(DamagedError, match=name):
            load_named(tmp_path / "one" / name)


def test_a_base_rewritten_with_its_old_digest_is_an_error(tmp_path: Path) -> None:
    run(tmp_path / "one", walk(2))
    run(tmp_path / "other", walk(2, seed=5))
    path = tmp_path / "one/cp-0001.weights.h5"
    digest = path.read_bytes()[-32:]
    path.write_bytes((tmp_path / "other/cp-0001.weights.h5").read_bytes()[:-32] + digest)
    for name in ("cp-0001", "cp-0002"):
        with pytest.raises(DamagedError, match=r"cp-0001\.weights\.h5"):
            load_named(tmp_path / "one" / name)


def test_a_deleted_link_of_the_chain_costs_only_what_builds_on_it(tmp_path: Path) -> None:
    states = walk(4)
    run(tmp_path, states)
    (tmp_path / "cp-0003.lcd").unlink()
    assert len(list_checkpoints(tmp_path)) == 3
    assert same(load_named(tmp_path / "cp-0002").decoder.reconstruction, states[1])
    with pytest.raises(DamagedError, match=r"cp-0004\.lcd"):
        load_named(tmp_path / "cp-0004")


def test_max_to_keep_never_deletes_what_a_kept_one_needs_and_does_delete_old_chains(
    tmp_path: Path,
) -> None:
    states = walk(12)
    for every in (1, 2, 3, 5):
        for most in (1, 2, 4):
            directory = tmp_path / f"{every}-{most}"
            checkpointer = toy_checkpointer(directory, keyframe_every=every, max_to_keep=most)
            for count, state in enumerate(states, start=1):
                save(checkpointer, state, f"cp-{count:04d}", count)
                for n in range(max(1, count - most + 1), count + 1):
                    found = load_named(directory / f"cp-{n:04d}").decoder.reconstruction
                    assert same(found, states[n - 1])
                assert min(count, most) <= len(file_names(directory)) - 1 <= most + every - 1
