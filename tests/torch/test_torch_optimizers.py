import pytest
import torch
from torch import nn
from torch_training import same

import keras_lc
from keras_lc.capture.torch.model import state_of as model_state
from keras_lc.capture.torch.optimizers import state_of
from keras_lc.torch import load, save

OPTIMIZERS = {
    "Adadelta": {},
    "Adafactor": {},
    "Adagrad": {},
    "Adam": {"amsgrad": True},
    "AdamW": {"fused": True},
    "Adamax": {},
    "ASGD": {},
    "LBFGS": {"history_size": 2},
    "NAdam": {},
    "RAdam": {"foreach": False},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Rprop": {},
    "SGD": {"momentum": 0.9},
}
SCHEDULERS = {
    "ConstantLR": {},
    "CosineAnnealingWarmRestarts": {"T_0": 3},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1, "cycle_momentum": False},
    "LambdaLR": {"lr_lambda": lambda epoch: 0.9**epoch},
    "MultiStepLR": {"milestones": [2, 4]},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 20},
    "ReduceLROnPlateau": {"patience": 1},
}


def build(kind, options):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    return model, getattr(torch.optim, kind)(model.parameters(), **{"lr": 0.01, **options})


def train(model, optimizer, steps=2):
    def loss():
        optimizer.zero_grad()
        value = model(torch.ones(2, 5)).square().sum()
        value.backward()
        return value

    for _ in range(steps):
        optimizer.step(loss)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_any_optimizer_goes_on_bit_for_bit(tmp_path, kind):
    model, optimizer = build(kind, OPTIMIZERS[kind])
    train(model, optimizer)
    save(tmp_path / "model", model, optimizer)
    other = build(kind, OPTIMIZERS[kind])
    load(tmp_path / "model", *other)
    assert same(optimizer.state_dict(), other[1].state_dict())
    train(model, optimizer)
    train(*other)
    assert same(model.state_dict(), other[0].state_dict())
    assert same(optimizer.state_dict(), other[1].state_dict())


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_any_scheduler_goes_on(tmp_path, kind):
    def both():
        model, optimizer = build("SGD", {})
        scheduler = getattr(torch.optim.lr_scheduler, kind)(optimizer, **SCHEDULERS[kind])
        return model, optimizer, scheduler

    def go_on(optimizer, scheduler, values):
        rates = []
        for value in values:
            optimizer.step()
            scheduler.step(*([value] if kind == "ReduceLROnPlateau" else []))
            rates.append(optimizer.param_groups[0]["lr"])
        return rates

    model, optimizer, scheduler = both()
    go_on(optimizer, scheduler, [3, 2, 2])
    save(tmp_path / "model", model, optimizer, scheduler)
    other = both()
    load(tmp_path / "model", *other)
    assert scheduler.state_dict() == other[2].state_dict()
    assert go_on(*other[1:], [2, 2, 1, 1]) == go_on(optimizer, scheduler, [2, 2, 1, 1])


FIRST, SECOND = "first_moment", "second_moment"


@pytest.mark.parametrize(
    ("kind", "options", "roles"),
    [
        ("Adam", {"amsgrad": True}, {"exp_avg": FIRST, "exp_avg_sq": SECOND}),
        ("Adamax", {}, {"exp_avg": FIRST}),
        ("SGD", {"momentum": 0.9}, {"momentum_buffer": FIRST}),
        ("SGD", {}, {}),
        ("RMSprop", {"momentum": 0.9}, {"square_avg": SECOND}),
        ("RMSprop", {"centered": True}, {}),
        ("Adagrad", {}, {"sum": SECOND}),
        ("Adadelta", {}, {"square_avg": SECOND}),
        ("Rprop", {}, {}),
    ],
)
def test_moments_are_known_and_all_else_is_exact(kind, options, roles):
    model, optimizer = build(kind, options)
    train(model, optimizer)
    found = model_state(model)
    state = state_of("0", optimizer, found)
    assert {spec.name for spec in state.specs} == set(state.tensors)
    for spec in state.specs:
        _, _, parameter, key = spec.name.split("/")
        role = roles.get(key, "exact")
        assert (spec.role, spec.of) == (role, None if role == "exact" else f"weights/{parameter}")


def test_a_state_that_is_no_moment_by_its_shape_is_exact():
    model, optimizer = build("SGD", {"momentum": 0.9})
    train(model, optimizer)
    optimizer.state[model[0].bias]["momentum_buffer"] = torch.zeros(1)
    state = state_of("0", optimizer, model_state(model))
    roles = {spec.name: spec.role for spec in state.specs}
    assert roles["optimizer/0/0.bias/momentum_buffer"] == "exact"
    assert roles["optimizer/0/2.bias/momentum_buffer"] == FIRST


def test_states_lie_in_memory_as_their_parameters_do(tmp_path):
    def build():
        model = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
        return model, torch.optim.Adam(model.parameters())

    model, optimizer = build()
    model(torch.randn(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    save(tmp_path / "model", model, optimizer)
    other = build()
    load(tmp_path / "model", *other)
    moment, again = optimizer.state[model.weight], other[1].state[other[0].weight]
    assert moment["exp_avg"].stride() == again["exp_avg"].stride()
    assert not again["exp_avg"].is_contiguous()
    assert same(optimizer.state_dict(), other[1].state_dict())


class Single(torch.optim.Optimizer):
    """Keeps its state in other dtypes than the parameters', and some of it for all of them."""

    def __init__(self, parameters, lr=0.1):
        super().__init__(parameters, {"lr": lr, "scale": torch.tensor(2.0)})

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.float32)
                    state["codes"] = torch.zeros(3, dtype=torch.uint8)
                    state["nested"] = {"seen": 0, "window": [torch.zeros(2)]}
                state["exp_avg"].lerp_(parameter.grad.float(), 0.1)
                state["codes"] += 1
                state["nested"]["seen"] += 1
                with torch.no_grad():
                    parameter -= (group["lr"] * state["exp_avg"]).to(parameter.dtype)


def test_states_keep_their_own_dtypes(tmp_path):
    def build():
        model = nn.Linear(3, 2).bfloat16()
        return model, Single(model.parameters())

    model, optimizer = build()
    for _ in range(3):
        model(torch.ones(1, 3).bfloat16()).sum().backward()
        optimizer.step()
    save(tmp_path / "model", model, optimizer)
    other = build()
    load(tmp_path / "model", *other)
    assert same(optimizer.state_dict(), other[1].state_dict())
    stored = keras_lc.restore(tmp_path / "model", as_numpy=True).model
    assert stored["optimizer/0/weight/exp_avg"].dtype == "float32"
    assert stored["optimizer/0/groups/0/scale"] == 2
