"""ls, info and verify, and how checkpoints are named."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from keras_lc.core import PRESETS, Balanced
from keras_lc.figures import words
from keras_lc.references import find
from keras_lc.report.detail import _SHARES, _error
from keras_lc.store.pack import pack
from tests.cli.commands import keras_lc
from tests.cli.conftest import STATES
from tests.toy import HEADER, as_record, run, save, toy_checkpointer

ROOT = Path(__file__).parents[2]


def flip(path, place=-40):
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def test_ls_gives_a_row_a_checkpoint_in_plain_columns(training):
    rows = keras_lc("ls", training).rows
    assert [row["id"] for row in rows] == [f"cp-000{i}" for i in range(1, 7)]
    assert [row["kind"] for row in rows] == ["base", *["delta"] * 3, "base", "delta"]
    assert [row["parent"] for row in rows] == ["-", "cp-0001", "cp-0002", "cp-0003", "-", "cp-0005"]
    assert [row["mark"] for row in rows] == ["-", "-", "-", "best", "-", "latest"]
    assert [float(row["value"]) for row in rows] == [0.9, 0.7, 0.5, 0.3, 0.4, 0.6]
    assert int(rows[1]["nbytes"]) == (training / "cp-0002.lcd").stat().st_size
    assert "damaged" not in rows[0]


def test_the_monitor_can_be_named_and_tells_by_its_name_what_is_best(training):
    rows = keras_lc("ls", training, "--monitor", "val_accuracy").rows
    assert [row["id"] for row in rows if row["mark"] == "best"] == ["cp-0005"]
    assert "val_loss" in keras_lc("ls", training, "--monitor", "nope", code=1).err


def test_json_has_a_schema_and_exact_numbers(training):
    document = keras_lc("ls", training, "--json").json
    assert document["schema"] == 1
    assert document["verb"] == "ls"
    assert document["nbytes"] == sum(
        file.stat().st_size for file in training.iterdir() if file.name != "checkpoint.json"
    )
    row = document["checkpoints"][3]
    assert row["id"] == "cp-0004"
    assert row["best"] is True
    base = (training / "cp-0001.weights.h5").stat().st_size
    assert row["ratio"] == base / row["nbytes"]


def test_a_directory_without_metrics_or_checkpoints_is_fine(bare, tmp_path):
    assert "value" not in keras_lc("ls", bare).rows[0]
    assert "best" in keras_lc("info", bare / "best", code=3).err
    (tmp_path / "empty").mkdir()
    assert keras_lc("ls", tmp_path / "empty", "--json").json["checkpoints"] == []


def test_damaged_files_are_rows_beside_the_sound_ones(training):
    (training / "cp-0003.lcd").write_bytes(b"")
    (training / "x.lcd").write_bytes(b"\x89LCK\r\n\x1a\n" + bytes(40))
    ran = keras_lc("ls", training, "--json", code=2)
    rows = {row["id"]: row for row in ran.json["checkpoints"]}
    assert rows["x.lcd"]["kind"] == rows["cp-0003.lcd"]["kind"] == "damaged"
    assert "missing" in rows["cp-0004"]["damaged"]
    assert rows["cp-0002"]["damaged"] is rows["cp-0006"]["damaged"] is None
    assert [name for name, row in rows.items() if row["best"]] == ["cp-0005"]
    plain = keras_lc("ls", training, code=2).rows
    assert plain[-1]["id"] == "x.lcd"
    assert "cp-0003" in keras_lc("info", training / "cp-0003", code=2).err
    told = keras_lc("info", training / "cp-0004", code=2).out
    assert "missing" in told
    assert "to restore" not in told


def test_a_newer_format_has_a_code_of_its_own(training):
    data = bytearray(as_record(HEADER, b""))
    data[8] = 2
    (training / "new.lcd").write_bytes(data)
    assert keras_lc("ls", training, "--json", code=4).json["newer"] is True
    assert "Upgrade" in keras_lc("info", training / "new", code=4).err
    assert "Upgrade" in keras_lc("verify", training, code=4).out
    (training / "cp-0003.lcd").write_bytes(b"")
    keras_lc("ls", training, code=2)


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("cp-0002", "cp-0002"),
        ("cp-0002.lcd", "cp-0002"),
        ("latest", "cp-0006"),
        ("best", "cp-0004"),
        ("best:val_accuracy", "cp-0005"),
        ("epoch:3", "cp-0003"),
        ("step:5", "cp-0005"),
    ],
)
def test_references(training, reference, name):
    assert keras_lc("info", training / reference, "--json").json["id"] == name


def test_a_unique_start_is_enough(bare):
    (bare / "cp-0002.lcd").rename(bare / "other.lcd")
    assert keras_lc("info", bare / "o", "--json").json["id"] == "other"
    assert keras_lc("info", bare / "cp", "--json").json["id"] == "cp-0001"


@pytest.mark.parametrize(
    ("reference", "code", "said"),
    [
        ("cp-00", 1, "6 checkpoints"),
        ("cp-0012", 3, "cp-0002"),
        ("epoch:9", 3, "cp-0006 (epoch 6)"),
        ("step:100", 3, "cp-0006 (step 6)"),
        ("epoch:x", 1, "whole number"),
        ("best:nope", 1, "val_loss"),
        ("", 1, "latest"),
    ],
)
def test_what_is_not_there_is_told_with_what_is_near(training, reference, code, said):
    assert said in keras_lc("info", f"{training}/{reference}", code=code).err


def test_a_missing_directory_is_not_found(tmp_path):
    for arguments in (["ls"], ["verify"]):
        assert "no directory" in keras_lc(*arguments, tmp_path / "nope", code=3).err
    assert "no directory" in keras_lc("info", tmp_path / "nope" / "latest", code=3).err


def test_a_directory_behind_a_url():
    run("memory://looked/at", STATES[:2])
    assert [row["id"] for row in keras_lc("ls", "memory://looked/at").rows] == [
        "cp-0001",
        "cp-0002",
    ]
    assert keras_lc("info", "memory://looked/at/step:2", "--json").json["id"] == "cp-0002"
    assert "intact" in keras_lc("verify", "memory://looked/at").out
    assert "no directory" in keras_lc("ls", "memory://looked/not", code=3).err


def test_of_an_epoch_its_end_is_meant(tmp_path):
    checkpointer = toy_checkpointer(tmp_path)
    for i, (epoch, batch) in enumerate([(0, 3), (1, 0), (1, 3)]):
        save(checkpointer, STATES[i], f"s-{i}", epoch, batch=batch)
    assert keras_lc("info", tmp_path / "epoch:1", "--json").json["id"] == "s-1"
    assert keras_lc("info", tmp_path / "epoch:0", "--json").json["id"] == "s-0"
    assert [row["batch"] for row in keras_lc("ls", tmp_path).rows] == ["3", "0", "3"]


def test_info_tells_the_chain_and_the_tensors(training):
    document = keras_lc("info", training / "cp-0003", "--json").json
    files = ["cp-0001.weights.h5", "cp-0002.lcd", "cp-0003.lcd"]
    assert [link["file"] for link in document["chain"]] == files
    assert document["read"] == sum((training / file).stat().st_size for file in files)
    assert document["children"] == ["cp-0004"]
    assert document["tensors"] is None
    assert document["aim"] == 0
    document = keras_lc("info", training / "cp-0003", "--tensors", "--json").json
    tensors = {tensor["name"]: tensor for tensor in document["tensors"]}
    assert tensors["weights/0"]["shape"] == [3, 4]
    assert tensors["weights/2"]["kind"] == "same"
    assert document["state"] == sum(tensor["nbytes"] for tensor in document["tensors"])
    plain = keras_lc("info", training / "cp-0003", "--tensors").out
    assert "weights/0" in plain
    assert "cp-0002.lcd" in plain


def test_info_tells_the_error_beside_its_bound(tmp_path):
    run(tmp_path, STATES[:3], codec="balanced")
    made = keras_lc("info", tmp_path / "cp-0003", "--json").json
    assert 0 < made["error"] < made["aim"]
    share = words.share(made["error"])
    assert (
        f"error of the weights {share} (about 3.5 % at most"
        in keras_lc("info", tmp_path / "cp-0003").out
    )
    assert keras_lc("info", tmp_path / "cp-0001", "--json").json["error"] is None


@pytest.mark.parametrize("claimed", ["x", True, -1, None, [1], float("inf"), float("nan")])
def test_an_error_that_makes_no_sense_is_not_told(training, claimed):
    stored = find(training / "cp-0003").stored
    assert _error(replace(stored, header=stored.header | {"error": claimed})) is None


def test_the_aims_are_those_of_the_presets():
    lossy = {name: p.largest_share for name, p in PRESETS.items() if isinstance(p, Balanced)}
    assert lossy == _SHARES


def test_a_payload_that_is_damaged_is_found_when_it_is_read(training):
    flip(training / "cp-0003.lcd")
    assert keras_lc("info", training / "cp-0004", "--json").json["damaged"] is None
    ran = keras_lc("info", training / "cp-0004", "--tensors", "--json", code=2)
    assert "cp-0003" in ran.json["damaged"]


@pytest.mark.parametrize("options", [[], ["--all"]])
@pytest.mark.parametrize("packed", [False, True])
def test_verify_finds_damage(training, options, packed):
    if packed:
        pack(training)
    assert "all intact" in keras_lc("verify", training, *options).out
    file = training / ("cp-0001.lcp" if packed else "cp-0003.lcd")
    flip(file)
    ran = keras_lc("verify", training, *options, "--json", code=2)
    assert file.name in ran.json["damaged"]
    file.unlink()
    if not packed:
        assert "cp-0004.lcd" in keras_lc("verify", training, *options, code=2).out


def test_wrong_words_are_usage(training):
    assert "nope" in keras_lc("nope", code=1).err
    assert "--nope" in keras_lc("ls", "--nope", code=1).err
    assert "is a file" in keras_lc("ls", training / "cp-0002.lcd", code=1).err


def in_shell(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-m", "keras_lc", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_in_a_process_of_its_own(training):
    ran = in_shell("ls", "training", cwd=training.parent)
    assert ran.returncode == 0
    assert ran.stdout == keras_lc("ls", training).out
    ran = in_shell("info", "training/epoch:9", "--json", cwd=training.parent)
    assert ran.returncode == 3
    assert ran.stdout == ""
    assert ran.stderr.count("\n") == 1
    assert json.loads(in_shell("ls", "training", "--json", cwd=training.parent).stdout)


def test_checkpoints_are_completed(training):
    ran = in_shell(
        cwd=training.parent,
        _KERAS_LC_COMPLETE="complete_bash",
        COMP_WORDS="keras-lc info training/cp-0",
        COMP_CWORD="2",
    )
    assert "training/cp-0003" in ran.stdout
