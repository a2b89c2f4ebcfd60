"""JSON.md and what is printed hold the same keys."""

import re
from pathlib import Path

import pytest

import keras_lc as package
from tests.cli.commands import keras_lc

TEXT = (Path(package.__file__).parent / "JSON.md").read_text()
ROWS = dict(re.findall(r"^\| (`[a-z`, ]+`) \| (`.+) \|$", TEXT, re.MULTILINE))
DOCUMENTED = {
    verb: set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", keys)))
    for verbs, keys in ROWS.items()
    for verb in re.findall(r"`(\w+)`", verbs)
}


def keys_of(document):
    """All keys, of objects in lists as well; those of mappings by name are values."""
    found = set()
    for key, value in document.items():
        found.add(key)
        for item in value if isinstance(value, list) else ():
            found |= keys_of(item) if isinstance(item, dict) else set()
    return found


@pytest.fixture
def arguments(training, tmp_path):
    keras_lc("export", training / "cp-0001", tmp_path / "a1.weights.h5")
    keras_lc("export", training / "cp-0002", tmp_path / "a2.weights.h5")
    files = [tmp_path / "a1.weights.h5", tmp_path / "a2.weights.h5"]
    return {
        "ls": [training],
        "info": [training / "latest", "--tensors"],
        "diff": [training / "latest", training / "best"],
        "verify": [training],
        "estimate": files,
        "plot": [training, tmp_path / "p.png"],
        "report": [training, tmp_path / "p.html"],
        "export": [training / "latest", tmp_path / "x.npz"],
        "import": [*files, "--to", tmp_path / "imported"],
        "convert": [training, "--to", tmp_path / "converted", "--codec", "fast"],
        "pack": [training],
        "unpack": [training],
        "prune": [training, "--keep-last", 1],
    }


def test_every_verb_prints_the_keys_that_are_documented(arguments):
    assert arguments.keys() == DOCUMENTED.keys()
    shown = keras_lc("--help").out
    assert all(re.search(rf"^│ {verb} ", shown, re.M) for verb in arguments)
    assert len(re.findall(r"^│ \w", shown.partition("Commands")[2], re.M)) == len(arguments)
    for verb, words in arguments.items():
        document = keras_lc(verb, *words, "--json").json
        assert document.pop("schema") == 1
        assert document.pop("verb") == verb
        wanted = DOCUMENTED[verb] - ({"ls"} if verb == "report" else set())
        assert keys_of(document) == wanted, verb
