"""What all verbs share: how figures are shown, and what becomes of errors.

Exit codes: 0 fine, 1 a wrong argument, or something that cannot be done, 2 damaged, 3 not found,
4 of a newer format, 130 interrupted.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from keras_lc.errors import CheckpointError, DamagedError, FormatError, NotFoundError
from keras_lc.figures import Figures

_CODES: dict[type[CheckpointError], int] = {DamagedError: 2, NotFoundError: 3, FormatError: 4}
_INTERRUPTED = 130


class Verbs(click.Group):
    """The verbs in the order in which they are defined."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def main(self, *args: Any, **options: Any) -> Any:
        """Run, and end the process with a code; never a traceback for what is foreseen."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _warn  # type: ignore[assignment]
                code = super().main(*args, **options | {"standalone_mode": False})
        except click.ClickException as error:
            error.show()
            code = 1
        except click.Abort:
            code = _INTERRUPTED
        except CheckpointError as error:
            click.echo(f"keras-lc: {error}", err=True)
            code = code_of(type(error))
        sys.exit(code)


def _warn(message: Warning | str, *rest: Any) -> None:
    click.echo(f"keras-lc: {message}", err=True)


def code_of(kind: type[CheckpointError] | None) -> int:
    """The exit code of a kind of error."""
    if kind is None:
        return 0
    return next((code for known, code in _CODES.items() if issubclass(kind, known)), 1)


def tell(figures: Figures, as_json: bool) -> int:
    """Show figures on stdout: as JSON, as a terminal can, or as plain columns; the exit code."""
    if as_json:
        click.echo(figures.json())
    elif sys.stdout.isatty():
        from keras_lc.figures import terminal

        terminal.show(figures)
    else:
        click.echo(str(figures))
    return code_of(figures.fault)


def _complete(ctx: click.Context, parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Checkpoints of the directory that is written so far; else what the shell knows of files."""
    from keras_lc.listing import list_checkpoints

    directory, slash, _ = start.rpartition("/")
    if not slash or not Path(directory).is_dir():
        return [CompletionItem(start, type="file")]
    names = [Path(info.path).name for info in list_checkpoints(directory)]
    every = [f"{directory}/{name}" for name in [*names, *(["latest", "best"] if names else [])]]
    found = [CompletionItem(name) for name in every if name.startswith(start)]
    return found or [CompletionItem(start, type="file")]


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def reference(name: str) -> Decorator:
    """An argument that is a checkpoint."""
    return click.argument(name, metavar=name.upper(), shell_complete=_complete)


def directory(name: str = "directory", default: str | None = None) -> Decorator:
    """An argument that is a directory of checkpoints."""
    shown = None if default is None else f"[{name.upper()}]"
    return click.argument(name, metavar=shown, default=default, required=default is None)


json_option = click.option("as_json", "--json", is_flag=True, help="JSON, as JSON.md describes it.")
dry_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
monitor_option = click.option("--monitor", metavar="METRIC", help="val_loss, if there is one.")


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="keras-lc")
def app() -> None:
    """Look into directories of checkpoints.

    REF is a path such as training/cp-0007, or the directory followed by latest, best, epoch:7,
    step:1200 or a unique start of a name: training/latest.
    """
