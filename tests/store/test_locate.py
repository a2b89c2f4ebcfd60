from __future__ import annotations

import os
from pathlib import Path

import pytest

from keras_lc.store.directory import LocalDirectory
from keras_lc.store.locate import directory_at, split
from keras_lc.store.remote import RemoteDirectory


class Where(os.PathLike[str]):
    def __fspath__(self) -> str:
        return "a/b"


@pytest.mark.parametrize(
    ("path", "child"),
    [
        ("a/b", "a/b/cp"),
        ("a/b/", "a/b/cp"),
        (Path("a/b"), "a/b/cp"),
        (Where(), "a/b/cp"),
        ("/a", "/a/cp"),
        ("", "./cp"),
        ("file:///a/b", "/a/b/cp"),
        ("local:///a/b", "/a/b/cp"),
        ("file://a/b", "a/b/cp"),
        ("a:b", "a:b/cp"),
        ("c:/b", "c:/b/cp"),
    ],
)
def test_a_path_is_a_local_directory(path: str, child: str) -> None:
    place = directory_at(path)
    assert isinstance(place, LocalDirectory)
    assert place.child("cp") == child


@pytest.mark.parametrize(
    ("url", "child"),
    [
        ("memory://a/b", "memory://a/b/cp"),
        ("memory://a/b//", "memory://a/b/cp"),
        ("memory://", "memory://cp"),
        ("simplecache::memory://a", "simplecache::memory://a/cp"),
    ],
)
def test_a_url_is_a_remote_directory(url: str, child: str) -> None:
    place = directory_at(url)
    assert isinstance(place, RemoteDirectory)
    assert place.child("cp") == child


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("a/b/cp", ("a/b", "cp")),
        ("cp", ("", "cp")),
        ("/cp", ("/", "cp")),
        ("memory://a/b/cp", ("memory://a/b", "cp")),
        ("memory://cp", ("memory://", "cp")),
        ("file:///cp", ("file:///", "cp")),
        ("s3://bucket/{epoch}/cp", ("s3://bucket/{epoch}", "cp")),
    ],
)
def test_a_path_or_url_splits_into_directory_and_name(path: str, parts: tuple[str, str]) -> None:
    assert split(path) == parts
