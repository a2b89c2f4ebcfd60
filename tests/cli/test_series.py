"""import, estimate and convert."""

import contextlib
import shutil
import zipfile

import keras
import numpy as np
import pytest
import torch
from models import dense, equal, fit, state

import keras_lc as package
from keras_lc import LCModelCheckpoint
from keras_lc.core import PRESETS
from keras_lc.loader import load_named
from keras_lc.series import _epochs, _step, frame_of
from keras_lc.store import digest
from keras_lc.store import plain as files
from tests.cli.commands import keras_lc
from tests.cli.conftest import STATES
from tests.toy import file_names, load_all, same


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Eleven files of either kind as Keras writes them, and the states that they hold."""
    directory = tmp_path_factory.mktemp("plain")
    model, states = dense(units=64), []
    fit(
        model,
        [
            keras.callbacks.ModelCheckpoint(
                directory / "cp-{epoch}.weights.h5", save_weights_only=True
            ),
            keras.callbacks.ModelCheckpoint(directory / "cp-{epoch}.keras"),
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: states.append(state(model))
            ),
        ],
        epochs=11,
    )
    return directory, states


def without_seeds(model_state):
    return [*model_state[:4], *model_state[5:]]


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_an_import_is_bit_for_bit_and_goes_back_into_the_model(plain, tmp_path, suffix):
    directory, states = plain
    files = sorted(directory.glob(f"*{suffix}"))
    assert files[1].name == f"cp-10{suffix}"  # as a shell lists them
    ran = keras_lc("import", *files, "--to", tmp_path / "chain", "--json").json
    assert [row["id"] for row in ran["checkpoints"]] == [f"cp-{i}" for i in range(1, 12)]
    assert [row["error"] for row in ran["checkpoints"]] == [0] * 11
    assert ran["before"] == sum(file.stat().st_size for file in files)
    assert ran["after"] < ran["before"]
    rows = keras_lc("ls", tmp_path / "chain", "--json").json["checkpoints"]
    assert [(row["epoch"], row["step"]) for row in rows] == [(i, 6 * i) for i in range(1, 12)]
    for number in (1, 7):
        model = dense(units=64)
        package.restore(tmp_path / "chain" / f"cp-{number}", model)
        assert equal(without_seeds(state(model)), without_seeds(states[number - 1]))
    keras_lc("export", tmp_path / "chain" / "cp-7", tmp_path / "seven.weights.h5")
    model = dense(units=64)
    model.optimizer.build(model.trainable_variables)
    model.load_weights(tmp_path / "seven.weights.h5")
    assert equal(without_seeds(state(model)), without_seeds(states[6]))


def test_of_a_keras_file_the_model_is_rebuilt(plain, tmp_path):
    directory, states = plain
    keras_lc("import", *directory.glob("*.keras"), "--to", tmp_path / "chain")
    restored = package.restore(tmp_path / "chain" / "cp-5")
    assert equal(without_seeds(state(restored.model)), without_seeds(states[4]))
    keras_lc("import", *directory.glob("*.weights.h5"), "--to", tmp_path / "weights")
    with pytest.raises(package.CheckpointError, match="configuration"):
        package.restore(tmp_path / "weights" / "cp-5")


def test_a_lossy_import_says_how_far_it_is_off(plain, tmp_path):
    directory, _ = plain
    files = list(directory.glob("*.weights.h5"))
    options = ["--to", tmp_path / "chain", "--codec", "balanced", "--json"]
    ran = keras_lc("import", *files, *options).json
    for row in ran["checkpoints"][1:]:
        found = load_named(tmp_path / "chain" / row["id"]).decoder.reconstruction
        file = frame_of(str(directory / f"{row['id']}.weights.h5"), 0).snapshot.arrays
        weights = [name for name in file if name.startswith("layers/")]
        way = np.concatenate([(found[name] - file[name]).reshape(-1) for name in weights])
        values = np.concatenate([file[name].reshape(-1) for name in weights])
        assert row["error"] == pytest.approx(np.linalg.norm(way) / np.linalg.norm(values))
        assert 0 < row["error"] < PRESETS["balanced"].largest_share
    assert ran["after"] < ran["before"] / 3


def test_a_file_is_made_of_the_whole_base(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(digest, "BLOCK", 512)  # so that a delta needs some blocks and not others
    directory, _ = plain
    files = [directory / f"cp-{i}.weights.h5" for i in (1, 2)]
    keras_lc("import", *files, "--to", tmp_path / "chain", "--codec", "balanced")
    found = load_named(tmp_path / "chain" / "cp-2")
    assert found.base.absent
    model = dense(units=64)
    package.restore(tmp_path / "chain" / "cp-2", model)
    arrays = found.decoder.reconstruction
    assert equal(model.layers[0].get_weights()[:1], [arrays["layers/dense/vars/0"]])


def test_roles_are_given_only_where_they_are_certain(plain):
    directory, _ = plain
    specs = {s.name: s for s in frame_of(str(directory / "cp-9.weights.h5"), 0).snapshot.specs}
    kinds = [specs[f"optimizer/vars/{i}"].role for i in range(10)]
    assert kinds == ["exact"] * 2 + ["first_moment", "second_moment"] * 4
    assert specs["layers/dense/vars/0"].role == "weight"


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adamax"])
def test_other_optimizers_are_kept_bit_for_bit(tmp_path, optimizer):
    model = dense(optimizer)
    fit(model, epochs=1)
    model.save_weights(tmp_path / "a.weights.h5")
    specs = frame_of(str(tmp_path / "a.weights.h5"), 0).snapshot.specs
    assert {s.role for s in specs if s.name.startswith("optimizer")} == {"exact"}


def test_statistics_of_normalization_are_exact(tmp_path):
    layers = [keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    keras.Sequential(layers).save_weights(tmp_path / "a.weights.h5")
    specs = {s.name: s.role for s in frame_of(str(tmp_path / "a.weights.h5"), 0).snapshot.specs}
    group = "layers/batch_normalization/vars"
    roles = [specs[f"{group}/{i}"] for i in range(4)]
    assert roles == ["weight", "weight", "exact", "exact"]


def test_safetensors_are_imported_and_exported_again(training, tmp_path):
    for i in (1, 2, 3):
        keras_lc("export", training / f"epoch:{i}", tmp_path / f"s{i}.safetensors")
    files = list(tmp_path.glob("*.safetensors"))
    keras_lc("import", *files, "--to", tmp_path / "chain")
    assert same(load_all(tmp_path / "chain")["s2"], STATES[1])
    keras_lc("export", tmp_path / "chain/s3", tmp_path / "again.safetensors")
    keras_lc("diff", tmp_path / "again.safetensors", tmp_path / "s3.safetensors")
    with pytest.raises(package.CheckpointError, match=r"\.safetensors"):
        package.restore(tmp_path / "chain/s3", dense())


@pytest.fixture
def torch_files(tmp_path):
    """A training of PyTorch, as its users save it."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.BatchNorm1d(64))
    optimizer = torch.optim.AdamW(model.parameters())
    files = []
    for epoch in range(1, 12):
        model(torch.randn(16, 8)).square().mean().backward()
        optimizer.step()
        content = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        files.append(tmp_path / f"cp-{epoch}.pt")
        torch.save({**content, "epoch": epoch, "name": "a run"}, files[-1])
    return files


def test_files_of_torch_are_imported(torch_files, tmp_path):
    ran = keras_lc("import", *torch_files, "--to", tmp_path / "chain")
    assert ran.err == "keras-lc: not stored, since not numbers: name (str)\n"
    assert [row["error"] for row in ran.rows[:11]] == ["0"] * 11
    rows = keras_lc("ls", tmp_path / "chain", "--json").json["checkpoints"]
    assert [(row["epoch"], row["step"]) for row in rows] == [(i, i) for i in range(1, 12)]
    content = torch.load(torch_files[6], weights_only=True)
    found = load_named(tmp_path / "chain/cp-7").decoder.reconstruction
    assert np.array_equal(found["model/0.weight"], content["model"]["0.weight"])
    assert np.array_equal(
        found["optimizer/state/0/exp_avg_sq"], content["optimizer"]["state"][0]["exp_avg_sq"]
    )
    with pytest.raises(package.CheckpointError, match=r"\.safetensors"):
        package.restore(tmp_path / "chain/cp-7", dense())


def test_the_parts_that_tensors_of_torch_play(torch_files):
    with pytest.warns(match="name"):
        snapshot = frame_of(str(torch_files[0]), 1).snapshot
    roles = {spec.name: (spec.role, spec.of) for spec in snapshot.specs}
    first = "optimizer/state/0/exp_avg"
    assert roles["model/0.weight"][0] == "weight"
    assert roles["model/1.running_var"][0] == roles["epoch"][0] == "exact"
    assert roles[first] == ("first_moment", first)
    assert roles[f"{first}_sq"] == ("second_moment", first)


@pytest.mark.parametrize("told", [np.array(b"x"), np.array(1j), np.array(np.nan), np.array(-1)])
def test_what_is_no_number_of_steps_is_no_step(told):
    assert _step({"optimizer/vars/0": told}) == 0
    assert _step({"optimizer/vars/0": told, "optim/state/0/step": np.float32(3)}) == 3


def test_a_folded_keras_file_that_is_damaged(plain, tmp_path):
    folded = tmp_path / "folded.keras"
    with (
        zipfile.ZipFile(plain[0] / "cp-1.keras") as source,
        zipfile.ZipFile(folded, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    data = folded.read_bytes()
    for place in range(40, len(data), len(data) // 150):
        folded.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        with contextlib.suppress(package.CheckpointError):
            files.read(folded)


def test_a_keras_file_that_unfolds(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(10_000_000))
        archive.writestr("config.json", "{}")
    with pytest.raises(package.CheckpointError, match="claims 10000000 bytes"):
        files.read(tmp_path / "a.keras")


def test_a_kind_of_tensor_that_cannot_be_stored_is_no_damage(tmp_path):
    torch.save({"w": torch.eye(2).to_sparse()}, tmp_path / "a.pt")
    assert "sparse" in keras_lc("import", tmp_path / "a.pt", "--to", tmp_path / "c", code=1).err


def test_an_import_refuses_what_would_be_wrong(plain, training, tmp_path):
    file = plain[0] / "cp-1.weights.h5"
    target = tmp_path / "chain"
    assert "holds checkpoints" in keras_lc("import", file, "--to", training, code=1).err
    assert "both" in keras_lc("import", file, plain[0] / "cp-1.keras", "--to", target, code=1).err
    assert "nope" in keras_lc("import", file, "--to", target, "--codec", "nope", code=1).err
    assert "no file" in keras_lc("import", tmp_path / "x.keras", "--to", target, code=3).err
    assert ".keras" in keras_lc("import", tmp_path / "x.ckpt", "--to", target, code=1).err
    broken = tmp_path / "broken.keras"
    broken.write_bytes(b"PK")
    assert "broken.keras" in keras_lc("import", broken, "--to", target, code=2).err
    keras_lc("import", "--to", target, code=1)
    assert not target.exists() or not load_all(target)


@pytest.mark.parametrize(
    ("files", "epochs"),
    [
        (["cp-0007-0.3.keras", "cp-0010-0.2.keras"], [7, 10]),
        (["v2-e1.keras", "v2-e3.keras"], [1, 3]),
        (["a.keras", "b.keras"], [1, 2]),
    ],
)
def test_epochs_are_the_numbers_that_count_upwards(files, epochs):
    assert _epochs(files) == epochs


def test_estimate_tries_every_codec_and_writes_nothing(plain, tmp_path):
    directory, _ = plain
    before = file_names(directory)
    files = [directory / f"cp-{i}.weights.h5" for i in range(1, 5)]
    document = keras_lc("estimate", *files, "--json").json
    codecs = {row["codec"]: row for row in document["codecs"]}
    assert codecs.keys() == PRESETS.keys()
    assert codecs["lossless"]["error"] == 0 < codecs["balanced"]["error"] < 0.035
    keras_lc("import", *files, "--to", tmp_path / "chain", "--codec", "fast")
    stored = [keras_lc("info", tmp_path / f"chain/cp-{i}", "--json").json for i in (2, 3, 4)]
    framed = sum(one["nbytes"] for one in stored) / 3 - codecs["fast"]["delta"]
    assert 0 < framed < 500  # header and digest
    assert file_names(directory) == before
    assert "two" in keras_lc("estimate", files[0], code=1).err
    other = shutil.copy(files[0], tmp_path / "z.weights.h5")
    dense(units=8).save_weights(other)
    assert "z.weights.h5" in keras_lc("estimate", files[0], other, code=1).err


def test_convert_stores_a_run_with_another_codec(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    model = dense(units=64)
    fit(model, [LCModelCheckpoint(source / "cp-{epoch}", codec="lossless", keyframe_every=3)], 5)
    lossless = load_all(source)
    ran = keras_lc("convert", source, "--to", target, "--codec", "balanced", "--json").json
    kinds = [row["kind"] for row in ran["checkpoints"]]
    assert kinds == ["base", "delta", "delta", "base", "delta"]
    assert ran["after"] < ran["before"]
    one, other = (load_named(d / "cp-1").base.about["roles"] for d in (source, target))
    assert one == other
    assert sorted(role for role, _ in one.values()) == sorted(
        4 * ["first_moment", "second_moment", "weight"]
    )
    before, after = (keras_lc("ls", d, "--json").json["checkpoints"] for d in (source, target))
    for one, other in zip(before, after, strict=True):
        assert all(one[key] == other[key] for key in ("id", "epoch", "step", "value", "parent"))
    found = load_all(target)
    for name, arrays in found.items():
        for tensor, array in arrays.items():
            exact = lossless[name][tensor].tobytes() == array.tobytes()
            assert exact or tensor.startswith(("weights", "optimizer"))
    package.restore(target / "cp-5", model)  # bases and deltas are those of a model
    other = dense(units=64)
    other.optimizer.build(other.trainable_variables)
    other.load_weights(target / "cp-4.weights.h5")
    back = keras_lc("convert", target, "--to", tmp_path / "back", "--codec", "lossless", "--json")
    assert {row["error"] for row in back.json["checkpoints"]} == {0}
    assert all(same(found[name], arrays) for name, arrays in load_all(tmp_path / "back").items())


def test_convert_refuses_what_would_be_wrong(training, tmp_path):
    arguments = ["--codec", "balanced", "--to"]
    assert "holds checkpoints" in keras_lc("convert", training, *arguments, training, code=1).err
    keras_lc("convert", tmp_path / "nope", *arguments, tmp_path / "x", code=3)
    (training / "cp-0003.lcd").write_bytes(b"\x89LCK\r\n\x1a\n" + bytes(9))
    keras_lc("convert", training, *arguments, tmp_path / "x", code=2)
    assert not (tmp_path / "x").exists()
