"""The command `keras-lc`: a function a verb, which asks for figures and shows them."""

from __future__ import annotations

from keras_lc.cli import read, write
from keras_lc.cli.app import app

__all__ = ["app", "main", "read", "write"]


def main() -> None:
    """Run the command; it ends the process with one of the codes of `app`."""
    app(prog_name="keras-lc")
