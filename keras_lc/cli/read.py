"""The verbs that read."""

from __future__ import annotations

from typing import Annotated

import typer

from keras_lc.cli.app import app, tell
from keras_lc.cli.arguments import AsJson, Directory, File, Files, Force, Monitor, Reference


@app.command()
def ls(
    directory: Directory = ".",
    monitor: Monitor = None,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Of a run, the checkpoints and not the stages.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the checkpoints of a directory, or the stages of a run, and damaged files."""
    from keras_lc.report.shown import listed

    tell(listed(directory, monitor, checkpoints), as_json)


@app.command()
def info(
    ref: Reference,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="Decode it, and list what is in it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Tell what a checkpoint is, what it builds on, and what is in it."""
    from keras_lc.report.detail import detail

    tell(detail(ref, tensors), as_json)


@app.command()
def verify(
    directory: Directory = ".",
    decode: Annotated[bool, typer.Option("--all", help="Decode every checkpoint, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read every file and compare its digest."""
    from keras_lc.report.integrity import verify

    tell(verify(directory, decode), as_json)


@app.command()
def diff(before: Reference, after: Reference, as_json: AsJson = False) -> None:
    """Compare two checkpoints, or plain files, tensor by tensor."""
    from keras_lc.report.difference import difference

    tell(difference(before, after), as_json)


@app.command()
def estimate(files: Files, as_json: AsJson = False) -> None:
    """Try each codec on plain files, without writing any."""
    from keras_lc.estimate import estimate

    tell(estimate(files), as_json)


@app.command()
def plot(directory: Directory, file: File, force: Force = False, as_json: AsJson = False) -> None:
    """Draw sizes, metrics and movements as .png, .svg or .pdf."""
    from keras_lc.report.plot import plot

    tell(plot(directory, file, force), as_json)


@app.command()
def report(
    directory: Directory,
    file: File,
    monitor: Monitor = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write a page to share, with table, plots and chains."""
    from keras_lc.report.page import page

    tell(page(directory, file, monitor, force), as_json)
