from __future__ import annotations

import builtins
import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_lc.errors import CheckpointError
from keras_lc.loader import latest_checkpoint, load_named
from keras_lc.store import base, files, record
from keras_lc.store.locate import directory_at
from tests.toy import HEADER, LAYOUT, forge, memory_growth, run, same, walk

DTYPES = st.sampled_from(
    ["<f2", "<f4", "<f8", "<i1", "<i8", "<u4", "?", "<c8", "S3", "<U2", "bfloat16", "float8_e4m3fn"]
)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    dtype = draw(DTYPES.map(base.parse_dtype))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    size = int(np.prod(shape)) * dtype.itemsize
    if dtype.kind in "Ub":  # not every pattern of bits is one of these
        return draw(hnp.arrays(dtype, shape))
    return np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype).reshape(shape)


def read(path: Path) -> base.Base:
    with open(path, "rb") as file:
        frame = record.read_frame(file)
        assert frame is not None
        file.seek(0)
        return base.read(record.Checked(file, frame))


def write(path: Path, *contents: Any) -> str:
    return base.write(directory_at(path.parent), path.name, *contents)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("base") / "x.weights.h5"


@given(st.dictionaries(st.from_regex(r"[a-z]{1,3}/[0-9]", fullmatch=True), arrays(), max_size=4))
@settings(deadline=None, max_examples=60)
def test_a_base_gives_back_every_bit(scratch: Path, state: dict[str, np.ndarray]) -> None:
    about = {"labels": dict.fromkeys(state, "ä")}
    digest = write(scratch, {"a": 1}, state, {}, about)
    found = read(scratch)
    assert same(found.arrays, state)
    assert found.about == about
    assert scratch.read_bytes()[-32:].hex() == digest


def test_keras_finds_its_arrays_where_the_layout_says_and_each_is_stored_once(
    scratch: Path,
) -> None:
    state = walk(1)[0] | {"extra": np.arange(3, dtype=ml_dtypes.bfloat16)}
    write(scratch, HEADER, state, LAYOUT | {"half/vars/0": "extra"}, {})
    with h5py.File(scratch, "r") as h5:
        assert np.array_equal(h5["layers/dense/vars/0"][()], state["weights/0"])
        assert h5["metrics/vars/0"][()] == np.float32(0.5)
        assert h5["half/vars/0"].attrs["dtype"] == "bfloat16"
        assert list(h5["keras_lc/state"]) == ["seeds", "weights"]
    assert same(read(scratch).arrays, state)


def test_a_plain_hdf5_reader_opens_a_base_and_its_first_bytes_are_the_magic(tmp_path: Path) -> None:
    run(tmp_path, walk(1))
    path = tmp_path / "cp-0001.weights.h5"
    assert path.read_bytes()[:8] == record.MAGIC
    assert h5py.is_hdf5(path)


def test_keras_itself_loads_a_base_written_from_a_layout(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    state = walk(1)[0]
    layout: dict[str, str | np.ndarray] = {
        "layers/dense/vars/0": "weights/0",
        "layers/dense/vars/1": "weights/1",
    }
    path = tmp_path / "cp.weights.h5"
    write(path, HEADER, state, layout, {})
    model.load_weights(path)
    assert path.read_bytes()[:8] == record.MAGIC
    assert np.array_equal(model.get_weights()[0], state["weights/0"])
    assert np.array_equal(model.get_weights()[1], state["weights/1"])


def test_a_header_over_one_block_moves_the_hdf5_part(scratch: Path) -> None:
    for size in (0, 400, 500, 1000, 5000):
        write(scratch, {"x": "a" * size}, walk(1)[0], LAYOUT, {})
        assert same(read(scratch).arrays, walk(1)[0])
        assert h5py.is_hdf5(scratch)


def table(change: Callable[[list[list[Any]]], Any]) -> Callable[[h5py.File], None]:
    """Alters the table of tensors."""

    def alter(h5: h5py.File) -> None:
        document = json.loads(h5["keras_lc/table"][()].tobytes())
        tensors = change(document["tensors"])
        put(h5, json.dumps(document | {"tensors": tensors}).encode())

    return alter


def column(number: int, value: Any) -> Callable[[h5py.File], None]:
    """Puts a value into the first row of the table: 0 name, 1 dtype, 2 shape, 3 place."""

    def change(rows: list[list[Any]]) -> list[list[Any]]:
        rows[0][number] = value
        return rows

    return table(change)


def put(h5: h5py.File, text: bytes) -> None:
    del h5["keras_lc/table"]
    h5["keras_lc/table"] = np.frombuffer(text, np.uint8)


def text(data: bytes) -> Callable[[h5py.File], None]:
    return lambda h5: put(h5, data)


def replaced(place: str, make: Callable[[h5py.File, str], Any]) -> Callable[[h5py.File], None]:
    """Another object where a dataset was."""

    def alter(h5: h5py.File) -> None:
        del h5[place]
        made = make(h5, place)
        if made is not None:
            h5[place] = made

    return alter


def virtual(h5: h5py.File, place: str) -> None:
    layout = h5py.VirtualLayout((3, 4), "<f4")
    layout[...] = h5py.VirtualSource(h5.filename, "layers/dense/vars/0", (3, 4), "<f4")
    h5.create_virtual_dataset(place, layout)


def external(h5: h5py.File, place: str) -> None:
    h5.create_dataset(place, (3, 4), "<f4", external=[("/etc/passwd", 0, 48)])


def object_type(h5: h5py.File, place: str) -> None:
    h5.create_dataset(place, (3, 4), h5py.vlen_dtype(np.int8))


def sparse(shape: tuple[int, ...]) -> Callable[[h5py.File, str], None]:
    """A dataset of any size that takes no room in the file."""

    def make(h5: h5py.File, place: str) -> None:
        h5.create_dataset(place, shape, "u1", chunks=tuple(min(n, 4096) for n in shape))

    return make


def empty_with_shape(shape: list[Any]) -> Callable[[h5py.File], None]:
    def alter(h5: h5py.File) -> None:
        del h5[WEIGHT]
        h5.create_dataset(WEIGHT, (0,), "<f4")
        for number, row in enumerate(names(h5)):
            if row[3] == WEIGHT:
                shape_of(h5, number, shape)

    return alter


def names(h5: h5py.File) -> list[list[Any]]:
    return json.loads(h5["keras_lc/table"][()].tobytes())["tensors"]


def shape_of(h5: h5py.File, number: int, shape: list[Any]) -> None:
    document = json.loads(h5["keras_lc/table"][()].tobytes())
    document["tensors"][number][2] = shape
    put(h5, json.dumps(document).encode())


def amplified(h5: h5py.File) -> None:
    h5["keras_lc/state/large"] = np.zeros(1 << 20, np.uint8)
    rows = names(h5)
    rows += [[f"x/{i}", "|u1", [1 << 20], "keras_lc/state/large"] for i in range(200)]
    put(h5, json.dumps({"tensors": rows, "about": {}}).encode())


WEIGHT = "layers/dense/vars/0"
HOSTILE: dict[str, Callable[[h5py.File], None]] = {
    **{
        f"shape {shape!r}": column(2, shape)
        for shape in (
            [2**63, 2**63],
            [2**31, 4],
            [-3, -4],
            [-1],
            ["3", 4],
            [3.0, 4.0],
            [None],
            None,
            5,
            "34",
            {},
            [[3], [4]],
            [1] * 100,
        )
    },
    **{
        f"empty of shape {shape!r}": empty_with_shape(shape)
        for shape in ([2**63, 0], [2**70, 0], [0, 2**31, 2**31, 2**31])
    },
    **{
        f"dtype {dtype!r}": column(1, dtype)
        for dtype in (
            5,
            None,
            [],
            {},
            ["<f4"],
            "O",
            "|O",
            "object",
            "V8",
            "<f4,<f4",
            "S0",
            "U0",
            "U999999999",
            "bfloat99",
            "float8_",
            "bfloat16.__class__",
            "<M8[s]",
            "",
            "x",
            "<f8",
        )
    },
    **{
        f"place {place!r}": column(3, place)
        for place in (
            None,
            5,
            [],
            {},
            "",
            "/",
            ".",
            "..",
            "../../x",
            "/etc/passwd",
            "keras_lc",
            "no/such",
            "a\0b",
            "x" * 100_000,
        )
    },
    **{f"name {name!r}": column(0, name) for name in ([], {})},
    "no table": lambda h5: h5.__delitem__("keras_lc/table"),
    "tensors of one name": table(lambda rows: [*rows, rows[0]]),
    "rows too short": table(lambda rows: [row[:3] for row in rows]),
    "rows are numbers": table(lambda rows: [1, 2]),
    "rows are text": table(lambda rows: ["abcd"]),
    "tensors is null": table(lambda rows: None),
    "tensors is a number": table(lambda rows: 2**63),
    "table is a list": text(b"[]"),
    "table is deep": text(b"[" * 200_000),
    "table has no about": text(b'{"tensors":[]}'),
    "about is a list": text(b'{"tensors":[],"about":[1]}'),
    "about is text": text(b'{"tensors":[],"about":"xy"}'),
    "table is empty": text(b" "),
    "table is binary": text(b"\xff\x00"),
    "table is a long number": text(b"9" * 5000),
    "table is a group": replaced("keras_lc/table", lambda h5, at: h5.create_group(at) and None),
    "table is a string": replaced("keras_lc/table", lambda h5, at: "text"),
    "table is bytes": replaced("keras_lc/table", lambda h5, at: np.bytes_(b"{}")),
    "table is null": replaced("keras_lc/table", lambda h5, at: h5py.Empty("u1")),
    "table is large": replaced("keras_lc/table", sparse((1 << 28,))),
    "table is huge": replaced("keras_lc/table", sparse((1 << 45,))),
    "table is virtual": replaced("keras_lc/table", virtual),
    "table is external": replaced("keras_lc/table", external),
    "tensor is huge": replaced(WEIGHT, sparse((1 << 20, 1 << 20))),
    "tensor is a group": replaced(WEIGHT, lambda h5, at: h5.create_group(at) and None),
    "tensor is null": replaced(WEIGHT, lambda h5, at: h5py.Empty("<f4")),
    "tensor is text": replaced(WEIGHT, lambda h5, at: "text"),
    "tensor is virtual": replaced(WEIGHT, virtual),
    "tensor is external": replaced(WEIGHT, external),
    "tensor is of objects": replaced(WEIGHT, object_type),
    "tensor is a dangling link": replaced(WEIGHT, lambda h5, at: h5py.SoftLink("/no/such")),
    "tensor is a ring of links": replaced(WEIGHT, lambda h5, at: h5py.SoftLink("/" + WEIGHT)),
    "tensor is a soft link": replaced(WEIGHT, lambda h5, at: h5py.SoftLink("/optimizer/vars/1")),
    "tensors are one many times": amplified,
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_base_is_refused_without_taking_memory(tmp_path: Path, attack: str) -> None:
    run(tmp_path, walk(1))
    forge(tmp_path / "cp-0001.weights.h5", HOSTILE[attack])

    def attempt() -> None:
        with pytest.raises(CheckpointError):
            load_named(tmp_path / "cp-0001")
        with pytest.raises(CheckpointError):
            latest_checkpoint(tmp_path)

    assert memory_growth(attempt) < 64 << 20


@pytest.mark.parametrize("through", ["link", "group link"])
def test_a_base_never_reads_another_file(tmp_path: Path, through: str) -> None:
    run(tmp_path, walk(1))
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as h5:
        h5[WEIGHT] = np.full((3, 4), 42, np.float32)
    path = tmp_path / "cp-0001.weights.h5"
    if through == "link":
        forge(path, replaced(WEIGHT, lambda h5, at: h5py.ExternalLink(str(secret), WEIGHT)))
    else:
        forge(path, replaced("layers", lambda h5, at: h5py.ExternalLink(str(secret), "layers")))
    with pytest.raises(CheckpointError):
        load_named(tmp_path / "cp-0001")


def test_compressed_and_chunked_datasets_of_the_right_size_are_read(tmp_path: Path) -> None:
    state = walk(1)[0]
    run(tmp_path, [state])

    def compress(h5: h5py.File) -> None:
        content = h5[WEIGHT][()]
        del h5[WEIGHT]
        h5.create_dataset(WEIGHT, data=content, compression="gzip", chunks=(2, 2))

    forge(tmp_path / "cp-0001.weights.h5", compress)
    assert same(load_named(tmp_path / "cp-0001").decoder.reconstruction, state)


def test_a_sample_of_flips_and_truncations_never_restores_a_wrong_array(tmp_path: Path) -> None:
    state = walk(1)[0]
    run(tmp_path, [state])
    path = tmp_path / "cp-0001.weights.h5"
    whole = path.read_bytes()
    rng = np.random.default_rng(5)
    damaged = [whole[:n] for n in rng.integers(0, len(whole), 100)]
    for n, bit in zip(rng.integers(0, len(whole), 300), rng.integers(0, 8, 300), strict=True):
        damaged.append(whole[:n] + bytes([whole[n] ^ 1 << bit]) + whole[n + 1 :])
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(CheckpointError):
            load_named(tmp_path / "cp-0001")
    path.write_bytes(whole)
    assert same(load_named(tmp_path / "cp-0001").decoder.reconstruction, state)


def test_a_base_is_written_and_read_where_locks_of_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network file systems may refuse the locks that HDF5 asks for when given a path."""
    handles = []

    def opened(path: Path, mode: str) -> Any:
        file = builtins.open(path, mode)  # noqa: SIM115
        handles.append(os.open(path, os.O_RDWR))
        fcntl.flock(handles[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file

    state = walk(1)[0]
    with monkeypatch.context() as patch:
        patch.setattr(files, "open", opened, raising=False)
        run(tmp_path, [state])
    assert handles
    with pytest.raises(OSError, match="lock"):
        h5py.File(tmp_path / "cp-0001.weights.h5", "r", locking=True)
    assert same(load_named(tmp_path / "cp-0001").decoder.reconstruction, state)
    for handle in handles:
        os.close(handle)
