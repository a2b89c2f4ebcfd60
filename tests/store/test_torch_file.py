"""Files of torch.save, read without torch."""

import contextlib
import io
import pickle
import sys
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from keras_lc.errors import CheckpointError, DamagedError, MismatchError
from keras_lc.store import torch_file

DTYPES = [
    *(torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
]


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def bits(tensor):
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def program(instructions, **entries):
    """A file with this pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", instructions)
        for name, content in entries.items():
            archive.writestr(f"a/data/{name[1:]}", content)
    return file.getvalue()


def number(value):
    return pickle.dumps(value, protocol=2)[2:-1]


def tensor(shape, strides, offset=0):
    """The instructions of a tensor of float32 in the first storage."""
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n"
        b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
        + number(offset)
        + number(shape)
        + number(strides)
        + b"\x89}tR"
    )


def mapping(**values):
    """The instructions of a mapping."""
    return (
        b"\x80\x02}" + b"".join(number(key) + value + b"s" for key, value in values.items()) + b"."
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3)], ids=str)
def test_every_bit_of_every_dtype(dtype, shape):
    wanted = (torch.randn(shape) * 9).abs().to(dtype)
    arrays, left = torch_file.read(saved({"a": {"b": wanted}}))
    assert left == ()
    assert list(arrays) == ["a/b"]
    found = arrays["a/b"]
    assert found.shape == shape
    assert found.dtype.name == str(dtype).removeprefix("torch.")
    assert found.tobytes() == bits(wanted)


@pytest.mark.parametrize("order", ["little", "big"])
def test_the_order_of_bytes_is_told(order):
    whole = saved({"a": torch.arange(4), "b": torch.ones(2).bool(), "c": 5})
    told = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as source, zipfile.ZipFile(told, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, order if name.endswith("byteorder") else content)
    arrays, _ = torch_file.read(told.getvalue())
    wanted = np.arange(4) if order == sys.byteorder else np.arange(4).byteswap()
    assert np.array_equal(arrays["a"], wanted)
    assert arrays["b"].all()
    assert arrays["c"] == 5


def test_views_of_a_storage():
    whole = torch.arange(24.0).reshape(4, 6)
    views = {
        "wide": whole[0, :1].expand(7),
        "t": whole.t(),
        "row": whole[2],
        "part": whole[1:3, ::2],
        "same": whole,
        "one": whole[3, 4],
    }
    arrays, _ = torch_file.read(saved(views))
    for name, view in views.items():
        assert np.array_equal(arrays[name], view.numpy()), name


def test_a_training():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "weight": model[0].weight,
        "epoch": 3,
        "best": float("inf"),
        "done": True,
        "none": None,
        "name": "a run",
        "big": 1 << 80,
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "path": io.StringIO,
    }
    arrays, left = torch_file.read(saved(content))
    for name, wanted in model.state_dict().items():
        assert arrays[f"model/{name}"].tobytes() == bits(wanted)
    state = optimizer.state_dict()["state"]
    assert arrays["optimizer/state/0/exp_avg_sq"].tobytes() == bits(state[0]["exp_avg_sq"])
    assert arrays["optimizer/param_groups/0/betas/1"] == 0.999
    assert arrays["weight"].tobytes() == bits(model[0].weight)
    assert (arrays["epoch"], arrays["best"], arrays["done"]) == (3, np.inf, True)
    assert arrays["epoch"].dtype == np.int64
    assert left == (
        "name (str)",
        "big (int)",
        "device (torch.device)",
        "dtype (torch.float16)",
        "path (_io.StringIO)",
    )


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(protocol):
    arrays, _ = torch_file.read(
        saved({"a": [torch.ones(2), torch.ones(3)]}, pickle_protocol=protocol)
    )
    assert arrays["a/1"].tobytes() == np.ones(3, "f4").tobytes()


def test_what_only_torch_can_read():
    with pytest.raises(MismatchError, match="sparse"):
        torch_file.read(saved(torch.eye(2).to_sparse()))
    with pytest.raises(DamagedError, match=r"before 1\.6"):
        torch_file.read(saved(torch.ones(2), _use_new_zipfile_serialization=False))
    with pytest.raises(MismatchError, match="two tensors 'a/b'"):
        torch_file.read(saved({"a": {"b": 1}, "a/b": 2}))


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("it was called",))


def test_nothing_is_called():
    arrays, left = torch_file.read(program(pickle.dumps({"a": Evil(), "b": 1}, protocol=2)))
    assert list(arrays) == ["b"]
    assert left[0].startswith("a (_pytest")


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((1 << 40,), (0,), 0),
        ((1 << 20, 1 << 44), (0, 0), 0),
        ((5,), (1,), 0),
        ((2,), (1,), 3),
        ((-2, -2), (1, 1), 0),
        ((2,), (1,), -1),
        ((2,), (4,), 0),
        ((2, 2), (1,), 0),
    ],
)
def test_a_tensor_lies_within_its_storage(shape, strides, offset):
    whole = program(mapping(w=tensor((4,), (1,))), _0=np.arange(4, dtype="f4").tobytes())
    assert np.array_equal(torch_file.read(whole)[0]["w"], np.arange(4))
    with pytest.raises(CheckpointError):
        torch_file.read(program(mapping(w=tensor(shape, strides, offset)), _0=bytes(16)))


@pytest.mark.parametrize(
    "instructions",
    [
        b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
        b"\x80\x02]q\x00h\x00a.",  # a list that holds itself
        b"\x80\x02K\x01" + b"q\x00h\x00\x86" * 40 + b".",  # pairs of one and the same
        b"\x80\x02)" + b"q\x00h\x00\x86" * 40 + b".",
        b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s.",  # a key of tuples within tuples
        b"\x80\x02})K\x01s.",
        b"\x80\x02}]K\x01s.",
        b"\x80\x02}K\x01K\x02K\x03(u.",
        b"\x80\x02.",
        b"\x80\x02N",
        b"\x80\x02h\x00.",
        b"\x80\x02t.",
        b"\x80\x02R.",
        b"\x80\x02K\x01K\x02R.",
        b"\x80\x02K\x01Q.",
        b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
        b"\x80\x02cos\nsystem\n\x81.",
        b"(dp0\n.",
        b"",
    ],
)
def test_hostile_instructions(instructions):
    with pytest.raises(CheckpointError):
        torch_file.read(program(instructions))


def test_an_archive_that_unfolds():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", mapping(w=tensor((4,), (1,))))
        archive.writestr("a/data/0", bytes(10_000_000))
    with pytest.raises(DamagedError, match="claims"):
        torch_file.read(file.getvalue())


def test_a_folded_archive_that_is_damaged():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", mapping(**{f"w{i}": b"K\x01" for i in range(99)}))
        archive.writestr("a/data/0", np.random.default_rng(0).bytes(4000))
    data = file.getvalue()
    assert len(torch_file.read(data)[0]) == 99
    for place in range(40, 300):
        with contextlib.suppress(CheckpointError):
            torch_file.read(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])


def test_tensors_that_share_their_bytes_too_often():
    content = bytes(4 * 4000)
    few = mapping(**{f"w{i}": tensor((4000,), (1,)) for i in range(9)})
    assert len(torch_file.read(program(few, _0=content))[0]) == 9
    many = mapping(**{f"w{i}": tensor((4000,), (1,)) for i in range(999)})
    with pytest.raises(DamagedError, match="claim"):
        torch_file.read(program(many, _0=content))


def test_every_truncation_and_every_flipped_bit_of_a_small_file():
    data = saved({"a": torch.arange(3.0), "b": {"c": torch.ones(2, dtype=torch.int8)}})
    wanted = {name: array.tobytes() for name, array in torch_file.read(data)[0].items()}
    for end in range(0, len(data), 7):
        with pytest.raises(CheckpointError):
            torch_file.read(data[:end])
    rng = np.random.default_rng(0)
    for place in rng.choice(len(data), 600, replace=False):
        broken = bytearray(data)
        broken[place] ^= 1 << rng.integers(8)
        try:
            arrays, _ = torch_file.read(bytes(broken))
        except CheckpointError:
            continue
        for name, array in arrays.items():  # the sums of the archive tell all but names of entries
            assert array.tobytes() in wanted.values(), (place, name)


@given(st.binary(max_size=60))
@settings(deadline=None)
def test_any_instructions(instructions):
    with contextlib.suppress(CheckpointError):
        torch_file.read(program(b"\x80\x02" + instructions + b"."))
