"""The codecs a user can name, and rules that give tensors different ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from keras_lc.core.spec import Role
from keras_lc.errors import OptionError


@dataclass(frozen=True)
class Lossless:
    """Every bit of every tensor."""

    kinds: ClassVar[Mapping[Role, str]] = {}


@dataclass(frozen=True)
class Balanced:
    """Weights on a lattice, second moments as powers of two around rows and columns, first
    moments in units of the root of the second.

    Args:
        step: step of the weights' lattice, in root mean squares of the movement since the
            last checkpoint. The error of a weight is at most half a step.
        largest_share: the step never exceeds this share of the root mean square of the
            weights themselves, which matters while they still move far.
        moment_step: step of the first moment, in root mean squares of itself.
    """

    step: float = 2.0
    largest_share: float = 0.05
    moment_step: float = 1.5
    kinds: ClassVar[Mapping[Role, str]] = {
        "weight": "lattice",
        "first_moment": "first",
        "second_moment": "second",
    }

    def __post_init__(self) -> None:
        for option in ("step", "largest_share", "moment_step"):
            value = getattr(self, option)
            if not (isinstance(value, (int, float)) and 0 < value < math.inf):
                raise OptionError(f"Balanced({option}={value!r}): expected a positive number.")


@dataclass(frozen=True)
class LC:
    """LC-Checkpoint as published, for the weights; everything else bit for bit.

    Args:
        bits: `2**bits - 1` buckets are kept, 1 to 8.
    """

    bits: int = 2
    kinds: ClassVar[Mapping[Role, str]] = {"weight": "buckets"}

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or self.bits not in range(1, 9):
            raise OptionError(f"LC(bits={self.bits!r}): bits must be 1 to 8.")


Codec = Lossless | Balanced | LC
CodecLike = str | Codec | Mapping[str, "str | Codec"]

PRESETS: dict[str, Codec] = {"lossless": Lossless(), "balanced": Balanced(), "lc": LC()}


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
