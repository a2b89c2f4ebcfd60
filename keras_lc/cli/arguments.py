"""The arguments that several verbs have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _completed(start: str) -> list[str]:
    """Checkpoints of the directory that is written so far; the shell itself adds files."""
    from keras_lc.listing import list_checkpoints

    directory, slash, _ = start.rpartition("/")
    if not slash or not Path(directory).is_dir():
        return []
    names = [Path(info.path).name for info in list_checkpoints(directory)]
    every = [f"{directory}/{name}" for name in [*names, *(["latest", "best"] if names else [])]]
    return [name for name in every if name.startswith(start)]


_REFERENCE = (
    "training/cp-0007, or training/ and latest, best, epoch:7, step:1200 or a unique start."
)

Directory = Annotated[str, typer.Argument(metavar="DIR", help="Directory of checkpoints.")]
Reference = Annotated[str, typer.Argument(help=_REFERENCE, autocompletion=_completed)]
File = Annotated[str, typer.Argument(help="File to write.")]
Files = Annotated[list[str], typer.Argument(metavar="FILE", help="Files to read.")]
Target = Annotated[str, typer.Option("--to", metavar="DIR", help="Directory to write.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, as JSON.md describes it.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")]
Monitor = Annotated[str | None, typer.Option(metavar="METRIC", help="val_loss, if there is one.")]
