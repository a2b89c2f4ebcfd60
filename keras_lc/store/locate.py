"""Paths and URLs, as users write them, to directories."""

from __future__ import annotations

import os
import re
from pathlib import Path

from keras_lc.store.directory import Directory, LocalDirectory
from keras_lc.store.remote import RemoteDirectory

_URL = re.compile(r"[A-Za-z][\w+.:-]+://")
_LOCAL = re.compile(r"^(file|local)://")


def directory_at(path: str | os.PathLike[str]) -> Directory:
    """The directory of a path or URL.

    Raises:
        StoreError: it is a URL that cannot be used here.

    Example:
        >>> from keras_lc.store.locate import directory_at
        >>> directory_at("file:///scratch/training").child("cp-0001")
        '/scratch/training/cp-0001'
    """
    text = _LOCAL.sub("", os.fspath(path))
    return RemoteDirectory(text) if _URL.match(text) else LocalDirectory(Path(text))


def split(path: str) -> tuple[str, str]:
    """The directory of a path or URL, and the name in it."""
    url = _URL.match(path)
    if url is None:
        return os.path.split(path)
    head, slash, name = path[url.end() :].rpartition("/")
    return url[0] + (head or slash), name
