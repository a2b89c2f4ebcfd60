"""Tensors where they are: on the host, and on a CUDA device if there is one."""

import pytest
import torch
from torch import nn
from torch_training import same

from keras_lc.torch import Checkpointer, load, save

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NO_CUDA)])
def device(request):
    return torch.device(request.param)


class Training:
    def __init__(self, device):
        torch.manual_seed(1)
        self.device = device
        layers = nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 3)
        self.model = nn.Sequential(*layers).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)

    def train(self, steps):
        losses = []
        for _ in range(steps):
            x = torch.randn(16, 8, device=self.device)
            self.optimizer.zero_grad()
            loss = (self.model(x).sum(1) - x.sum(1)).square().mean()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return losses


def test_a_training_goes_on_bit_for_bit(tmp_path, device):
    training = Training(device)
    with Checkpointer(tmp_path, codec="lossless") as checkpointer:
        for step in range(1, 7):
            training.train(1)
            checkpointer.save(training.model, training.optimizer, epoch=0, step=step)
    losses = training.train(5)
    other = Training(device)
    with Checkpointer(tmp_path, codec="lossless") as checkpointer:
        checkpointer.restore_latest(other.model, other.optimizer)
    assert other.train(5) == losses
    assert same(other.model.state_dict(), training.model.state_dict())
    assert same(other.optimizer.state_dict(), training.optimizer.state_dict())


def test_what_comes_after_a_save_is_not_in_it(tmp_path, device):
    model = nn.Linear(512, 512).to(device)
    with Checkpointer(tmp_path, codec="lossless") as checkpointer:
        for step in range(1, 4):
            with torch.no_grad():
                for _ in range(50):  # work that a device has still to do
                    model.weight.copy_(model.weight @ model.weight.T / 64)
                model.weight.fill_(step)
                checkpointer.save(model, epoch=0, step=step)
                model.weight.fill_(-1.0)
        for step in (3, 1, 2):
            checkpointer.restore(f"cp-{step:06d}", model)
            assert (model.weight == step).all()


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool]
)
def test_every_bit_of_tensors_of_any_kind(tmp_path, device, dtype):
    whole = (torch.randn(6, 10, device=device) * 3).to(dtype)
    module = nn.Module()
    views = {"whole": whole, "turned": whole.t(), "every_other": whole[:, ::2]}
    for name, tensor in [*views.items(), ("number", whole[2, 3]), ("empty", whole[:0])]:
        module.register_buffer(name, tensor)
    wanted = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    save(tmp_path / "one", module)
    for tensor in module.buffers():
        tensor.zero_()
    load(tmp_path / "one", module)
    assert same(module.state_dict(), wanted)


@NO_CUDA
@pytest.mark.parametrize(("first", "then"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_state_goes_from_one_device_to_another(tmp_path, first, then):
    training = Training(torch.device(first))
    training.train(2)
    with Checkpointer(tmp_path, codec="lossless") as checkpointer:
        checkpointer.save(training.model, training.optimizer, epoch=0, step=2)
        other = Training(torch.device(then))
        checkpointer.restore_latest(other.model, other.optimizer)
    ours = {name: tensor.cpu() for name, tensor in training.model.state_dict().items()}
    theirs = {name: tensor.cpu() for name, tensor in other.model.state_dict().items()}
    assert same(ours, theirs)
    assert {tensor.device.type for tensor in other.model.state_dict().values()} == {then}
    other.train(1)


@NO_CUDA
def test_copies_land_in_pinned_memory(device):
    from keras_lc.capture.torch.tensors import TensorBuffers

    buffers = TensorBuffers()
    tensors = {"a": torch.ones(1000, device=device), "b": torch.ones(3)}
    first, complete = buffers.copy(tensors)
    complete()
    second, complete = buffers.copy(tensors)
    complete()
    assert (second["a"] == 1).all()
    assert second["a"].ctypes.data == first["a"].ctypes.data  # the same memory again
    assert device.type == "cpu" or buffers._pinned["a"].is_pinned()
