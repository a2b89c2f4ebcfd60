"""The command as a user runs it, within this process."""

import contextlib
import io
import json
from dataclasses import dataclass
from typing import Any

from keras_lc.cli import main


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def rows(self) -> list[dict[str, str]]:
        """The table of the output, as a script would read it."""
        head, *body = (line.split() for line in self.lines)
        return [dict(zip(head, row, strict=False)) for row in body]


def keras_lc(*arguments: object, code: int = 0) -> Ran:
    """Run it; it must end with this code, and never with a traceback."""
    out, err = io.StringIO(), io.StringIO()
    ended = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main([str(argument) for argument in arguments])
    except SystemExit as end:
        ended = end.code or 0
    assert ended == code, (ended, out.getvalue(), err.getvalue())
    return Ran(code, out.getvalue(), err.getvalue())
