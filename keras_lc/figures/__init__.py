"""What is told of checkpoints, in one shape for a terminal, for scripts, as JSON, and as HTML.

An object of figures is a dataclass: its fields are its JSON. How people see it are its `parts`,
lines and tables, which `text`, `terminal` and `html` write down.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, ClassVar

from keras_lc.errors import CheckpointError

SCHEMA = 1


class Note(str):
    """A line for people, left out where a program reads."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        key: of the value in a row.
        title: its head.
        show: a value, not None, to what people read.
        right: whether it is aligned to the right.
    """

    key: str
    title: str
    show: Callable[[Any], str] = str
    right: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of values by key; what is None is shown as empty, a row `marked` stands out as bad."""

    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    marked: frozenset[int] = frozenset()


class Figures:
    """Base of all figures; a subclass is a frozen dataclass."""

    verb: ClassVar[str]

    def parts(self) -> Iterator[str | Table]:
        """Lines and tables, in their order."""
        raise NotImplementedError

    @property
    def fault(self) -> type[CheckpointError] | None:
        """The worst that was met, where that kept no figures from being given."""
        return None

    def document(self) -> dict[str, Any]:
        """The fields as JSON values."""
        own = {field.name for field in fields(self)}  # type: ignore[arg-type]
        values = asdict(self)  # type: ignore[call-overload]
        plain = {name: _plain(value) for name, value in values.items() if name in own}
        return {"schema": SCHEMA, "verb": self.verb, **plain}

    def json(self) -> str:
        """The document as text; strict, so that NaN is a text too."""
        return json.dumps(self.document(), indent=1, allow_nan=False)

    def __str__(self) -> str:
        from keras_lc.figures import text

        return text.render(self)

    def _repr_html_(self) -> str:
        from keras_lc.figures import html

        return html.render(self)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
