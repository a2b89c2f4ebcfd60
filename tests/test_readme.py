"""What the documents show is run as it stands."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import models
import pytest

import keras_lc
from keras_lc import cli

ROOT = Path(__file__).parent.parent


def blocks(page, language):
    """Code of a page that is fenced as one of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M)


# Python, lines of a session, lines of a shell
PAGES = {"README.md": (6, 0, 0), "tutorial/README.md": (6, 4, 2)}


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, sessions, shell = (blocks(page, name) for name in ("python", "pycon", "console"))
    assert (len(code), len(sessions), len(shell)) == PAGES[page]
    x, y = models.X, models.Y
    names = {"x": x, "y": y, "build": models.dense, "model": models.dense()}
    for name in keras_lc.__all__:
        names[name] = getattr(keras_lc, name)
    for block in code:
        exec(block.replace("epochs=128", "epochs=8, verbose=0"), names)
    assert keras_lc.latest_checkpoint("training") == "training/cp-0008"
    session = doctest.DocTestParser().get_doctest("".join(sessions), {}, page, page, 0)
    assert doctest.DocTestRunner().run(session).failed == 0
    for command in re.findall(r"^\$ keras-lc (.*)", "".join(shell), re.M):
        with pytest.raises(SystemExit) as end:
            cli.app(command.split())
        assert end.value.code == 0, command


def test_every_file_that_the_tutorial_points_to_is_there():
    text = (ROOT / "tutorial" / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (ROOT / "tutorial" / target).exists(), target


@pytest.mark.slow
def test_the_table_of_formats_is_what_is_found():
    pytest.importorskip("tensorflow")
    run = subprocess.run(
        [sys.executable, ROOT / "tutorial" / "formats.py"],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    printed = [row for row in run.stdout.splitlines() if row.startswith("| ")]
    shown = re.findall(r"^\| .*\|$", (ROOT / "tutorial" / "README.md").read_text(), re.M)
    without_bytes = [row.rsplit("|", 2)[0] for row in shown]
    assert len(printed) >= 7
    for row in printed:
        assert row.rsplit("|", 2)[0] in without_bytes


def test_the_picture_of_the_tutorial_is_drawn(tmp_path):
    from tutorial import how_it_works

    how_it_works.main(tmp_path / "drawn.svg")
    assert "<svg" in (tmp_path / "drawn.svg").read_text()
