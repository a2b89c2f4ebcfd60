"""The verbs that write."""

from __future__ import annotations

from typing import Annotated

import typer

from keras_lc.cli.app import app, tell
from keras_lc.cli.arguments import (
    AsJson,
    Directory,
    DryRun,
    File,
    Files,
    Force,
    Monitor,
    Reference,
    Target,
)

Codec = Annotated[str, typer.Option(help="A preset, as for training.")]


@app.command()
def export(ref: Reference, file: File, force: Force = False, as_json: AsJson = False) -> None:
    """Write a checkpoint as .weights.h5, .keras, .safetensors, .npz or .pt."""
    from keras_lc.report.changes import exported

    tell(exported(ref, file, force), as_json)


@app.command()
def pack(directory: Directory, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Join the deltas of each base into one file."""
    from keras_lc.report.changes import repacked

    tell(repacked(directory, dry_run=dry_run), as_json)


@app.command()
def unpack(directory: Directory, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Give each delta of the packs a file of its own."""
    from keras_lc.report.changes import repacked

    tell(repacked(directory, apart=True, dry_run=dry_run), as_json)


@app.command()
def prune(
    directory: Directory,
    keep_last: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Keep the N newest.")
    ] = None,
    keep_best: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Keep the N best by the metric.")
    ] = None,
    keep_every: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="Keep the ends of every K-th epoch.")
    ] = None,
    monitor: Monitor = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Delete what no rule keeps and nothing that is kept needs."""
    from keras_lc.prune import prune

    tell(prune(directory, keep_last, keep_best, keep_every, monitor, dry_run), as_json)


@app.command("import")
def import_(
    files: Files, target: Target, codec: Codec = "lossless", as_json: AsJson = False
) -> None:
    """Store .weights.h5, .keras, .safetensors or .pt files as a chain."""
    from keras_lc.rewrite import import_files

    tell(import_files(files, target, codec), as_json)


@app.command()
def convert(directory: Directory, target: Target, codec: Codec, as_json: AsJson = False) -> None:
    """Store a directory in another one, with another codec."""
    from keras_lc.rewrite import convert

    tell(convert(directory, target, codec), as_json)
