"""What the documents show is run as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import models
import pytest

import keras_lc

ROOT = Path(__file__).parent.parent


def blocks(name):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.S | re.M)


PAGES = {"README.md": 5, "tutorial/README.md": 1}


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = blocks(page)
    assert len(shown) == PAGES[page]
    x, y = models.X, models.Y
    names = {"x": x, "y": y, "build": models.dense, "model": models.dense(), **vars(keras_lc)}
    for name in keras_lc.__all__:
        names[name] = getattr(keras_lc, name)
    for code in shown:
        exec(code.replace("epochs=128", "epochs=8, verbose=0"), names)
    assert keras_lc.latest_checkpoint("training") == "training/cp-0008"


@pytest.mark.slow
def test_the_quickstart_shows_eight_checkpoints_and_a_picture():
    run = subprocess.run(
        [sys.executable, ROOT / "examples" / "quickstart.py"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert "SIGKILL in the middle of epoch 6" in run.stdout
    assert re.search(r"restored .*cp-0005", run.stdout)
    rows = re.findall(r"^cp-000\d +(base|delta) ", run.stdout, re.M)
    assert rows == ["base"] + 7 * ["delta"]
    picture = ROOT / "examples" / "quickstart" / "quickstart.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
