"""The codecs a user can name, and rules that give tensors different ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Literal

from keras_lc.core.spec import Role
from keras_lc.errors import OptionError


@dataclass(frozen=True)
class Lossless:
    """Every bit of every tensor."""

    kinds: ClassVar[Mapping[Role, str]] = {}


@dataclass(frozen=True)
class Balanced:
    """Weights on a lattice, second moments as powers of two around rows and columns, first
    moments in units of the root of the second; of matrices, what has moved most.

    Args:
        tolerance: error of the weights (root mean square), in units of their movement since
            the last checkpoint. First moments may be wrong by as much, as what they will do
            to the weights.
        largest_share: this error never exceeds this share of the root mean square of the
            weights themselves, which matters while they still move far.
        levels: whether second moments of matrices are followed one by one, or by their rows
            and columns alone.
        matrices: whether matrices are stored as outer products. Without them each value is
            stored on its own, which is faster and larger, and no more than half a step wrong.
    """

    tolerance: float = 0.6
    largest_share: float = 0.035
    levels: bool = True
    matrices: bool = True
    kinds: ClassVar[Mapping[Role, str]] = {
        "weight": "lattice",
        "first_moment": "first",
        "second_moment": "second",
    }

    def __post_init__(self) -> None:
        for option in ("tolerance", "largest_share"):
            value = getattr(self, option)
            if not (isinstance(value, (int, float)) and 0 < value < math.inf):
                raise OptionError(f"Balanced({option}={value!r}): expected a positive number.")


@dataclass(frozen=True)
class LC:
    """LC-Checkpoint as published, for the weights; everything else bit for bit.

    Args:
        bits: `2**bits - 1` buckets are kept, 1 to 8.
        table: `"tensor"` or `"model"`, whether each tensor has buckets of its own.
    """

    bits: int = 2
    table: Literal["tensor", "model"] = "tensor"
    kinds: ClassVar[Mapping[Role, str]] = {"weight": "buckets"}

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or self.bits not in range(1, 9):
            raise OptionError(f"LC(bits={self.bits!r}): bits must be 1 to 8.")
        if self.table not in ("tensor", "model"):
            raise OptionError(f"LC(table={self.table!r}): use 'tensor' or 'model'.")


@dataclass(frozen=True)
class Int8:
    """Eight bits a value in blocks of 256, without reference; second moments as in `Balanced`,
    since one that is rounded to zero makes the next update explode."""

    kinds: ClassVar[Mapping[Role, str]] = {
        "weight": "blocks",
        "first_moment": "blocks",
        "second_moment": "second",
    }


Codec = Lossless | Balanced | LC | Int8
CodecLike = str | Codec | Mapping[str, "str | Codec"]

PRESETS: dict[str, Codec] = {
    "lossless": Lossless(),
    "balanced": Balanced(),
    "fast": Balanced(matrices=False),
    "smallest": Balanced(tolerance=0.72, largest_share=0.042, levels=False),
    "lc": LC(),
    "int8": Int8(),
}


def _one(codec: object) -> Codec:
    if isinstance(codec, Codec):
        return codec
    if isinstance(codec, str) and codec in PRESETS:
        return PRESETS[codec]
    raise OptionError(f"codec {codec!r} is not known; use one of {', '.join(PRESETS)}.")


def _name(codec: Codec) -> str:
    return next((name for name, preset in PRESETS.items() if preset == codec), repr(codec))


class Rules:
    """Which codec each tensor gets: one for all, or by pattern, first match wins.

    Example:
        >>> from keras_lc.core import Rules
        >>> rules = Rules({"optimizer/*": "lossless", "*": "balanced"})
        >>> rules.of("optimizer/3")
        Lossless()
    """

    def __init__(self, codec: CodecLike):
        rules = codec if isinstance(codec, Mapping) else {"*": codec}
        self._rules = [(str(pattern), _one(named)) for pattern, named in rules.items()]

    def __str__(self) -> str:
        if len(self._rules) == 1 and self._rules[0][0] == "*":
            return _name(self._rules[0][1])
        return ", ".join(f"{pattern}: {_name(codec)}" for pattern, codec in self._rules)

    def of(self, name: str) -> Codec:
        """The codec of the tensor called `name`."""
        for pattern, codec in self._rules:
            if fnmatchcase(name, pattern):
                return codec
        raise OptionError(
            f"no codec rule matches tensor {name!r}; end the rules with '*': 'balanced'."
        )
