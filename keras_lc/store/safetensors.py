"""Named arrays as a `.safetensors` file (https://github.com/huggingface/safetensors)."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from keras_lc.dtypes import parse_dtype
from keras_lc.errors import DamagedError, MismatchError

_LENGTH = struct.Struct("<Q")
_ALIGN = 8
_DTYPES = {
    "bool": "BOOL",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
}
_NAMES = {code: name for name, code in _DTYPES.items()}
_MAX_HEADER = 100_000_000  # bytes, the limit of the format


def write(file: BinaryIO, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays, the widest dtypes first so that each is aligned.

    Raises:
        MismatchError: an array is of a dtype that the format does not know.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    end = 0
    for name in names:
        array = arrays[name]
        if array.dtype.name not in _DTYPES:
            raise MismatchError(
                f"{name!r} is of {array.dtype}, which a .safetensors file cannot hold; export to "
                ".weights.h5 or .keras."
            )
        begin, end = end, end + array.nbytes
        header[name] = {
            "dtype": _DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // _ALIGN) * _ALIGN)
    file.write(_LENGTH.pack(len(text)) + text)
    for name in names:
        array = arrays[name]
        little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        file.write(little.reshape(-1).view(np.uint8).data)


def read(data: memoryview) -> dict[str, np.ndarray]:
    """The arrays of a file, as views of its bytes.

    Raises:
        DamagedError: it is not of this format, or a tensor does not lie within it.
    """
    try:
        (length,) = _LENGTH.unpack_from(data)
        if length > min(_MAX_HEADER, len(data) - _LENGTH.size):
            raise DamagedError(f"its header claims {length} bytes.")
        header = json.loads(bytes(data[_LENGTH.size : _LENGTH.size + length]))
        body = data[_LENGTH.size + length :]
        header.pop("__metadata__", None)
        return {str(name): _array(row, body) for name, row in header.items()}
    except (struct.error, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DamagedError(f"it is no .safetensors file: {error!r}") from error


def _array(row: Mapping[str, Any], body: memoryview) -> np.ndarray:
    begin, end = row["data_offsets"]
    if not 0 <= begin <= end <= len(body):
        raise DamagedError(f"a tensor lies at {begin} to {end} of {len(body)} bytes.")
    dtype = parse_dtype(_NAMES[row["dtype"]])
    return np.frombuffer(body[begin:end], np.uint8).view(dtype).reshape(row["shape"])
