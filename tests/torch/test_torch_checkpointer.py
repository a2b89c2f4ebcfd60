import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_training
from torch import nn
from torch_training import Training, equal, same

import keras_lc
from keras_lc import CheckpointError, list_checkpoints, verify
from keras_lc.core import TensorSpec
from keras_lc.torch import Checkpointer


def run(directory, steps=6, **options):
    """A training with a checkpoint after each step."""
    training = Training()
    with Checkpointer(directory, **{"codec": "lossless", **options}) as checkpointer:
        for _ in range(steps):
            training.train(1)
            training.save(checkpointer)
    return training


def numbers():
    return random.random(), np.random.random(), torch.rand(1).item()


def test_a_lossless_training_goes_on_bit_for_bit(tmp_path):
    training = run(tmp_path)
    losses, drawn = training.train(5), numbers()
    other = Training()
    with Checkpointer(tmp_path, codec="lossless") as checkpointer:
        restored = checkpointer.restore_latest(*other.objects)
        assert (restored.step, restored.model) == (6, other.model)
        other.step = restored.step
        assert other.train(5) == losses
        assert numbers() == drawn
        assert equal(training, other)
        other.save(checkpointer)
    kinds = [checkpoint.kind for checkpoint in list_checkpoints(tmp_path)]
    assert kinds == ["base", *6 * ["delta"]]
    assert verify(tmp_path).ok


def test_every_checkpoint_of_a_chain_is_restored_bit_for_bit(tmp_path):
    training = Training()
    digests = {}
    with Checkpointer(tmp_path, codec="lossless", keyframe_every=3) as checkpointer:
        for _ in range(5):
            training.train(1)
            training.save(checkpointer)
            digests[training.step] = [
                {k: v.clone() for k, v in training.model.state_dict().items()},
                {k: dict(v) for k, v in training.optimizer.state_dict()["state"].items()},
            ]
            digests[training.step][1] = {
                i: {k: v.clone() for k, v in state.items()}
                for i, state in digests[training.step][1].items()
            }
        other = Training()
        for step in (3, 1, 5, 4, 2):
            checkpointer.restore(f"cp-{step:06d}", *other.objects)
            assert same(other.model.state_dict(), digests[step][0])
            assert same(other.optimizer.state_dict()["state"], digests[step][1])
            assert other.scheduler.last_epoch == step


def test_a_training_that_is_killed_ends_as_if_it_never_was(tmp_path):
    command = [sys.executable, torch_training.__file__, str(tmp_path), "25"]

    def start():
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={"PYTHONPATH": str(Path(keras_lc.__file__).parents[1]), "PATH": "/usr/bin:/bin"},
        )  # fmt: skip

    with start() as child:
        assert child.stdout.readline() == "from 0\n"
        while len(list(tmp_path.glob("*.lcd"))) < 9:
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.005)
        child.kill()
    with start() as child:
        begin = int(child.stdout.readline().split()[1])
        drawn = child.stdout.readline().split()[1:]
    assert 9 <= begin < 25
    assert child.returncode == 0
    whole = Training()
    whole.train(25)
    assert [float(number) for number in drawn] == list(numbers())
    other = Training()
    restored = Checkpointer(tmp_path).restore_latest(*other.objects)
    assert restored.step == 25
    assert equal(whole, other)


def test_a_lossy_delta_is_small_and_near_and_the_last_one_exact(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(300, 200)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    with Checkpointer(tmp_path) as checkpointer:
        for step in range(1, 4):
            optimizer.zero_grad()
            model(torch.randn(64, 300)).square().mean().backward()
            optimizer.step()
            checkpointer.save(
                model, optimizer, epoch=0, step=step, codec="lossless" if step == 3 else None
            )
        sizes = [checkpoint.nbytes for checkpoint in list_checkpoints(tmp_path)]
        assert sizes[1] < sizes[0] / 10
        other = nn.Linear(300, 200)
        checkpointer.restore("cp-000002", other)
        assert 0 < (other.weight - model.weight).std() < 0.05 * model.weight.std()
        checkpointer.restore("cp-000003", other)
        assert torch.equal(other.weight, model.weight)


@pytest.mark.parametrize(
    ("options", "exact"),
    [
        ({}, ()),
        ({"codec": {"optimizer/*": "lossless", "*": "balanced"}}, ("optimizer/",)),
        ({"lossy": ("weight",)}, ("optimizer/",)),
        ({"lossy": ["first_moment", "second_moment"]}, ("weights/",)),
        ({"lossy": lambda spec: "weight" not in spec.name}, ("weights/", "optimizer/0/weight/")),
    ],
)
def test_what_is_lossy_is_chosen_by_pattern_role_or_predicate(tmp_path, options, exact):
    torch.manual_seed(0)
    model = nn.Linear(50, 40)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    live = {}
    with Checkpointer(tmp_path, **{"codec": "balanced", **options}) as checkpointer:
        for step in range(1, 4):
            optimizer.zero_grad()
            model(torch.randn(64, 50)).square().mean().backward()
            optimizer.step()
            checkpointer.save(model, optimizer, epoch=0, step=step)
    for key, parameter in model.named_parameters():
        live[f"weights/{key}"] = parameter
        for name in ("exp_avg", "exp_avg_sq"):
            live[f"optimizer/0/{key}/{name}"] = optimizer.state[parameter][name]
    stored = keras_lc.restore(tmp_path / "cp-000003", as_numpy=True).model
    same = {name for name in live if np.array_equal(stored[name], live[name].detach().numpy())}
    assert same == {name for name in live if name.startswith(exact)} if exact else not same


def test_specs_tell_what_a_filter_is_asked_about(tmp_path):
    asked = []
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    with Checkpointer(tmp_path, lossy=lambda spec: asked.append(spec)) as checkpointer:
        checkpointer.save(model, optimizer, epoch=0, step=1)
    assert TensorSpec("weights/bias", "weight") in asked
    momentum = TensorSpec("optimizer/0/bias/momentum_buffer", "first_moment", of="weights/bias")
    assert momentum in asked


def save_and_fail(directory, error=None):
    with Checkpointer(directory) as checkpointer:
        checkpointer.save(nn.Linear(300, 300), epoch=1, step=1)
        if error:
            raise error


def test_a_context_ends_with_the_last_checkpoint_durable_whatever_happens(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        save_and_fail(tmp_path, KeyboardInterrupt())
    assert [one.epoch for one in list_checkpoints(tmp_path)] == [1]
    assert not list(tmp_path.glob(".*"))  # another process may save now


def test_a_save_that_fails_is_raised_and_does_not_hide_another_error(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save_and_fail(tmp_path)
    with pytest.raises(RuntimeError, match="diverged") as met:
        save_and_fail(tmp_path, RuntimeError("diverged"))
    assert "No space left" in met.value.__notes__[0]


def test_the_newest_are_kept_and_names_are_as_wished(tmp_path):
    model = nn.Linear(2, 2)
    told = []
    options = {"max_to_keep": 2, "name": "{epoch:02d}-{batch}-{loss:.1f}", "keyframe_every": 2}
    with Checkpointer(tmp_path, background=False, on_saved=told.append, **options) as saves:
        for epoch in range(6):
            saves.save(model, epoch=epoch, batch=7, step=epoch, logs={"loss": epoch / 2})
        assert len(told) == 6
        assert saves.restore_latest(nn.Linear(2, 2)).path == str(tmp_path / "05-7-2.5")
    last = list_checkpoints(tmp_path)[-1]
    assert (last.epoch, last.batch, last.step, last.logs) == (5, 7, 5, {"loss": 2.5})
    assert len(list_checkpoints(tmp_path)) <= 3


def test_nothing_yet(tmp_path):
    assert Checkpointer(tmp_path / "none").restore_latest(nn.Linear(2, 2)) is None
    assert not (tmp_path / "none").exists()


def test_a_state_that_changes_begins_a_new_base(tmp_path):
    training = Training()
    with Checkpointer(tmp_path) as checkpointer:
        training.save(checkpointer)  # there are no moments yet
        training.train(1)
        training.save(checkpointer)
        training.train(1)
        training.save(checkpointer)
    assert [one.kind for one in list_checkpoints(tmp_path)] == ["base", "base", "delta"]


def test_restored_without_the_optimizer_a_new_chain_begins(tmp_path):
    run(tmp_path, steps=2)
    other = Training()
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.restore_latest(other.model)
        other.step = 2
        other.train(1)
        checkpointer.save(other.model, epoch=0, step=3)
    assert [one.kind for one in list_checkpoints(tmp_path)] == ["base", "delta", "base"]
