"""The verbs that read."""

from __future__ import annotations

import click

from keras_lc.cli.app import app, directory, json_option, monitor_option, reference, tell


@app.command()
@directory(default=".")
@monitor_option
@click.option("--checkpoints", is_flag=True, help="Of a run, the checkpoints and not the stages.")
@json_option
def ls(directory: str, monitor: str | None, checkpoints: bool, as_json: bool) -> int:
    """List the checkpoints of a directory, or the stages of a run, and damaged files."""
    from keras_lc.report.shown import listed

    return tell(listed(directory, monitor, checkpoints), as_json)


@app.command()
@reference("ref")
@click.option("--tensors", is_flag=True, help="Decode it, and list what is in it.")
@json_option
def info(ref: str, tensors: bool, as_json: bool) -> int:
    """Tell what a checkpoint is, what it builds on, and what is in it."""
    from keras_lc.report.detail import detail

    return tell(detail(ref, tensors), as_json)


@app.command()
@directory(default=".")
@click.option("decode", "--all", is_flag=True, help="Decode every checkpoint, too.")
@json_option
def verify(directory: str, decode: bool, as_json: bool) -> int:
    """Read every file and compare its digest."""
    from keras_lc.report.integrity import verify

    return tell(verify(directory, decode), as_json)


@app.command()
@reference("before")
@reference("after")
@json_option
def diff(before: str, after: str, as_json: bool) -> int:
    """Compare two checkpoints, or plain files, tensor by tensor."""
    from keras_lc.report.difference import difference

    return tell(difference(before, after), as_json)


@app.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False))
@json_option
def estimate(files: tuple[str, ...], as_json: bool) -> int:
    """Try each codec on plain files, without writing any."""
    from keras_lc.estimate import estimate

    return tell(estimate(files), as_json)


@app.command()
@directory()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@json_option
def plot(directory: str, file: str, force: bool, as_json: bool) -> int:
    """Draw sizes, metrics and movements as .png, .svg or .pdf."""
    from keras_lc.report.plot import plot

    return tell(plot(directory, file, force), as_json)


@app.command()
@directory()
@click.argument("file", type=click.Path(dir_okay=False))
@monitor_option
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@json_option
def report(directory: str, file: str, monitor: str | None, force: bool, as_json: bool) -> int:
    """Write a page to share, with table, plots and chains."""
    from keras_lc.report.page import page

    return tell(page(directory, file, monitor, force), as_json)
