"""The command as a user runs it, within this process."""

import json
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner

from keras_lc.cli import app


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
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, SystemExit | None), result.exception
    assert result.exit_code == code, (result.exit_code, result.output)
    return Ran(result.exit_code, result.stdout, result.stderr)
