import copy

import pytest
import torch
from torch import nn
from torch_training import same

import keras_lc
from keras_lc.capture.torch.model import state_of
from keras_lc.capture.torch.tensors import TensorBuffers, array_of, assign, tensor_of
from keras_lc.errors import OptionError
from keras_lc.torch import Checkpointer, load

FLOATS = [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.complex64]
EIGHT = [getattr(torch, name) for name in dir(torch) if name.startswith("float8_")]
WHOLE = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16]


def of(dtype, *shape):
    return (torch.rand(*shape) * 7).to(dtype)


def named(dtype):
    return str(dtype).replace("torch.", "of_")


def shifted(tensor):
    """Other values of the same dtype."""
    return torch.roll(tensor.detach().reshape(-1), 1).reshape(tensor.shape)


def zoo():
    """A module with a buffer of each dtype and of odd layouts."""
    torch.manual_seed(0)
    model = nn.Module()
    for dtype in [*FLOATS, *EIGHT, *WHOLE]:
        model.register_buffer(named(dtype), of(dtype, 3, 4))
    model.weight = nn.Parameter(torch.randn(4, 3).t())
    model.halves = nn.Parameter(torch.randn(3, 4).bfloat16())
    model.scalar = nn.Parameter(torch.tensor(1.5))
    model.empty = nn.Parameter(torch.zeros(0, 3))
    model.register_buffer("last", torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last))
    model.register_buffer("spread", torch.arange(3.0).expand(2, 3))
    model.register_buffer("conjugate", torch.randn(3, dtype=torch.complex64).conj())
    model.register_buffer("every_other", torch.arange(10)[::2])
    model.register_buffer("unsaved", torch.ones(2), persistent=False)
    return model


def test_tensors_of_any_dtype_and_layout(tmp_path):
    model = zoo()
    kept = []
    with Checkpointer(tmp_path, codec="lossless") as checkpointer:
        for step in range(3):
            checkpointer.save(model, epoch=0, step=step)
            kept.append({key: value.clone() for key, value in model.state_dict().items()})
            for key, value in model.state_dict().items():
                if key != "spread":
                    value.copy_(shifted(value))
        for step in (2, 0, 1):
            other = zoo()
            checkpointer.restore(f"cp-{step:06d}", other)
            assert same(other.state_dict(), kept[step])
            assert [t.stride() for t in other.state_dict().values()] == [
                t.stride() for t in model.state_dict().values()
            ]
    stored = keras_lc.restore(tmp_path / "cp-000002", as_numpy=True).model
    assert stored["buffers/of_bfloat16"].dtype.name == "bfloat16"
    assert stored["weights/empty"].shape == (0, 3)
    assert "buffers/unsaved" not in stored


@pytest.mark.parametrize("dtype", [*FLOATS, *EIGHT, *WHOLE], ids=str)
def test_arrays_and_tensors(dtype):
    tensor = of(dtype, 2, 3)
    for seen in (tensor, tensor.t(), tensor[0, 0], tensor[:0]):
        array = array_of(seen)
        assert array.dtype.name == str(dtype).removeprefix("torch.")
        again = tensor_of(array)
        assert same(again, seen.clone())
        target = torch.zeros_like(seen)
        assign(target, array)
        assert same(target, seen.clone())


def test_buffers_are_kept_and_the_state_is_copied():
    buffers = TensorBuffers()
    tensors = {"small": torch.ones(3), "large": torch.ones(100_000)}
    first, ready = buffers.copy(tensors)
    ready()
    for tensor in tensors.values():
        tensor.add_(1)
    assert all(array.max() == 1 for array in first.values())
    second, _ = buffers.copy(tensors)
    assert all(second[name] is first[name] for name in tensors)
    third, _ = buffers.copy({"small": torch.ones(4)})
    assert third["small"].shape == (4,)


def test_what_is_given_away_is_not_overwritten():
    buffers = TensorBuffers()
    tensors = {"small": torch.ones(3), "large": torch.ones(100_000)}
    first, _ = buffers.copy(tensors)
    buffers.give(buffers.names)
    for tensor in tensors.values():
        tensor.add_(1)
    second, _ = buffers.copy(tensors)
    assert all(array.max() == 1 for array in first.values())
    assert all(array.min() == 2 for array in second.values())


def test_tensors_that_no_array_can_hold_are_named(tmp_path):
    model = nn.Linear(1, 1)
    model.register_buffer("odd", torch.ones(3, 3).to_sparse())
    with pytest.raises(OptionError, match=r"'buffers/odd', a Tensor of .* cannot be stored"):
        Checkpointer(tmp_path).save(model, epoch=0, step=0)


def test_prefixes_of_wrappers_do_not_leak_into_names(tmp_path):
    def build():
        return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))

    model = build()
    plain = list(state_of(model).tensors)
    wrapped = copy.deepcopy(model)
    wrapped[0] = torch.compile(wrapped[0], backend="eager")
    wrapped[1] = nn.DataParallel(wrapped[1])
    wrapped = torch.compile(nn.DataParallel(wrapped), backend="eager")
    assert list(state_of(wrapped).tensors) == plain
    assert plain[0] == "weights/0.weight"
    optimizer = torch.optim.SGD(wrapped.parameters(), momentum=0.9)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(wrapped, optimizer, epoch=0, step=0)
    other = build()
    load(tmp_path / "cp-000000", other, torch.optim.SGD(other.parameters(), momentum=0.9))
    assert same(other.state_dict(), model.state_dict())


def test_keys_that_look_like_paths_stay_names(tmp_path):
    model = nn.Module()
    for key in ("a", "a/b", "~%2Fc", "50%", "%2F"):
        model.register_parameter(key, nn.Parameter(torch.randn(2)))
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(model, epoch=0, step=0)
        before = copy.deepcopy(model.state_dict())
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        checkpointer.restore_latest(model)
    assert same(model.state_dict(), before)
