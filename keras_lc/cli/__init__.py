"""The command `keras-lc`: a function a verb, which asks for figures and shows them."""

from __future__ import annotations

from keras_lc.cli import read, write
from keras_lc.cli.app import app, main

__all__ = ["app", "main", "read", "write"]
