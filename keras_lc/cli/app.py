"""What all verbs share: how figures are shown, and what becomes of errors.

Exit codes: 0 fine, 1 a wrong argument, or something that cannot be done, 2 damaged, 3 not found,
4 of a newer format, 130 interrupted.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from keras_lc import __version__
from keras_lc.errors import CheckpointError, DamagedError, FormatError, NotFoundError
from keras_lc.figures import Figures

_CODES: dict[type[CheckpointError], int] = {DamagedError: 2, NotFoundError: 3, FormatError: 4}
_USAGE = 2  # Typer's own code for a wrong argument

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class Told(SystemExit):
    """The end of a verb that has shown its figures, and has a code of its own."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, and end the process with a code; no traceback for what is foreseen."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = _warn  # type: ignore[assignment]
            app(arguments, prog_name="keras-lc")
    except CheckpointError as error:
        typer.echo(f"keras-lc: {error}", err=True)
        sys.exit(code_of(type(error)))
    except Told:
        raise
    except SystemExit as end:
        sys.exit(1 if end.code == _USAGE else end.code)


def _warn(message: Warning | str, *rest: object) -> None:
    typer.echo(f"keras-lc: {message}", err=True)


def code_of(kind: type[CheckpointError] | None) -> int:
    """The exit code of a kind of error."""
    if kind is None:
        return 0
    return next((code for known, code in _CODES.items() if issubclass(kind, known)), 1)


def tell(figures: Figures, as_json: bool) -> None:
    """Show figures on stdout: as JSON, as a terminal can, or as plain columns.

    Raises:
        Told: there is a fault among them.
    """
    if as_json:
        typer.echo(figures.json())
    elif sys.stdout.isatty():
        from keras_lc.figures import terminal

        terminal.show(figures)
    else:
        typer.echo(str(figures))
    if figures.fault is not None:
        raise Told(code_of(figures.fault))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"keras-lc {__version__}")
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Tell the version.")
    ] = False,
) -> None:
    """Look into directories of checkpoints."""
