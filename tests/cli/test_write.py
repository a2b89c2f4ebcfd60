"""diff, export, pack, unpack and prune."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_lc as package
from keras_lc.loader import load_named
from tests.cli.commands import keras_lc
from tests.cli.conftest import STATES
from tests.cli.test_read import flip
from tests.store.test_lock import holder
from tests.toy import HEADER, as_record, file_names, load_all, run, same, save, toy_checkpointer


def holds(directory, numbers):
    """Exactly these checkpoints, with the states that they were made of."""
    found = load_all(directory)
    assert list(found) == [f"cp-000{i}" for i in numbers]
    return all(same(found[f"cp-000{i}"], STATES[i - 1]) for i in numbers)


def test_diff_measures_every_tensor(training):
    document = keras_lc("diff", training / "cp-0002", training / "cp-0006", "--json").json
    tensors = {tensor["name"]: tensor for tensor in document["tensors"]}
    before, after = STATES[1]["weights/0"], STATES[5]["weights/0"]
    way = after.astype(float) - before
    found = tensors["weights/0"]
    assert found["largest"] == np.abs(way).max()
    assert found["movement"] == pytest.approx(np.linalg.norm(way) / np.linalg.norm(before))
    assert found["changed"] == (before != after).mean()
    assert tensors["weights/2"]["changed"] == tensors["weights/2"]["movement"] == 0
    rows = keras_lc("diff", training / "cp-0002", training / "cp-0006").rows
    assert [row["name"] for row in rows] == sorted(STATES[0])


def test_diff_of_a_plain_file_is_the_error(training, tmp_path):
    keras_lc("export", training / "cp-0003", tmp_path / "a.weights.h5")
    document = keras_lc("diff", tmp_path / "a.weights.h5", training / "cp-0003", "--json").json
    assert {tensor["label"] for tensor in document["tensors"]} == {
        *("weights/0", "weights/1", "optimizer/0", "optimizer/1", "optimizer/2")
    }
    assert all(tensor["changed"] == 0 for tensor in document["tensors"])
    assert document["only_after"] == ["seeds/0", "weights/2"]  # no place in Keras' own layout
    document = keras_lc("diff", training / "cp-0004", tmp_path / "a.weights.h5", "--json").json
    assert any(tensor["changed"] == 1 for tensor in document["tensors"])
    (tmp_path / "b.weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(900))
    assert "b.weights.h5" in keras_lc("diff", *[tmp_path / "b.weights.h5"] * 2, code=2).err


def test_diff_says_what_cannot_be_compared(training, tmp_path):
    run(tmp_path / "other", [{**STATES[0], "weights/1": np.zeros(9, np.float32)}])
    document = keras_lc("diff", training / "best", tmp_path / "other/latest", "--json").json
    assert document["only_before"] == document["only_after"] == ["weights/1"]
    assert keras_lc("diff", training / "best", training / "cp-0012", code=3).out == ""


@pytest.mark.parametrize("suffix", [".weights.h5", ".safetensors", ".npz"])
def test_export_takes_references_and_never_overwrites_unasked(training, tmp_path, suffix):
    target = tmp_path / f"out{suffix}"
    ran = keras_lc("export", training / "best", target, "--json").json
    assert ran["checkpoint"] == str(training / "cp-0004")
    assert ran["nbytes"] == target.stat().st_size
    target.write_bytes(b"precious")
    assert "--force" in keras_lc("export", training / "best", target, code=1).err
    assert target.read_bytes() == b"precious"
    keras_lc("export", training / "best", target, "--force")
    assert target.stat().st_size == ran["nbytes"]


def test_an_npz_file_holds_the_state(training, tmp_path):
    keras_lc("export", training / "cp-0003", tmp_path / "state.npz")
    with np.load(tmp_path / "state.npz", allow_pickle=False) as arrays:
        assert same(dict(arrays), STATES[2])


def test_export_refuses_what_it_does_not_know(training, tmp_path):
    assert ".npz" in keras_lc("export", training / "best", tmp_path / "a.zip", code=1).err
    keras_lc("export", training / "nope", tmp_path / "a.npz", code=3)
    flip(training / "cp-0002.lcd")
    keras_lc("export", training / "cp-0003", tmp_path / "a.npz", code=2)
    assert file_names(tmp_path) == {"training"}


def test_what_needs_keras_says_so_where_there_is_none(training):
    code = (
        "import sys; sys.modules['keras'] = None\n"
        "from keras_lc.cli import main; main(['export', 'training/best', 'x.keras'])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=training.parent,
        env={"PYTHONPATH": str(Path(package.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("keras-lc: a .keras file is written by Keras")
    assert ran.stderr.count("\n") == 1
    assert file_names(training.parent) == {"training"}


def test_pack_and_unpack_lead_back(training):
    before = {name: (training / name).read_bytes() for name in file_names(training)}
    dry = keras_lc("pack", training, "--dry-run", "--json").json
    assert file_names(training) == before.keys()
    assert keras_lc("pack", training, "--json").json["written"] == dry["written"]
    packed = file_names(training)
    assert {"cp-0001.lcp", "cp-0005.lcp"} < packed
    assert holds(training, range(1, 7))
    assert len(keras_lc("unpack", training, "--dry-run", "--json").json["written"]) == 4
    assert file_names(training) == packed
    keras_lc("unpack", training)
    assert holds(training, range(1, 7))
    after = {name: (training / name).read_bytes() for name in file_names(training)}
    del before["checkpoint.json"], after["checkpoint.json"]
    assert after == before
    assert keras_lc("unpack", training, "--json").json["written"] == []


def test_a_damaged_pack_stays_whole(training):
    keras_lc("pack", training)
    whole = (training / "cp-0001.lcp").read_bytes()
    for place in (-40, 20):  # of a payload, of a header
        flip(training / "cp-0001.lcp", place)
        names = file_names(training)
        assert "cp-0001.lcp" in keras_lc("unpack", training, code=2).err
        assert file_names(training) == names
        (training / "cp-0001.lcp").write_bytes(whole)


def test_what_a_kill_left_twice_is_unpacked_once(training):
    copy = (training / "cp-0002.lcd").read_bytes()
    keras_lc("pack", training)
    (training / "cp-0002.lcd").write_bytes(copy)
    keras_lc("unpack", training)
    assert holds(training, range(1, 7))
    assert not {name for name in file_names(training) if name.endswith(".lcp")}


@pytest.mark.parametrize(
    ("options", "left", "deleted"),
    [
        (["--keep-last", 1], [5, 6], [1, 2, 3, 4]),
        (["--keep-last", 2], [5, 6], [1, 2, 3, 4]),
        (["--keep-best", 1], [1, 2, 3, 4], [5, 6]),
        (["--keep-best", 1, "--monitor", "val_accuracy"], [5], [1, 2, 3, 4, 6]),
        (["--keep-every", 3], [1, 2, 3, 5, 6], [4]),
        (["--keep-every", 3, "--keep-best", 1], [1, 2, 3, 4, 5, 6], []),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_prune_deletes_no_more_than_it_says(training, options, left, deleted, packed):
    if packed:
        keras_lc("pack", training)
    names = file_names(training)
    dry = keras_lc("prune", training, *options, "--dry-run", "--json").json
    assert file_names(training) == names
    done = keras_lc("prune", training, *options, "--json").json
    assert done == dry | {"dry_run": False}
    fates = {fate["id"]: fate["fate"] for fate in done["checkpoints"]}
    assert [f"cp-000{i}" for i in deleted] == [i for i, fate in fates.items() if fate == "deleted"]
    assert holds(training, left)
    assert "all intact" in keras_lc("verify", training, "--all").out


def test_prune_wants_a_rule_that_keeps_something(training):
    names = file_names(training)
    assert "keep" in keras_lc("prune", training, code=1).err
    assert "nothing" in keras_lc("prune", training, "--keep-every", 100, code=1).err
    keras_lc("prune", training, "--keep-last", 0, code=1)
    keras_lc("prune", training, "--keep-best", 1, "--monitor", "nope", code=1)
    assert file_names(training) == names


def test_prune_counts_what_can_be_restored(training):
    (training / "cp-0005.weights.h5").unlink()  # takes the newest with it
    ran = keras_lc("prune", training, "--keep-last", 1, "--json").json
    assert {f["id"]: f["fate"] for f in ran["checkpoints"]}["cp-0004"] == "kept"
    assert holds(training, range(1, 5))


@pytest.mark.parametrize("kind", ["header", "payload", "newer"])
def test_prune_deletes_nothing_beside_what_it_cannot_trust(training, kind):
    code = 2
    if kind == "header":
        (training / "x.lcd").write_bytes(b"\x89LCK")
    elif kind == "payload":
        flip(training / "cp-0005.weights.h5")
    else:
        data = bytearray(as_record(HEADER, b""))
        data[8] = 2
        (training / "x.lcd").write_bytes(data)
        code = 4
    names = file_names(training)
    err = keras_lc("prune", training, "--keep-last", 1, code=code).err
    assert "othing is deleted" in err
    assert file_names(training) == names


def test_who_writes_keeps_off_a_directory_that_is_saved_into(training):
    names = file_names(training)
    with holder(training):
        for verb, *options in (["pack"], ["unpack"], ["prune", "--keep-last", 1]):
            assert "process" in keras_lc(verb, training, *options, code=1).err
            keras_lc(verb, training, *options, "--dry-run")
    assert names <= file_names(training)


def test_a_name_that_was_saved_again_survives_unpacking(training):
    checkpointer = toy_checkpointer(training)
    keras_lc("pack", training)
    save(checkpointer, STATES[6], "cp-0002", 7)
    keras_lc("pack", training)
    keras_lc("unpack", training)
    assert same(load_named(training / "cp-0002").decoder.reconstruction, STATES[6])
    assert same(load_named(training / "cp-0004").decoder.reconstruction, STATES[3])


def test_a_safetensors_file_is_not_trusted(training, tmp_path):
    keras_lc("export", training / "best", tmp_path / "a.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    header = {"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}
    for text in (json.dumps(header).encode(), b"{}x", b"[]"):
        (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
        keras_lc("diff", tmp_path / "a.safetensors", training / "best", code=2)
    (tmp_path / "a.safetensors").write_bytes(b"\xff" * 8 + data[8:])
    keras_lc("diff", tmp_path / "a.safetensors", training / "best", code=2)
    (tmp_path / "a.safetensors").write_bytes(data)
    document = keras_lc("diff", tmp_path / "a.safetensors", training / "best", "--json").json
    assert all(tensor["changed"] == 0 for tensor in document["tensors"])
