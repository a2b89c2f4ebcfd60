"""Named arrays as a `.safetensors` file (https://github.com/huggingface/safetensors)."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

from keras_lc.errors import MismatchError

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
