"""The verbs that write."""

from __future__ import annotations

import click

from keras_lc.cli.app import (
    app,
    directory,
    dry_option,
    json_option,
    monitor_option,
    reference,
    tell,
)

_count = click.IntRange(1)


@app.command()
@reference("ref")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@json_option
def export(ref: str, file: str, force: bool, as_json: bool) -> int:
    """Write a checkpoint as .weights.h5, .keras, .safetensors or .npz."""
    from keras_lc.report.changes import exported

    return tell(exported(ref, file, force), as_json)


@app.command()
@directory()
@dry_option
@json_option
def pack(directory: str, dry_run: bool, as_json: bool) -> int:
    """Join the deltas of each base into one file."""
    from keras_lc.report.changes import repacked

    return tell(repacked(directory, dry_run=dry_run), as_json)


@app.command()
@directory()
@dry_option
@json_option
def unpack(directory: str, dry_run: bool, as_json: bool) -> int:
    """Give each delta of the packs a file of its own."""
    from keras_lc.report.changes import repacked

    return tell(repacked(directory, apart=True, dry_run=dry_run), as_json)


@app.command()
@directory()
@click.option("--keep-last", type=_count, metavar="N", help="Keep the N newest.")
@click.option("--keep-best", type=_count, metavar="N", help="Keep the N best by the metric.")
@click.option("--keep-every", type=_count, metavar="K", help="Keep the ends of every K-th epoch.")
@monitor_option
@dry_option
@json_option
def prune(
    directory: str,
    keep_last: int | None,
    keep_best: int | None,
    keep_every: int | None,
    monitor: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Delete what no rule keeps and nothing that is kept needs."""
    from keras_lc.prune import prune

    return tell(prune(directory, keep_last, keep_best, keep_every, monitor, dry_run), as_json)


@app.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False))
@click.option("--to", "target", required=True, metavar="DIR", help="Directory to write.")
@click.option("--codec", default="lossless", show_default=True, help="A preset, as for training.")
@json_option
def import_(files: tuple[str, ...], target: str, codec: str, as_json: bool) -> int:
    """Store .weights.h5, .keras or .safetensors files as a chain."""
    from keras_lc.rewrite import import_files

    return tell(import_files(files, target, codec), as_json)


@app.command()
@directory()
@click.option("--to", "target", required=True, metavar="DIR", help="Directory to write.")
@click.option("--codec", required=True, help="A preset, as for training.")
@json_option
def convert(directory: str, target: str, codec: str, as_json: bool) -> int:
    """Store a directory in another one, with another codec."""
    from keras_lc.rewrite import convert

    return tell(convert(directory, target, codec), as_json)
