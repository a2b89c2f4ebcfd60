"""File path templates: where a checkpoint goes and what it is called."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from string import Formatter
from typing import Any

from keras_lc.errors import TemplateError
from keras_lc.listing import strip_suffix
from keras_lc.store import index, locate

_ANGLE = re.compile(r"<(epoch|batch)((?::[^<>{}]*)?)>")


class Template:
    """A path such as `training/cp-{epoch:04d}`, filled in as Keras does.

    Args:
        filepath: text, path or URL; `{epoch}`, `{batch}` and the names of logs are replaced.
            `<epoch:04d>` is another spelling of `{epoch:04d}`. A suffix that Keras would ask
            for (`.weights.h5`, `.keras`, `.h5`, `.ckpt`) may be there and is left out.

    Raises:
        TemplateError: the braces do not match, or there is no file name that can be used.
    """

    def __init__(self, filepath: str | os.PathLike[str]):
        self.text = _ANGLE.sub(r"{\1\2}", os.fsdecode(filepath))
        try:
            list(Formatter().parse(self.text))
        except ValueError as error:
            raise TemplateError(
                f"the filepath {self.text!r} is no valid template: {error}. Write fields as in "
                "'training/cp-{epoch:04d}'."
            ) from error
        head, tail = locate.split(self.text)
        if not strip_suffix(tail):
            raise TemplateError(
                f"the filepath {self.text!r} names a directory; add a file name, for example "
                f"{os.path.join(self.text, 'cp-{epoch:04d}')!r}."
            )
        if not tail.startswith("{"):
            index.check_name(tail)  # at once, and not after the first epoch
        fields = {field for _, field, _, _ in Formatter().parse(self.text)}
        self.tells_batch = "batch" in fields
        self.directory = None if "{" in head else head
        self._name = re.compile(
            "".join(
                re.escape(literal) + ("" if field is None else ".+")
                for literal, field, _, _ in Formatter().parse(strip_suffix(tail))
            )
            + r"(-b\d+)?"
        )

    def fill(self, epoch: int, batch: int | None, logs: Mapping[str, Any]) -> str:
        """The path for a save; `epoch` and `batch` count from 0, as in Keras' callbacks.

        Raises:
            TemplateError: a field is neither `epoch`, `batch` (when saving by batches) nor a
                name in `logs`, or its format does not suit the value.
        """
        fields: dict[str, Any] = {**logs, "epoch": epoch + 1}
        if batch is not None:
            fields.setdefault("batch", batch + 1)
        try:
            return self.text.format(**fields)
        except (KeyError, IndexError) as error:
            raise TemplateError(
                f'Failed to format this callback filepath: "{self.text}". Reason: {error}; '
                f"known when saving are {', '.join(sorted(fields))}. No checkpoint was written."
            ) from error
        except (ValueError, TypeError, AttributeError) as error:
            raise TemplateError(
                f"the filepath {self.text!r} cannot be filled in: {error}."
            ) from error

    def fill_within(self, epoch: int, batch: int, logs: Mapping[str, Any]) -> str:
        """The path for a save in the middle of an epoch, which the template need not know of:
        without `{batch}` it gets `-b` and the number of batches, logs not yet known are NaN."""
        names = {field for _, field, _, _ in Formatter().parse(self.text) if field}
        unknown = dict.fromkeys(names, math.nan)
        path = self.fill(epoch, batch, unknown | {"batch": batch + 1} | dict(logs))
        if self.tells_batch:
            return path
        name = locate.split(path)[1]
        return f"{path.removesuffix(name)}{strip_suffix(name)}-b{batch + 1:04d}"

    def fits(self, name: str) -> bool:
        """Whether a checkpoint of this name may have come from this template."""
        return self._name.fullmatch(name) is not None


def split(path: str) -> tuple[str, str]:
    """Directory and checkpoint name of a filled-in path."""
    directory, name = locate.split(path)
    return directory, strip_suffix(name)
