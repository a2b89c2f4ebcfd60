import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch_training import Training, equal, same, worked

import keras_lc.torch
from keras_lc import CheckpointError, workers
from keras_lc.errors import MismatchError, OptionError
from keras_lc.torch import Checkpointer, load, save


def trained(kind=torch.optim.AdamW, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    optimizer = kind(model.parameters(), lr=0.01, **options)
    model(torch.randn(8, 4)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def test_one_file_holds_everything_and_nothing_else_is_written(tmp_path):
    training = Training()
    training.train(3)
    extra = {"sampler": [1, 2.5, None], "order": torch.arange(4), "who": ("a", np.float32(2))}
    save(tmp_path / "model", *training.objects, epoch=2, step=3, logs={"loss": 1.5}, extra=extra)
    drawn = torch.rand(3)
    other = Training()
    restored = load(tmp_path / "model.weights.h5", *other.objects)
    assert equal(training, other)
    assert torch.equal(torch.rand(3), drawn)
    assert (restored.epoch, restored.step, restored.logs) == (2, 3, {"loss": 1.5})
    assert same(restored.extra, extra)
    assert [file.name for file in tmp_path.iterdir()] == ["model.weights.h5"]
    save(tmp_path / "model", training.model, step=4)  # in the place of the other
    assert load(tmp_path / "model", other.model).step == 4


def test_random_states_stay_if_that_is_wanted(tmp_path):
    save(tmp_path / "model", nn.Linear(1, 1))
    before = torch.get_rng_state()
    torch.rand(1)
    after = torch.get_rng_state()
    load(tmp_path / "model", nn.Linear(1, 1), random=False)
    assert not torch.equal(before, torch.get_rng_state())
    torch.set_rng_state(after)


def other_shape():
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5))


def other_dtype():
    model, _ = trained()
    model[1].bfloat16()
    return model


def one_more():
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(2, 2))


def one_less():
    return nn.Sequential(nn.Linear(4, 3))


def tied():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model[1].bias = nn.Parameter(torch.zeros(2))
    model.register_parameter("again", model[1].bias)
    return model


@pytest.mark.parametrize(
    ("build", "said", "left"),
    [
        (other_shape, "weights/1.weight has shape (5, 3) in the model and (2, 3) in the", 2),
        (other_dtype, "weights/1.weight is bfloat16 in the model and float32 in the", 2),
        (one_more, "weights/2.weight (shape (2, 2)) is in the model, not in the checkpoint", 2),
        (one_less, "weights/1.weight (shape (2, 3)) is in the checkpoint, not in the model", 2),
        (tied, "weights/1.bias (shape (2,)) is in the checkpoint, not in the model, where it", 2),
    ],
)
def test_a_model_that_does_not_fit_is_named_and_unchanged(tmp_path, build, said, left):
    model, optimizer = trained()
    save(tmp_path / "model", model, optimizer)
    other = build()
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(MismatchError) as met:
        load(tmp_path / "model", other)
    assert said in str(met.value)
    assert "model' was not restored" in str(met.value)
    assert same(before, other.state_dict())
    restored = load(tmp_path / "model", other, strict=False)
    assert any(said in fault for fault in restored.left_out)
    assert len(restored.left_out) == left
    assert torch.equal(other[0].weight, model[0].weight)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (
            lambda model: torch.optim.SGD(model.parameters()),
            "optimizer/0 is of the class SGD here and AdamW in the checkpoint",
        ),
        (
            lambda model: torch.optim.AdamW([{"params": [p]} for p in model.parameters()]),
            "optimizer/0 has 4 groups here and 1 in the checkpoint",
        ),
        (
            lambda model: torch.optim.AdamW(model[0].parameters()),
            "group 0 of optimizer/0 trains other parameters: weights/1.bias, weights/1.weight",
        ),
        (
            lambda model: torch.optim.AdamW(reversed(list(model.parameters()))),
            "group 0 of optimizer/0 trains other parameters: the same in another order",
        ),
        (
            lambda model: {"a": torch.optim.AdamW(model.parameters())},
            "optimizer/a is given, and not in the checkpoint; optimizer/0 is in the checkpoint",
        ),
    ],
)
def test_an_optimizer_that_does_not_fit_is_named_and_nothing_is_changed(tmp_path, build, said):
    save(tmp_path / "model", *trained())
    other = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    before = copy.deepcopy(other.state_dict())
    optimizer = build(other)
    with pytest.raises(MismatchError) as met:
        load(tmp_path / "model", other, optimizer)
    assert said in str(met.value)
    assert same(before, other.state_dict())
    restored = load(tmp_path / "model", other, optimizer, strict=False)
    assert restored.left_out
    assert not same(before, other.state_dict())


def test_schedulers_and_scalers_that_do_not_fit_are_named(tmp_path):
    model, optimizer = trained()
    step = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    save(tmp_path / "model", model, optimizer, step, torch.amp.GradScaler("cpu"))
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
    off = torch.amp.GradScaler("cpu", enabled=False)
    with pytest.raises(MismatchError) as met:
        load(tmp_path / "model", model, optimizer, [cosine, cosine], off)
    assert "scheduler/0 is of the class CosineAnnealingLR here and StepLR in the" in str(met.value)
    assert "scheduler/1 is given, and not in the checkpoint" in str(met.value)
    assert "scaler has a state in the checkpoint alone" in str(met.value)
    load(tmp_path / "model", model)


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path):
    model = nn.ModuleDict({"embed": nn.Embedding(50, 8), "head": nn.Linear(8, 50, bias=False)})
    model["head"].weight = model["embed"].weight
    optimizer = torch.optim.Adam(model.parameters())
    model["head"](model["embed"](torch.arange(50))).sum().backward()
    optimizer.step()
    save(tmp_path / "model", model, optimizer)
    stored = keras_lc.restore(tmp_path / "model", as_numpy=True).model
    assert [name for name in stored if name.startswith("weights/")] == ["weights/embed.weight"]
    other = copy.deepcopy(model)
    with torch.no_grad():
        other["embed"].weight.zero_()
    load(tmp_path / "model", other, torch.optim.Adam(other.parameters()))
    assert other["head"].weight is other["embed"].weight
    assert torch.equal(other["head"].weight, model["head"].weight)
    apart = nn.ModuleDict({"embed": nn.Embedding(50, 8), "head": nn.Linear(8, 50, bias=False)})
    load(tmp_path / "model", apart)  # one that is not tied takes it twice
    assert torch.equal(apart["head"].weight, model["head"].weight)


def test_several_models_optimizers_and_schedulers(tmp_path):
    def build():
        models = {"generator": nn.Linear(2, 3), "critic": nn.Linear(3, 1)}
        adam = torch.optim.Adam(models["generator"].parameters())
        sgd = torch.optim.SGD(models["critic"].parameters(), momentum=0.9)
        optimizers = {"generator": adam, "critic": sgd}
        lr = torch.optim.lr_scheduler
        return models, optimizers, [lr.StepLR(adam, 1), lr.ExponentialLR(sgd, 0.5)]

    models, optimizers, schedulers = build()
    for _ in range(2):
        models["critic"](models["generator"](torch.randn(4, 2))).sum().backward()
        for one in [*optimizers.values(), *schedulers]:
            one.step()
    save(tmp_path / "gan", models, optimizers, schedulers)
    again = build()
    load(tmp_path / "gan", *again)
    for name in models:
        assert same(models[name].state_dict(), again[0][name].state_dict())
        assert same(optimizers[name].state_dict(), again[1][name].state_dict())
    assert [s.state_dict() for s in schedulers] == [s.state_dict() for s in again[2]]
    stored = keras_lc.restore(tmp_path / "gan", as_numpy=True).model
    assert "optimizer/critic/critic.weight/momentum_buffer" in stored


def test_an_optimizer_of_parameters_that_are_not_of_the_model_is_refused(tmp_path):
    model, loss = nn.Linear(2, 2), nn.Linear(2, 1)
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.1)
    with pytest.raises(OptionError, match=r"a parameter of shape \(1, 2\) that is not of the mod"):
        save(tmp_path / "model", model, optimizer)
    save(tmp_path / "model", {"net": model, "loss": loss}, optimizer)


class Counting(nn.Module):
    """Has a state that is no tensor."""

    def __init__(self, state):
        super().__init__()
        self.state = state

    def get_extra_state(self):
        return self.state

    def set_extra_state(self, state):
        self.state = state


def test_what_modules_add_of_their_own_is_kept(tmp_path):
    model = nn.Sequential(Counting({"seen": 3, "kept": torch.ones(2)}), nn.Linear(1, 1))
    save(tmp_path / "model", model)
    other = nn.Sequential(Counting(None), nn.Linear(1, 1))
    load(tmp_path / "model", other)
    assert same(other[0].state, model[0].state)
    with pytest.raises(MismatchError, match="_extra_state is in the checkpoint, and not given"):
        load(tmp_path / "model", nn.Sequential(nn.Identity(), nn.Linear(1, 1)))


@pytest.mark.parametrize("extra", [object(), {"a": [print]}, {(1, 2): 3}, {1: torch.nn.Linear}])
def test_what_would_have_to_be_pickled_is_refused(tmp_path, extra):
    with pytest.raises(OptionError, match="without pickling it") as met:
        save(tmp_path / "model", nn.Linear(1, 1), extra=extra)
    assert "run/extra" in str(met.value)
    assert not list(tmp_path.iterdir())


def test_a_module_without_values_is_refused(tmp_path):
    with pytest.raises(OptionError, match="without values"):
        save(tmp_path / "model", nn.LazyLinear(2))
    with pytest.raises(OptionError, match="without values"):
        save(tmp_path / "model", nn.Linear(2, 2, device="meta"))
    with pytest.raises(OptionError, match=r"expected a torch\.nn\.Module"):
        save(tmp_path / "model", print)


def test_a_keras_model_is_not_made_of_it(tmp_path):
    save(tmp_path / "model", nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=r"was saved by keras_lc\.torch"):
        keras_lc.restore(tmp_path / "model")


def test_arrays_are_read_without_torch(tmp_path):
    model, optimizer = trained()
    save(tmp_path / "model", model, optimizer, step=7, extra={"classes": 3})
    code = (
        "import sys, keras_lc\n"
        f"restored = keras_lc.restore({str(tmp_path / 'model')!r}, as_numpy=True)\n"
        "print(restored.step, restored.model['optimizer/0/1.bias/exp_avg'].sum())\n"
        "assert not {'torch', 'keras', 'tensorflow'} & set(sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(Path(keras_lc.__file__).parents[1]), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    moment = optimizer.state[model[1].bias]["exp_avg"].numpy().sum()
    assert run.stdout.split() == ["7", str(moment)]


def test_a_restore_takes_so_many_threads_as_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "THREADS", 4)
    model, other = nn.Linear(2048, 2048), nn.Linear(2048, 2048)  # read in several blocks
    checkpointer = Checkpointer(tmp_path, "lossless", background=False)
    for step in (1, 2):
        model.reset_parameters()
        checkpointer.save(model, epoch=0, step=step)
    path = tmp_path / "cp-000002"
    ways = [
        lambda threads: load(path, other, threads=threads),
        lambda threads: checkpointer.restore(path, other, threads=threads),
        lambda threads: checkpointer.restore_latest(other, threads=threads),
    ]
    for restore in ways:
        assert worked(lambda restore=restore: restore(1)) == set()
        assert worked(lambda restore=restore: restore(None))
        assert worked(lambda restore=restore: restore(2)) <= {
            f"keras_lc-worker_{i}" for i in (0, 1)
        }
        assert same(other.state_dict(), model.state_dict())
    with pytest.raises(OptionError, match="threads=0"):
        load(path, other, threads=0)
