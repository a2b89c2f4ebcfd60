"""What `torch.save` has written, read without torch and without unpickling.

A `.pt` file is a ZIP archive: the bytes of each storage, and a pickle that puts them together
(https://docs.pytorch.org/docs/stable/notes/serialization.html). Of the pickle only those
instructions are followed that build mappings, sequences, numbers, texts and tensors. What it names
besides is never looked up, imported or called: it is left out, and told.
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_lc.dtypes import parse_dtype
from keras_lc.errors import CheckpointError, DamagedError, MismatchError

_STORAGES = {
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",  # of which the tensor itself tells the dtype
}
_DTYPES = {  # those that have the same name in numpy or ml_dtypes
    *_STORAGES.values(),
    *("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"),
}
_NUMBERS = {bool: "bool", int: "int64", float: "float64"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, type] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING"),
}
_KEYS = (str, int, float, type(None))
# What archives and files that are broken, or made to break their reader, can lead to.
FAULTS = (
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError),
    *(OSError, EOFError, struct.error, zipfile.BadZipFile, zlib.error),
)
_SHARED = 16  # times that the bytes of a file are told at most, by tensors that share them


@dataclass(frozen=True)
class _Named:
    """A class or function that the pickle names, or what it would make of it."""

    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in values


def read(data: bytes) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The arrays of a file, by their places in its mappings, and what is left out.

    Numbers are arrays without dimensions; texts, and what only torch or Python could make, are left
    out.

    Raises:
        DamagedError: it is not of this format, or a tensor does not lie within its storage.
        MismatchError: a tensor is sparse or quantized, or two would have one name.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _Reader(archive, len(data)).read()
    except zipfile.BadZipFile as error:
        raise DamagedError(
            "it is no ZIP archive of torch.save; what torch before 1.6 saved has to be loaded and "
            "saved again."
        ) from error
    except CheckpointError:
        raise
    except FAULTS as error:
        raise DamagedError(f"it is nothing that torch.save writes: {error!r}") from error


class _Reader:
    def __init__(self, archive: zipfile.ZipFile, nbytes: int) -> None:
        names = archive.namelist()
        root = next((n for n in names if n.endswith("data.pkl")), None)
        if root is None:
            raise DamagedError("it is a ZIP archive, but none of torch.save.")
        self._archive, self._nbytes = archive, nbytes
        self._root = root.removesuffix("data.pkl")
        self._held: dict[str, bytes] = {}
        order = f"{self._root}byteorder" in names and self._bytes("byteorder").decode()
        self._swapped = bool(order) and order != sys.byteorder

    def read(self) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        program = self._bytes("data.pkl")
        arrays: dict[str, np.ndarray] = {}
        left: list[str] = []
        claimed = 0
        for count, (place, value) in enumerate(_leaves(_built(program), "")):
            if count > len(program):  # each takes an instruction, unless they share mappings
                raise DamagedError("its mappings hold each other.")
            if isinstance(value, _Tensor):
                array = self._array(value, place)
            elif type(value) in _NUMBERS and not (type(value) is int and value.bit_length() > 63):
                array = np.asarray(value, _NUMBERS[type(value)])
            elif value is None:
                continue
            else:
                left.append(f"{place} ({getattr(value, 'name', type(value).__name__)})")
                continue
            claimed += array.nbytes
            if claimed > _SHARED * self._nbytes:
                raise DamagedError(f"its tensors claim more than {claimed} bytes.")
            if place in arrays:
                raise MismatchError(f"there are two tensors {place!r}.")
            swapped = self._swapped and isinstance(value, _Tensor)
            arrays[place] = array.byteswap() if swapped else array
        return arrays, tuple(left)

    def _bytes(self, name: str) -> bytes:
        info = self._archive.getinfo(self._root + name)
        if info.file_size > self._nbytes:  # unfolded
            raise DamagedError(f"{info.filename!r} claims {info.file_size} bytes.")
        return self._archive.read(info)

    def _array(self, tensor: _Tensor, place: str) -> np.ndarray:
        dtype, content = parse_dtype(tensor.dtype), self._content(tensor.storage.key)
        start = tensor.offset * dtype.itemsize if math.prod(tensor.shape) else 0
        strides = [stride * dtype.itemsize for stride in tensor.strides]
        try:
            return np.ndarray(tensor.shape, dtype, content, start, strides)
        except (ValueError, TypeError) as error:
            raise DamagedError(
                f"{place!r} of {tensor.shape} does not lie within {len(content)} bytes: {error}"
            ) from error

    def _content(self, key: str) -> bytes:
        """The bytes of a storage, which several tensors may share."""
        if key not in self._held:
            self._held[key] = self._bytes(f"data/{key}")
        return self._held[key]


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """The values by their places; for a mapping or sequence None, and then what it holds."""
    if isinstance(value, (dict, list, tuple)):
        yield place, None
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _leaves(item, f"{place}/{key}" if place else str(key))
    else:
        yield place or "tensor", value


def _built(program: bytes) -> Any:
    """What the instructions build."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def above() -> list[Any]:
        """What lies above the newest mark, taken from the stack."""
        start = marks.pop()
        taken = stack[start:]
        del stack[start:]
        return taken

    for instruction, argument, _ in pickletools.genops(program):
        name = instruction.name
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(above()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack[-int(name[-1]) :] = [tuple(stack[-int(name[-1]) :])]
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("SETITEM", "SETITEMS"):
            items = above() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            if not all(isinstance(key, _KEYS) for key in items[::2]):
                raise DamagedError("a key of a mapping is neither text nor number.")
            if isinstance(stack[-1], dict):
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name in ("APPEND", "APPENDS"):
            items = above() if name == "APPENDS" else [stack.pop()]
            if isinstance(stack[-1], list):
                stack[-1].extend(items)
        elif name == "GLOBAL":
            stack.append(_Named(str(argument).replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            stack[-2:] = [_Named(f"{stack[-2]}.{stack[-1]}")]
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = stack.pop()
            stack.append(_made(stack.pop(), arguments))
        elif name == "BUILD":
            stack.pop()  # attributes: of a state_dict the versions of its modules
        elif name == "BINPERSID":
            stack.append(_storage(*stack.pop()))
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise DamagedError(f"it is no file of tensors: {name} is not followed.")
    (result,) = stack
    return result


def _storage(kind: str, of: _Named, key: str, device: str, count: int) -> _Storage:
    return _Storage(key, _STORAGES[of.name.rpartition(".")[2]])


def _made(function: _Named, arguments: tuple[Any, ...]) -> Any:
    """What a function makes, of those that matter; of all others only the name is kept."""
    match function.name:
        case "collections.OrderedDict" | "collections.defaultdict":
            return {}  # filled by instructions that follow
        case "torch.Size":
            return tuple(*arguments)
        case "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state":
            return arguments[0]
        case "torch._utils._rebuild_tensor_v2":
            storage, offset, shape, strides = arguments[:4]
            return _tensor(storage, storage.dtype, offset, shape, strides)
        case "torch._utils._rebuild_tensor_v3":
            storage, offset, shape, strides, _, _, dtype = arguments[:7]
            return _tensor(storage, dtype.name.removeprefix("torch."), offset, shape, strides)
        case name if name.startswith("torch._utils._rebuild_"):
            raise MismatchError(f"it holds a tensor of {name}, which cannot be stored.")
        case name:
            return _Named(name)


def _tensor(storage: _Storage, dtype: str, offset: Any, shape: Any, strides: Any) -> _Tensor:
    numbers = [offset, *shape, *strides]
    if dtype not in _DTYPES or not all(type(number) is int for number in numbers):
        raise MismatchError(f"it holds a tensor of {dtype} and {numbers}, which cannot be stored.")
    return _Tensor(storage, dtype, offset, tuple(shape), tuple(strides))
